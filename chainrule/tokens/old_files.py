"""Tokenizers saved before there was tokenizer.json: vocab.json with merges.txt, or vocab.txt. Knows no model.

How a text is cut, and which special tokens surround it, follows from the class in tokenizer_config.json, or else from
the model's type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from chainrule.errors import ModelError
from chainrule.tokens import bytepair
from chainrule.tokens.settings import Files, named, setting

_END = "<|endoftext|>"
_ROBERTA = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
# A class without the ending Tokenizer or TokenizerFast -> its special tokens by their roles.
_SPECIAL: Mapping[str, Mapping[str, str]] = {
    "GPT2": {"unk": _END, "bos": _END, "eos": _END},
    "Roberta": _ROBERTA,
    "Qwen2": {"eos": _END, "pad": _END},
    "Bert": _BERT,
    "DistilBert": _BERT,
}
_CLASSES = {  # model_type -> its tokenizer's class, where tokenizer_config.json names none
    **dict.fromkeys(("gpt2", "gpt_neo", "opt"), "GPT2"),
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2"),
    "roberta": "Roberta",
    "bert": "Bert",
    "distilbert": "DistilBert",
}


def with_tokenizer_json(directory: Path, files: Files, config: Mapping[str, Any]) -> dict[str, bytes]:
    """`files` with the tokenizer.json that they lack, and the settings that it needs. `config`: of the model.

    Raises ModelError where a file is missing or damaged, and for a class whose rules are not known here.
    """
    settings = setting(files, "tokenizer_config.json")
    given = str(settings.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    kind = given or _CLASSES.get(str(config.get("model_type")), "")
    wanted = ("vocab.txt",) if kind in ("Bert", "DistilBert") else ("vocab.json", "merges.txt")
    if kind not in _SPECIAL or not all(name in files for name in wanted):
        known = ", ".join(f"{name}Tokenizer" for name in _SPECIAL)
        raise ModelError(
            f"{directory}: no tokenizer.json there, nor {' and '.join(wanted)} of a tokenizer_class of {known}: if"
            " transformers can read its tokenizer, AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one"
        )
    roles = {f"{role}_token": token for role, token in _SPECIAL[kind].items()} | named(files)
    if kind in ("Bert", "DistilBert"):
        inner = _word_pieces(files["vocab.txt"], roles, settings, directory)
    else:
        inner = _byte_pairs(files, directory, kind, bool(settings.get("add_prefix_space")))
    there = inner.get_vocab()
    inner.add_special_tokens(
        [AddedToken(token, lstrip=role == "mask_token" and kind == "Roberta", normalized=False, special=True)
         for role, token in roles.items() if token in there]
    )  # fmt: skip
    front, encoder = roles.get("bos_token", ""), kind not in ("GPT2", "Qwen2")
    for role in ("cls_token", "sep_token") if encoder else ():
        if roles[role] not in there:
            raise ModelError(f"{directory}: wanted {roles[role]!r}, its {role}, in the vocabulary, found no such token")
    if encoder:
        ends = (roles["sep_token"], there[roles["sep_token"]]), (roles["cls_token"], there[roles["cls_token"]])
        roberta = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
        inner.post_processor = roberta if kind == "Roberta" else processors.BertProcessing(*ends)
    elif settings.get("add_bos_token") and front in there:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{front} $A", pair=f"{front} $A {front} $B", special_tokens=[(front, there[front])]
        )
    told = {role: token for role, token in roles.items() if token in there}
    written = {"tokenizer_class": f"{kind}Tokenizer", **told, **settings}
    return {
        **files,
        "tokenizer.json": inner.to_str(pretty=True).encode(),
        "tokenizer_config.json": json.dumps(written, indent=2).encode() + b"\n",
    }


def _byte_pairs(files: Files, directory: Path, kind: str, prefix_space: bool) -> tokenizers.Tokenizer:
    """GPT-2's byte pairs, or Qwen2's, which cut a text by another pattern."""
    try:
        vocabulary = json.loads(files["vocab.json"])
        lines = files["merges.txt"].decode().split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
        model = models.BPE(vocab=vocabulary, merges=merges)  # type: ignore[arg-type]
    except Exception as error:  # the library raises bare exceptions
        wrong = " ".join(str(error).split())
        raise ModelError(
            f"{directory}: wanted a vocabulary and merges of two parts a line, got others: {wrong}"
        ) from None
    inner = tokenizers.Tokenizer(model)
    inner.decoder = decoders.ByteLevel()
    if kind == "Qwen2":
        inner.normalizer = normalizers.NFC()
        inner.pre_tokenizer = bytepair.split_by(bytepair.QWEN2, prefix_space)
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    return inner


def _word_pieces(
    content: bytes, roles: Mapping[str, str], settings: Mapping[str, Any], directory: Path
) -> tokenizers.Tokenizer:
    """BERT's word pieces: a token a line."""
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{directory / 'vocab.txt'}: wanted UTF-8, got other bytes: {error}") from None
    lines = lines[:-1] if lines[-1] == "" else lines
    vocabulary = {line.removesuffix("\r"): id for id, line in enumerate(lines)}
    if roles["unk_token"] not in vocabulary:
        raise ModelError(
            f"{directory / 'vocab.txt'}: wanted a line {roles['unk_token']}, the unknown token, found none"
        )
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=roles["unk_token"]))
    inner.normalizer = normalizers.BertNormalizer(
        lowercase=bool(settings.get("do_lower_case", True)),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
    )
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return inner
