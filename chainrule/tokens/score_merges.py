"""The merges of a SentencePiece tokenizer by byte-pair encoding, which has scores. Knows no file.

A vocabulary can have 262,144 tokens, and each token as many ways to be cut in two as it has characters, less one.
Whether the parts are tokens is asked of all cuts at once, by hashes of 64 bits; each merge that is found is compared as
text.

Shapes: V tokens, N characters of all of them, P pairs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 2**64)
_MIXING = 0xD6E8FEB86659FD93
_SLOT_BITS = 22


def merges_by_scores(ids: Mapping[str, int], scores: NDArray[np.float64]) -> list[str]:
    """The merges of tokens `ids`, none of which has a space, in their order; a space between the two tokens of each.

    SentencePiece joins the two neighbours that make the token of the greatest score, `scores` being by id: each way to
    make a token of two others is a merge, in the order of the scores; of one token's, in that of the first part's id.
    """
    if "" in ids:  # in a damaged file
        ids = {token: id for token, id in ids.items() if token}
    numbers = np.fromiter(ids.values(), np.int64, len(ids))
    order = np.lexsort((numbers, -scores[numbers]))
    spelled = list(ids)
    tokens, numbers = [spelled[index] for index in order.tolist()], numbers[order]
    whole, left, right = _pairs(tokens)
    by_score = np.lexsort((numbers[left], whole))
    whole, left, right = whole[by_score], left[by_score], right[by_score]
    merges = [f"{tokens[one]} {tokens[other]}" for one, other in zip(left.tolist(), right.tolist(), strict=True)]
    joined = [tokens[index] for index in whole.tolist()]
    if "".join(merges).replace(" ", "") != "".join(joined):  # two texts with one hash, which hardly happens
        return [merge for merge, token in zip(merges, joined, strict=True) if merge.replace(" ", "") == token]
    return merges


def _pairs(tokens: Sequence[str]) -> tuple[Ids, Ids, Ids]:
    """The indices of tokens, and of the two tokens that each is made of, (P,) each: all ways to make them."""
    text = _Text(tokens)
    known = _Known(text.hashes(text.starts, text.ends))
    whole = np.repeat(np.arange(len(tokens)), text.ends - text.starts - 1)
    cuts = np.delete(np.arange(len(text.sums) - 1), text.starts)
    left = known.find(text.hashes(text.starts[whole], cuts))
    there = left >= 0
    whole, cuts, left = whole[there], cuts[there], left[there]
    right = known.find(text.hashes(cuts, text.ends[whole]))
    there = right >= 0
    return whole[there], left[there], right[there]


class _Text:
    """All tokens one after another, and the hash of any part of it: the polynomial of its characters modulo 2^64."""

    def __init__(self, tokens: Sequence[str]) -> None:
        characters = np.frombuffer("".join(tokens).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        self.ends = np.cumsum(lengths)  # (V,)
        self.starts = self.ends - lengths
        self.sums = np.zeros(len(characters) + 1, np.uint64)  # (N + 1,)
        np.cumsum((characters + np.uint64(1)) * _powers(_BASE, len(characters)), out=self.sums[1:])
        self.back = _powers(_INVERSE, len(characters) + 1)

    def hashes(self, starts: Ids, ends: Ids) -> Hashes:
        """Of the parts from `starts` to `ends`."""
        return (self.sums[ends] - self.sums[starts]) * self.back[starts]


def _powers(base: int, count: int) -> Hashes:
    """base^0, base^1, … modulo 2^64."""
    found = np.full(count, base, np.uint64)
    found[:1] = 1
    return np.multiply.accumulate(found)


class _Known:
    """Which of some hashes has a value: most are found in a table by their first bits, the others by sorting."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes
        self.table = np.full(2**_SLOT_BITS, -1, np.int32)
        slots = _slots(hashes)
        self.table[slots] = np.arange(len(hashes), dtype=np.int32)
        hidden = np.flatnonzero(self.table[slots] != np.arange(len(hashes)))  # another has taken their slot
        self.others = hidden[np.argsort(hashes[hidden])]

    def find(self, wanted: Hashes) -> Ids:
        """The index of each hash, -1 for one that is not there."""
        index = self.table[_slots(wanted)].astype(np.int64)
        taken = np.flatnonzero(index >= 0)
        wrong = taken[self.hashes[index[taken]] != wanted[taken]]
        index[wrong] = -1
        if len(self.others):
            ordered = self.hashes[self.others]
            place = np.searchsorted(ordered, wanted[wrong]).clip(max=len(ordered) - 1)
            same = ordered[place] == wanted[wrong]
            index[wrong[same]] = self.others[place[same]]
        return index


def _slots(hashes: Hashes) -> Ids:
    """Multiplied once more: the hash of a single character is its number, whose first bits are all 0."""
    return (hashes * np.uint64(_MIXING) >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)
