"""Evaluates texts in pieces that workers and parts can do: sums of log p, or of masked losses, added up in one order.
Knows pieces of texts as tokens, not where they are from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrule.scoring.documents import Section


@dataclass(frozen=True)
class TextPiece:
    """Some of the texts to evaluate: sections for a causal model; numbered windows for a masked one. `bytes`: of these
    texts in UTF-8."""

    bytes: int
    sections: tuple[Section, ...] = ()
    windows: tuple[tuple[int, NDArray[np.int64]], ...] = ()


class Sums(NamedTuple):
    """What is found for a piece, as JSON has it: lists of numbers."""

    tokens: int
    scored: int  # of them: all for a causal model, the masked ones for a masked model
    bytes: int
    nats: list[float]  # log p of each section, or the summed loss of each window


def added_up(found: Iterable[Any]) -> Sums:
    """The sums of all pieces; their floats are added in order, so that the total does not depend on who did them."""
    tokens, scored, size, total = 0, 0, 0, 0.0
    for one in found:
        sums = Sums(*one)
        tokens, scored, size = tokens + sums.tokens, scored + sums.scored, size + sums.bytes
        for nats in sums.nats:
            total += nats
    return Sums(tokens, scored, size, [total])
