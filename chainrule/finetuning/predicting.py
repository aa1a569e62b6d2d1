"""A predictor as it is named on the command line: loaded here, or in workers that label pieces of a file. Knows where a
predictor comes from, not how it predicts."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from chainrule.finetuning.classifier import Classifier
from chainrule.finetuning.load import load_classifier
from chainrule.language_model import load
from chainrule.model.formats.load_quantised import Quantize
from chainrule.model.formats.same_model import ForWorkers, model_fingerprint
from chainrule.prompting.asking import Asking
from chainrule.prompting.in_context import in_context
from chainrule.prompting.prompted import Prompted
from chainrule.tasks.examples import Task
from chainrule.tasks.predictions import prediction_values, predictions
from chainrule.tasks.row_file import Rows, Values


@dataclass(frozen=True)
class Source:
    """A classifier's folder; or a language model's, and the task and the options by which it is asked."""

    directory: str
    device: str = "auto"
    dtype: str = "auto"
    task: Task | None = None
    shots: int = 0
    seed: int = 0
    asking: Asking = field(default_factory=Asking)
    bos: str | None = None
    quantize: Quantize = "auto"

    def load(self) -> Classifier | Prompted:
        """The predictor. Raises ChainruleError as `load_classifier` and `in_context` do."""
        if self.task is None:
            return load_classifier(self.directory, device=self.device, dtype=self.dtype)
        lm = load(self.directory, device=self.device, dtype=self.dtype, bos=self.bos, quantize=self.quantize)
        return in_context(lm, self.task, self.shots, seed=self.seed, **vars(self.asking))

    @property
    def fingerprint(self) -> str:
        """Of the files, so that another model of the same name is noticed."""
        return model_fingerprint(self.directory)


Labelled = tuple[list[dict[str, Any]], dict[str, int]]  # the predictions of some rows, and what `take_counts` gave


@dataclass(frozen=True)
class Predicting:
    """Makes, in a worker, the function from some rows to their predictions."""

    predictor: ForWorkers[Source]

    def __call__(self) -> Callable[[Rows], Labelled]:
        return labelling(self.predictor.checked().load())


def labelling(predictor: Classifier | Prompted) -> Callable[[Rows], Labelled]:
    """From some rows to their predictions."""
    return lambda rows: (list(predictions(predictor, rows)), predictor.take_counts())


def values_by(predictor: Classifier | Prompted, labelled: Callable[[Iterable[Rows]], Iterator[Labelled]]) -> Values:
    """What workers predict, as `write_rows` takes it; warnings about the rows become those of `predictor`."""

    def values(pieces: Iterable[Rows]) -> Iterator[list[list[Any]]]:
        for found, counts in labelled(pieces):
            predictor.add_counts(counts)
            yield prediction_values(found)

    return values
