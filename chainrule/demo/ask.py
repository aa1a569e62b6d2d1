"""Asks a language model the demo's items by plain greedy generation, and counts. Knows no world."""

from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.demo.items import Item, chance
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel
from chainrule.statistics import wilson

GREEDY = Sampling(temperature=0.0)
ANSWER_TOKENS = 6  # more than any answer has


@dataclass(frozen=True)
class Figure:
    """An accuracy with what it must be read beside."""

    accuracy: float
    n: int
    chance: float  # of always giving the majority answer
    interval: tuple[float, float]  # Wilson, 95 %
    ceiling: float | None = None  # of an observer who knows the world


def ask(language_model: LanguageModel, items: Sequence[Item]) -> Figure:
    """The share of items whose greedy continuation is their answer."""
    made = language_model.completions(
        [item.prompt for item in items], GREEDY, max_tokens=ANSWER_TOKENS, stop=("\n", ".", ",")
    )
    right = sum(item.is_answered_by(completion.text) for item, completion in zip(items, made, strict=True))
    return Figure(right / len(items), len(items), chance(items), wilson(right, len(items)))
