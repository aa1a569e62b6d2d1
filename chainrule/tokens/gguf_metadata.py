"""The metadata by which llama.cpp has a tokenizer's ids: what `gguf_tokenizer` reads. Knows no weights."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chainrule.errors import ModelError
from chainrule.tokens import bytepair, tables
from chainrule.tokens.gguf_patterns import SPLITTINGS, canonical, name_of
from chainrule.tokens.gguf_tokenizer import BYTE, CONTROL, NFC_KEY, NO_MERGE, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from chainrule.tokens.tokenizer import Tokenizer

_NEVER = -1e9  # the score of a token that nothing is joined to


def tokenizer_metadata(tokenizer: Tokenizer, stop_tokens: Sequence[int], size: int) -> dict[str, Any]:
    """Metadata of `size` tokens, the rows of the model's embedding.

    Raises ModelError for a tokenizer whose ids llama.cpp would not give.
    """
    spec = json.loads(tokenizer.definition)
    model = spec["model"]
    if tables.character_table(spec) is not None:
        kind = _characters(model["vocab"], {token["content"] for token in spec["added_tokens"]})
    elif model["type"] == "BPE" and _is_byte_level(spec):
        kind = _byte_level(spec)
    elif model["type"] == "BPE" and model.get("byte_fallback"):
        kind = _sentencepiece(spec, size)
    else:
        raise ModelError(
            f"export: wanted a tokenizer by byte-pair encoding, of bytes, or of characters, got one of the kind"
            f" {model['type']}, which GGUF files of language models don't have; export --to huggingface"
        )
    tokens, types = _tokens(tokenizer, spec, size)
    for id, spelled in kind.pop("spelled", {}).items():
        tokens[id] = spelled
    template = {"tokenizer.chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
    found = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    return {**kind, **found, **_special(tokenizer, stop_tokens), **template}


def _is_byte_level(spec: Mapping[str, Any]) -> bool:
    return (spec["decoder"] or {}).get("type") == "ByteLevel"


def _byte_level(spec: Mapping[str, Any]) -> dict[str, Any]:
    model, normalizer = spec["model"], spec["normalizer"]
    changing = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if normalizer not in (None, {"type": "NFC"}) or any(model.get(option) for option in changing):
        raise ModelError(
            "export: wanted a byte-level tokenizer that changes its text by NFC or not at all, got one of another kind,"
            " which llama.cpp does not have; export --to huggingface"
        )
    nfc = normalizer is not None
    # Without merges a byte is a token, wherever the words end.
    name = name_of(spec["pre_tokenizer"], nfc) if model["merges"] else "gpt-2"
    if name is None:
        raise ModelError(
            "export: wanted a tokenizer whose pattern llama.cpp has by a name, got one that cuts text by"
            f" {' then '.join(canonical(spec['pre_tokenizer']))}. Runs of chainrule before 0.2 have a pattern of their"
            " own: tokenize the text again, and pretrain on that; or export --to huggingface"
        )
    added = {token["content"] for token in spec["added_tokens"]}
    ids, merges = {token: id for token, id in model["vocab"].items() if token not in added}, bytepair.merges_of(model)
    whole_words = bool(model.get("ignore_merges"))
    if SPLITTINGS[name].ignore_merges != whole_words and not bytepair.each_is_itself(ids, merges):
        raise ModelError(
            f"export: wanted a tokenizer in which every token is what its own merges make of it, as llama.cpp takes"
            f" words of {name} whole, got another; export --to huggingface"
        )
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges] or [NO_MERGE],
        NFC_KEY: nfc,
    }


def _characters(vocabulary: Mapping[str, int], added: set[str]) -> dict[str, Any]:
    """Characters as byte-pair encoding: merges put each one together from its bytes, which are no tokens."""
    letters = bytepair.byte_characters()
    spelled: dict[int, str] = {}
    merges: dict[str, None] = {}
    for character, id in vocabulary.items():
        if character not in added:
            spelled[id] = "".join(letters[byte] for byte in character.encode())
            for end in range(1, len(spelled[id])):
                merges[f"{spelled[id][:end]} {spelled[id][end]}"] = None
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": list(merges),
        "spelled": spelled,
    }


def _sentencepiece(spec: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Byte-pair encoding by scores: a token's is the greater, the earlier it is merged."""
    model, scores = spec["model"], [_NEVER] * size
    for rank, pair in enumerate(bytepair.merges_of(model)):
        product = model["vocab"]["".join(pair)]
        scores[product] = max(scores[product], float(-rank))
    steps = (spec["normalizer"] or {}).get("normalizers", [spec["normalizer"] or {}])
    metaspace = (spec["pre_tokenizer"] or {}).get("prepend_scheme")
    prefix = metaspace in ("always", "first") or any(step.get("type") == "Prepend" for step in steps)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def _tokens(tokenizer: Tokenizer, spec: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Each id's token and type. Rows of the model without a token are unused ones."""
    tokens, types = [f"[PAD{id}]" for id in range(size)], [UNUSED] * size
    for token, id in spec["model"]["vocab"].items():
        tokens[id] = token
        is_byte = spec["model"].get("byte_fallback") and len(token) == 6 and token.startswith("<0x")
        types[id] = BYTE if is_byte else NORMAL
    for added in spec["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["content"] in tokenizer.special else USER_DEFINED
    unknown = spec["model"].get("unk_token")
    if unknown in spec["model"]["vocab"]:
        types[spec["model"]["vocab"][unknown]] = UNKNOWN
    return tokens, types


def _special(tokenizer: Tokenizer, stop_tokens: Sequence[int]) -> dict[str, Any]:
    """bos, eos and their like, and what the tokenizer puts around a text by itself."""
    named = {role: tokenizer.special.get(tokenizer.named.get(f"{role}_token", "")) for role in ("bos", "unk", "pad")}
    front = _front(tokenizer)
    bos = named["bos"].id if named["bos"] else tokenizer.bos_id
    found: dict[str, Any] = {
        "bos_token_id": front[0] if front else bos,
        "add_bos_token": bool(front),
        "add_eos_token": bool(stop_tokens) and tokenizer.closing == [stop_tokens[0]],
    }
    for name, id in zip(("eos_token_id", "eot_token_id", "eom_token_id"), stop_tokens, strict=False):
        found[name] = id
    for role, name in (("unk", "unknown_token_id"), ("pad", "padding_token_id")):
        token = named[role]
        if token is not None:
            found[name] = token.id
    return {f"tokenizer.ggml.{name}": value for name, value in found.items()}


def _front(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts in front of a text by itself; ModelError for more than one token."""
    front = tokenizer.front
    if len(front) > 1:
        raise ModelError(
            "export: wanted a tokenizer that puts one token in front of a text, or none, got one that puts"
            f" {len(front)}, which llama.cpp does not do"
        )
    return front
