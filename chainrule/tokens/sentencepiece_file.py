"""A SentencePiece model (tokenizer.model) as the files of a Hugging Face tokenizer. Knows no weights.

Byte-pair models (Llama, Mistral, Gemma, Phi-3) are described as a GGUF describes them. The one unigram model that a
family of ours has, XLM-RoBERTa's, is built as transformers builds it: its first four ids are not the file's.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chainrule.errors import MissingPackageError, ModelError
from chainrule.storage.gguf import GGUFFile
from chainrule.tokens.gguf_tokenizer import UNUSED, USER_DEFINED, Vocabulary
from chainrule.tokens.settings import Files, setting

NAMES = ("tokenizer.model", "sentencepiece.bpe.model")
_UNIGRAM, _BYTE_PAIRS = 1, 2  # trainer_spec.model_type
_SPACE = "▁"  # how SentencePiece writes one
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")  # XLM-RoBERTa's; the file begins with <unk>, <s>, </s>


def files_of(directory: Path, files: Files, config: Mapping[str, Any]) -> dict[str, bytes]:
    """`files` with the tokenizer.json that they lack, and settings where there are none. `config`: of the model.

    Raises MissingPackageError without the package sentencepiece, ModelError for a file that is damaged and for a model
    whose ids are not known to be the file's.
    """
    name = next(name for name in NAMES if name in files)
    path = directory / name
    model = _parsed(path, files[name])
    settings = setting(files, "tokenizer_config.json")
    if model.trainer_spec.treat_whitespace_as_suffix or not model.normalizer_spec.escape_whitespaces:
        raise ModelError(f"{path}: wanted spaces as ▁ in front of words, got a model that has them elsewhere")
    if model.trainer_spec.model_type == _BYTE_PAIRS:
        spec, made = _byte_pairs(path, model, settings)
    elif model.trainer_spec.model_type == _UNIGRAM and _is_xlm_roberta(settings, config):
        spec, made = _xlm_roberta(model)
    else:
        raise ModelError(
            f"{path}: wanted a byte-pair model, or XLM-RoBERTa's, got another: if transformers can read it,"
            " AutoTokenizer.from_pretrained(...).save_pretrained(...) writes a tokenizer.json"
        )
    # From another class transformers would not read tokenizer.json, but make one by rules that are not the file's.
    told = {**made, **settings, "tokenizer_class": made["tokenizer_class"]}
    return {
        **files,
        "tokenizer.json": json.dumps(spec, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(told, ensure_ascii=False, indent=2).encode() + b"\n",
    }


def _parsed(path: Path, content: bytes) -> Any:
    """The file as the package's own description of its format reads it."""
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2  # its classes are made at import
    except ImportError:
        raise MissingPackageError(
            f'{path}: wanted the package sentencepiece, which reads it: pip install "chainrule[sentencepiece]"'
        ) from None
    model: Any = vars(sentencepiece_model_pb2)["ModelProto"]()
    try:
        model.ParseFromString(content)
    except DecodeError:
        model.Clear()
    if not model.pieces:
        raise ModelError(f"{path}: wanted a SentencePiece model, got a file that is cut or another; fetch it again")
    return model


def _is_xlm_roberta(settings: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    named = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    return named == "XLMRobertaTokenizer" or (not named and config.get("model_type") == "xlm-roberta")


def _byte_pairs(path: Path, model: Any, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json of a byte-pair model, whose ids are the file's."""
    trained, rules = model.trainer_spec, model.normalizer_spec
    # Spaces in a text become ▁ before it is looked for, so one with a space is never found.
    types = [UNUSED if piece.type == USER_DEFINED and " " in piece.piece else piece.type for piece in model.pieces]
    ids = {"bos": trained.bos_id, "eos": trained.eos_id, "unknown": trained.unk_id, "padding": trained.pad_id}
    vocabulary = Vocabulary(
        GGUFFile(
            path,
            {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.tokens": [piece.piece for piece in model.pieces],
                "tokenizer.ggml.scores": [piece.score for piece in model.pieces],
                "tokenizer.ggml.token_type": types,
                "tokenizer.ggml.add_space_prefix": rules.add_dummy_prefix,
                "tokenizer.ggml.add_bos_token": settings.get("add_bos_token", True) is True and trained.bos_id >= 0,
                "tokenizer.ggml.add_eos_token": settings.get("add_eos_token", False) is True,
                **{f"tokenizer.ggml.{role}_token_id": id for role, id in ids.items() if id >= 0},
            },
            {},
        )
    )
    spec = vocabulary.tokenizer_json()
    spec["normalizer"]["normalizers"][:0] = _normalised(rules)
    for token in spec["added_tokens"]:
        if _SPACE in token["content"] and not token["special"]:  # to be looked for when spaces are ▁ already
            if rules.add_dummy_prefix:
                raise ModelError(
                    f"{path}: wanted user-defined tokens without spaces in a model that puts a space in front, got"
                    f" {token['content']!r}, which is not supported"
                )
            token["normalized"] = True
    return spec, vocabulary.settings()


def _normalised(rules: Any) -> list[dict[str, Any]]:
    """What is done to a text before its spaces become ▁."""
    found: list[dict[str, Any]] = []
    if rules.precompiled_charsmap:
        found.append(_charsmap(rules))
    if rules.remove_extra_whitespaces:
        found.append({"type": "Strip", "strip_left": True, "strip_right": True})
        found.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return found


def _charsmap(rules: Any) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(rules.precompiled_charsmap).decode()}


def _xlm_roberta(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of XLM-RoBERTa's."""
    pieces = [(token, 0.0) for token in _FIRST] + [(piece.piece, piece.score) for piece in model.pieces[3:]]
    pieces.append(("<mask>", 0.0))
    words = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    flags = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
    special = {**{token: id for id, token in enumerate(_FIRST)}, "<mask>": len(pieces) - 1}
    ends = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>")]
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": token, "lstrip": token == "<mask>", **flags} for token, id in special.items()
        ],
        "normalizer": _charsmap(model.normalizer_spec) if model.normalizer_spec.precompiled_charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, words]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ends[0], one, ends[1]],
            "pair": [ends[0], one, ends[1], ends[1], other, ends[1]],
            "special_tokens": {
                token: {"id": token, "ids": [special[token]], "tokens": [token]} for token in ("<s>", "</s>")
            },
        },
        "decoder": words,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }
    roles = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    return spec, {"tokenizer_class": "XLMRobertaTokenizer", **{f"{role}_token": token for role, token in roles.items()}}
