"""What workers do with a language model: pieces of texts evaluated, rows scored. Knows no cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chainrule.language_model import Pretrained
from chainrule.model.formats.same_model import ForWorkers
from chainrule.model_source import ModelSource
from chainrule.scoring.evaluation import Sums, TextPiece
from chainrule.tasks.row_file import Rows


@dataclass(frozen=True)
class Evaluating:
    """Makes, in a worker, the function from a piece of texts to its sums."""

    model: ForWorkers[ModelSource]

    def __call__(self) -> Callable[[TextPiece], Sums]:
        return self.model.checked().load().evaluate_piece


@dataclass(frozen=True)
class Scoring:
    """Makes, in a worker, the function from rows to what `score_rows` says of them."""

    model: ForWorkers[ModelSource]
    field: str
    given: str

    def __call__(self) -> Callable[[Rows], list[list[Any]]]:
        lm = self.model.checked().load()
        return lambda rows: score_rows(lm, rows, self.field, self.given)


def score_rows(lm: Pretrained, rows: Rows, field: str, given: str) -> list[list[Any]]:
    """For each row log p of its text in nats and the number of its tokens; [] where there is no row."""
    texts = [row.get(field, next(iter(row.values()))) for row in rows if row is not None]
    found = iter(lm.log_probs(texts, given))
    return [[] if row is None else list(next(found)) for row in rows]
