"""What every adaptation gives: a predictor. Knows rows and labels, not how a prediction is made.

Shapes: N rows, C labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from chainrule.tasks.answers import Answer
from chainrule.tasks.prompt import Row


class Predictor(Protocol):
    """From rows, each a text or a mapping of columns, to labels, to several at once, or to numbers."""

    @property
    def labels(self) -> Sequence[str]:
        """The classes; none where answers are free, or numbers."""

    @property
    def columns(self) -> Sequence[str]:
        """The text columns of a row."""

    @property
    def notes(self) -> Sequence[str]:
        """Warnings about the rows so far, a line each: texts that were cut, demonstrations that did not fit."""

    def predict(self, rows: Iterable[Row | str]) -> list[Answer]:
        """The label of each row, a tuple of several at once, or a number."""

    def predict_proba(self, rows: Iterable[Row | str]) -> NDArray[np.float64]:
        """(N, C) probabilities of `labels`; ChainruleError where answers are generated, or numbers."""

    def stream(self, rows: Iterable[Row | str]) -> Iterator[tuple[Answer, NDArray[np.float64]]]:
        """Label and probabilities (C,), row by row; no probabilities where an answer is generated, or a number."""


@runtime_checkable
class Generating(Protocol):
    """A predictor that may answer with a text that the model generates."""

    generates: bool  # whether it does, instead of choosing a label

    def answers(self, rows: Iterable[Row | str]) -> Iterator[str]:
        """The generated text for each row."""

    def label_of(self, answer: str) -> str:
        """The label that an answer means, "" for none."""


def generates(predictor: object) -> bool:
    """Whether its answers are generated, so that they have no probabilities."""
    return isinstance(predictor, Generating) and predictor.generates
