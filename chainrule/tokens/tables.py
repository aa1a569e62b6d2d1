"""Tokenizers with one token a character or one a byte: makes them, and gives their tables for numpy.
Knows no special tokens and no files."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from chainrule.errors import ModelError
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


def look_up(text: str, table: NDArray[np.uint32], known: int) -> NDArray[np.uint32]:
    """The ids of a text's characters; UnseenCharacterError where one of them is not in `table`, which has `known`."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    ids: NDArray[np.uint32] = table[np.minimum(points, len(table) - 1)]
    unseen = np.flatnonzero(ids == UNSEEN)
    if len(unseen):
        raise UnseenCharacterError(text, int(unseen[0]), known)
    return ids


class UnseenCharacterError(ModelError):
    """A character that is not in a character tokenizer's vocabulary. `offset`: its index in the text; `reason`: the
    message without it."""

    def __init__(self, text: str, offset: int, known: int) -> None:
        self.offset = offset
        self.reason = (
            f"{text[offset]!r} (U+{ord(text[offset]):04X}) is not among the {known} characters of the vocabulary:"
            " take it out, or make a tokenizer of text that has it"
        )
        line = text.count("\n", 0, offset) + 1
        super().__init__(f"character {offset} (line {line}) of the text: {self.reason}")


def utf8(text: str) -> bytes:
    """The bytes of a text; ModelError for a lone surrogate, which has none."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"wanted Unicode text, got the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}:"
            " take it out, or read the text with its right encoding"
        ) from None
