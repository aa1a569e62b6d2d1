"""A predictor made of a function from texts to probabilities. Knows rows and labels, not where the function is from.

Shapes: N rows, C labels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import ChainruleError
from chainrule.finetuning.classifier import Form
from chainrule.tasks.answers import Answer, answer_of
from chainrule.tasks.examples import Row, Task

_ROWS_IN_MEMORY = 4096


class TextPredictor:
    """What `majority`, `bag_of_words` and others on whole texts give."""

    def __init__(
        self,
        task: Task,
        labels: Sequence[str],
        proba: Callable[[Sequence[Any]], NDArray[np.float64]],
        constant: Answer | None = None,
        form: Form | None = None,
    ) -> None:
        """`proba`: texts (N), as `task.finetune_text` makes them, to probabilities of `labels` (N, C), or to numbers
        (N, 1). `constant`: the answer to all texts, where it is not what the probabilities say. `form`: how a row
        becomes a text, where it is not as the task says."""
        self._kind, self._constant = task.kind, constant
        self.labels, self.notes = tuple(labels), list[str]()
        self._form, self._proba = form or Form(task.text, task.input), proba

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns of a row."""
        return self._form.text

    def predict(self, rows: Iterable[Row | str]) -> list[Answer]:
        """The most probable label of each row, or several, or a number.

        Raises ChainruleError for a row without the text columns.
        """
        return [label for label, _ in self.stream(rows)]

    def predict_proba(self, rows: Iterable[Row | str]) -> NDArray[np.float64]:
        """(N, C) probabilities of `labels`, each row's summing to 1; errors as in `predict`."""
        return np.array([probabilities for _, probabilities in self.stream(rows)]).reshape(-1, len(self.labels))

    def stream(self, rows: Iterable[Row | str]) -> Iterator[tuple[Answer, NDArray[np.float64]]]:
        """Label and probabilities (C,), row by row, in memory that does not grow with their number."""
        if isinstance(rows, str | Mapping):
            raise ChainruleError("rows: wanted several rows, got one alone; put it into a list")
        texts = map(self._form, rows)
        while part := list(islice(texts, _ROWS_IN_MEMORY)):
            for outputs in self._proba(part):
                answer = answer_of(self._kind, self.labels, outputs) if self._constant is None else self._constant
                yield answer, outputs[: len(self.labels)]  # a number has no probabilities
