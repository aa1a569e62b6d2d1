"""Tokenizers with one token a character or one a byte: makes them, and gives their tables for numpy.
Knows no special tokens and no files."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from chainrule.tokens.bytepair import byte_characters, keeps_text

UNSEEN = np.uint32(0xFFFFFFFF)
EACH_CHARACTER = r"[\s\S]"


def characters(alphabet: Iterable[str]) -> Tokenizer:
    """Ids in the order of the code points. Words of one character: BPE would silently drop an unseen one."""
    tokenizer = Tokenizer(models.WordLevel({character: id for id, character in enumerate(sorted(alphabet))}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(EACH_CHARACTER), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def single_bytes() -> Tokenizer:
    """The id of a UTF-8 byte is its value."""
    tokenizer = Tokenizer(models.BPE({character: byte for byte, character in enumerate(byte_characters())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def character_table(spec: dict[str, Any]) -> NDArray[np.uint32] | None:
    """Code point -> id, the last entry UNSEEN, if the tokenizer.json `spec` has one token a character."""
    split = {"type": "Split", "pattern": {"Regex": EACH_CHARACTER}, "behavior": "Isolated", "invert": False}
    if spec["model"]["type"] != "WordLevel" or spec["pre_tokenizer"] != split or not keeps_text(spec):
        return None
    ids = {ord(token): id for token, id in spec["model"]["vocab"].items() if len(token) == 1}
    table = np.full(max(ids) + 2, UNSEEN)
    table[list(ids)] = list(ids.values())
    return table


def byte_table(spec: dict[str, Any]) -> NDArray[np.uint32] | None:
    """Byte -> id, if the tokenizer.json `spec` has one token a byte."""
    model = spec["model"]
    if model["type"] != "BPE" or model["merges"] or not keeps_text(spec):
        return None
    match spec["pre_tokenizer"]:
        case {"type": "ByteLevel", "add_prefix_space": False} if set(byte_characters()) <= set(model["vocab"]):
            return np.array([model["vocab"][character] for character in byte_characters()], np.uint32)
    return None
