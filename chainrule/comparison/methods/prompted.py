"""Zero-shot and in-context learning as methods of `compare`. Knows which demonstrations are shown, not how."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from chainrule.comparison.methods.method import ONE_ANSWER, Colour, Method, Role, nothing, unless_all
from chainrule.errors import ChainruleError

if TYPE_CHECKING:
    from chainrule.comparison.study import Study
    from chainrule.prompting.prompted import Prompted


def prompt_obstacle(study: Study) -> str | None:
    """The obstacle of all methods that ask with the task's prompt."""
    try:
        study.task.checked_prompt()
        study.lm.model.config.check_language_head()
    except ChainruleError as error:
        return str(error)
    return None


def _seconds(study: Study, labels: int, tests: int, nearest: bool = False) -> float:
    """One prefix for all rows, or one for each; a token behind a long prefix costs more."""
    length, shots = study.demonstration_tokens, study.shots(labels)
    tokens = tests * length * (1.5 + 0.02 * shots) + length * shots * (tests if nearest else 1)
    return (tokens + labels * length * nearest) * study.seconds_a_token


def _in_context(study: Study, labels: int, seed: int, select: Literal["random", "nearest"] = "random") -> Prompted:
    from chainrule.prompting.in_context import in_context

    return in_context(study.lm, study.task, study.shots(labels), select=select, labels=labels, seed=seed)


def _zero_shot(study: Study, labels: int, seed: int) -> Prompted:
    from chainrule.prompting.in_context import zero_shot

    return zero_shot(study.lm, study.task)


def _until_full(study: Study, sizes: Sequence[int]) -> Sequence[int]:
    """Up to the first N that fills the prompt: beyond it random demonstrations are no more and no better."""
    return [size for index, size in enumerate(sizes) if index == 0 or sizes[index - 1] < study.most_shots]


ZERO_SHOT = Method(
    "zero-shot",
    "zero-shot",
    Role.PROMPTED,
    Colour("#0b8f87", "#3ccabf"),
    _seconds,
    _zero_shot,
    sizes=lambda study, sizes: (0,),
    seeds_matter=lambda labels, everything: False,
    ignores_more_labels=True,
    kinds=ONE_ANSWER,
    obstacle=prompt_obstacle,
    megabytes=nothing,
)
IN_CONTEXT = Method(
    "in-context",
    "in-context",
    Role.PROMPTED,
    Colour("#2467d1", "#6ea4ff"),
    _seconds,
    _in_context,
    sizes=_until_full,
    ignores_more_labels=True,
    kinds=ONE_ANSWER,
    obstacle=prompt_obstacle,
    megabytes=nothing,
)
IN_CONTEXT_NEAREST = Method(
    "in-context-nearest",
    "in-context with the nearest examples",
    Role.PROMPTED,
    Colour("#7a4bd0", "#b597ff"),
    partial(_seconds, nearest=True),
    partial(_in_context, select="nearest"),
    seeds_matter=unless_all,
    kinds=ONE_ANSWER,
    obstacle=prompt_obstacle,
    megabytes=nothing,
)
