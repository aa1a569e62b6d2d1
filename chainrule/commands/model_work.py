"""What workers do with a language model that they load: pieces of texts evaluated, rows scored. Knows no cluster."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from chainrule.language_model import Pretrained, load
from chainrule.model.formats.load_quantised import Quantize
from chainrule.model.formats.same_model import check_model, model_fingerprint
from chainrule.scoring.evaluation import Sums, TextPiece
from chainrule.storage.fingerprint import name_for_workers
from chainrule.tasks.row_file import Rows


@dataclass(frozen=True)
class ModelSource:
    """A language model as it is named on the command line."""

    directory: str
    device: str
    dtype: str
    bos: str | None
    quantize: Quantize

    def load(self) -> Pretrained:
        """The model; ModelError as `chainrule.load`."""
        return load(self.directory, device=self.device, dtype=self.dtype, bos=self.bos, quantize=self.quantize)

    def here(self, elsewhere: bool) -> Pretrained:
        """The model for this process: on the CPU where the work is done `elsewhere`."""
        return (replace(self, device="cpu") if elsewhere else self).load()

    @property
    def depends_on(self) -> dict[str, Any]:
        """What results depend on, for parts."""
        named = {"dtype": self.dtype, "bos": self.bos, "quantize": self.quantize}
        return {"model": model_fingerprint(self.directory), **named}


@dataclass(frozen=True)
class InWorker:
    """Loads the model in a worker. `expected`: the fingerprint of its files."""

    source: ModelSource
    expected: str

    @classmethod
    def of(cls, source: ModelSource) -> "InWorker":
        return cls(replace(source, directory=name_for_workers(source.directory)), model_fingerprint(source.directory))

    def load(self) -> Pretrained:
        check_model(self.source.directory, self.expected)
        return self.source.load()


@dataclass(frozen=True)
class Evaluating:
    """Makes, in a worker, the function from a piece of texts to its sums."""

    model: InWorker

    def __call__(self) -> Callable[[TextPiece], Sums]:
        return self.model.load().evaluate_piece


@dataclass(frozen=True)
class Scoring:
    """Makes, in a worker, the function from rows to what `score_rows` says of them."""

    model: InWorker
    field: str
    given: str

    def __call__(self) -> Callable[[Rows], list[list[Any]]]:
        lm = self.model.load()
        return lambda rows: score_rows(lm, rows, self.field, self.given)


def score_rows(lm: Pretrained, rows: Rows, field: str, given: str) -> list[list[Any]]:
    """For each row log p of its text in nats and the number of its tokens; [] where there is no row."""
    texts = [row.get(field, next(iter(row.values()))) for row in rows if row is not None]
    found = iter(lm.log_probs(texts, given))
    return [[] if row is None else list(next(found)) for row in rows]
