"""Faster ways to encode text with the same ids as `tokenizers`: a table of characters or of bytes, and tiktoken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from chainrule.tokens import bytepair, tables

if TYPE_CHECKING:
    from tiktoken import Encoding

# tiktoken's regular expressions overflow at about a million white spaces: longer texts are encoded in parts.
LONGEST = 250_000
# Checking that tiktoken gives the same ids takes about as long as it saves on so many characters.
WORTHWHILE = 1_000_000
# No match of bytepair.PATTERNS crosses the end of a match of this, nor depends on what is on the other side.
SAFE_CUT = re.compile(r"\S(?= )|\S\n(?=\S)")


class FastEncoding:
    """The fast encodings that apply to a tokenizer. `spec`: its tokenizer.json; `plain`: the same for `tokenizers`;
    `known`: how many characters a character tokenizer has, for its errors."""

    def __init__(self, spec: dict[str, Any], plain: tokenizers.Tokenizer, known: int) -> None:
        self._spec, self._plain, self._known = spec, plain, known
        self._encoded_so_far = 0  # characters

    @cached_property
    def characters(self) -> NDArray[np.uint32] | None:
        return tables.character_table(self._spec)

    @cached_property
    def bytes(self) -> NDArray[np.uint32] | None:
        return tables.byte_table(self._spec)

    @cached_property
    def tiktoken(self) -> Encoding | None:
        return bytepair.tiktoken_encoding(self._spec)

    @property
    def is_table(self) -> bool:
        """Whether each token is a character or a byte."""
        return self.characters is not None or self.bytes is not None

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]] | None:
        """The ids of each text; None where no fast way applies, or too little text came so far.

        Raises ModelError for a lone surrogate, UnseenCharacterError for a character that has no id.
        """
        if self.characters is not None:
            return [tables.look_up(text, self.characters, self._known) for text in texts]
        encoded = [tables.utf8(text) for text in texts]  # for its error too: tiktoken would put U+FFFD for a surrogate
        if self.bytes is not None:
            return [self.bytes[np.frombuffer(text, np.uint8)] for text in encoded]
        self._encoded_so_far += sum(map(len, texts))
        worthwhile = "tiktoken" in vars(self) or self._encoded_so_far > WORTHWHILE
        if not worthwhile or self.tiktoken is None:
            return None
        return [self._merge(text, self.tiktoken) for text in texts]

    def _merge(self, text: str, encoding: Encoding) -> NDArray[np.uint32]:
        parts, start = [], 0
        while len(text) - start > LONGEST:
            end = self.cut(text, start, start + LONGEST)
            if end == start:  # only letters, or only white space, ahead
                parts.append(np.array(self._plain.encode(text[start:], add_special_tokens=False).ids, np.uint32))
                return np.concatenate(parts)
            parts.append(encoding.encode_to_numpy(text[start:end], disallowed_special=()))
            start = end
        parts.append(encoding.encode_to_numpy(text[start:], disallowed_special=()))
        return np.concatenate(parts)

    def cut(self, text: str, start: int, end: int) -> int:
        """The last index after `start`, up to `end`, at which `text` can be split and encoded in two parts without
        changing its ids; `start` if none is known."""
        if self.is_table:
            return end
        if self.tiktoken is None:
            return start
        for width in (1000, end - start):  # there is almost always one near the end
            cuts = [match.end() for match in SAFE_CUT.finditer(text, max(start, end - width), end)]
            if cuts:
                return cuts[-1]
        return start
