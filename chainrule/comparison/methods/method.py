"""What a method of `compare` is: all that the plan, the table, the advice and the report ask of it. Knows no method.

The files of this folder import what is heavy where it is used: the help of `compare` lists the methods' names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from chainrule.comparison.study import Study
    from chainrule.tasks.answers import Kind
    from chainrule.tasks.examples import Row
    from chainrule.tasks.predictor import Predictor


class Role(Enum):
    """What a method is compared as."""

    PROMPTED = "prompted"  # labelled examples are shown in the prompt
    FINETUNED = "finetuned"  # learns weights from labelled examples: of a classifier on hidden states, or all
    SIMPLE = "simple"  # learns from labelled examples without a language model
    CONTROL = "control"  # finetuning without what pretraining gave
    CONSTANT = "constant"  # the same answer whatever the text is

    @property
    def is_baseline(self) -> bool:
        return self in (Role.SIMPLE, Role.CONTROL, Role.CONSTANT)


class Colour(NamedTuple):
    """A method's colour in charts and tables, as CSS, on light and on dark paper."""

    light: str
    dark: str


ONE_ANSWER: tuple[Kind, ...] = ("classification", "free")  # that a prompt can ask for
LABELLED: tuple[Kind, ...] = ("classification", "multilabel", "regression")  # that a head can learn
ALL_KINDS: tuple[Kind, ...] = (*LABELLED, "free")


def no_obstacle(study: Study) -> None:
    """For methods that any model and any task of their kinds will do for."""


def trained_whole(study: Study) -> str | None:
    """For methods that train all weights."""
    from chainrule.model.quantised import is_quantised

    if is_quantised(study.lm.model):
        return "training all weights wants --quantize none, as quantised weights stay as they are"
    return copied_whole(study)


def copied_whole(study: Study) -> str | None:
    """For methods that train a copy of all weights: where there is no memory for those of the blocks alone, with their
    gradients and moments."""
    from chainrule.errors import NotEnoughMemoryError
    from chainrule.machine import require_memory
    from chainrule.model.quantised import count_weights
    from chainrule.training.footprint import of_weights

    blocks = count_weights(study.lm.model.blocks)
    try:
        require_memory("training all weights", of_weights(blocks, copied=True), study.lm.device, "take a smaller model")
    except NotEnoughMemoryError as error:
        return str(error)
    return None


def trained_beside(study: Study) -> str | None:
    """For methods that train LoRA's matrices beside the weights."""
    from chainrule.model.adapter import is_adapted

    if is_adapted(study.lm.model):
        return "LoRA wants --quantize none, which merges the model's adapter; beside quantised weights it stays apart"
    return None


def first_of(*obstacles: Callable[[Study], str | None]) -> Callable[[Study], str | None]:
    """The first obstacle that there is."""
    return lambda study: next((found for one in obstacles if (found := one(study)) is not None), None)


def every_size(study: Study, sizes: Sequence[int]) -> Sequence[int]:
    return sizes


def always(labels: int, everything: int) -> bool:
    return True


def unless_all(labels: int, everything: int) -> bool:
    """For methods that draw nothing but their labels."""
    return labels != everything


def unknown(study: Study) -> None:
    """For methods whose predictors have no file."""


def nothing(study: Study) -> float:
    """For methods that need nothing beside the model but some text."""
    return 0.0


def own_notes(study: Study, predictor: Predictor, rows: Sequence[Row]) -> list[str]:
    return list(predictor.notes)


@dataclass(frozen=True)
class Method:
    """A way from a task and N of its labels to a predictor. `study` is what all methods share: see `Study`.

    `everything`: how many labelled examples the task has to learn from.
    """

    name: str  # as typed, and in results.json
    title: str  # in a sentence
    role: Role
    colour: Colour
    seconds: Callable[[Study, int, int], float]
    """(study, labels, tests): what it takes to adapt to N labels and to answer the test items, estimated."""
    fit: Callable[[Study, int, int], Predictor]
    """(study, labels, seed): the predictor that has learned from, or shows, some of the seed's N labels."""
    kinds: tuple[Kind, ...] = ALL_KINDS  # of tasks that it is for
    obstacle: Callable[[Study], str | None] = no_obstacle
    """(study): why a task of these kinds, or the model, does not allow it; None where they do."""
    sizes: Callable[[Study, Sequence[int]], Sequence[int]] = every_size
    """(study, sizes): those of the N of the grid at which it is run."""
    seeds_matter: Callable[[int, int], bool] = always
    """(labels, everything): whether anything is drawn: its labels, demonstrations, initialisation or order."""
    notes: Callable[[Study, Predictor, Sequence[Row]], list[str]] = own_notes
    """(study, predictor, rows): warnings about these rows, such as texts that were cut: the same at each call."""
    megabytes: Callable[[Study], float | None] = unknown
    """(study): the size of the files to keep beside the pretrained model, in MB; None where there are none."""
    ignores_more_labels: bool = False  # beyond its largest N of the grid it stays what it is there
    shares_features: bool = False  # reads `study.features`, whose time is counted in each of its rows
