"""Asks a language model the demo's items and counts the right answers. Knows no world."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chainrule.demo.items import ANSWER_ENDS, Item, chance
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel
from chainrule.scoring.continuations import Pair, pair_of, score_continuations
from chainrule.statistics import wilson

GREEDY = Sampling(temperature=0.0)


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
    return ask_all(language_model, {"": items})[""]


def ask_all(language_model: LanguageModel, questions: Mapping[str, Sequence[Item]]) -> dict[str, Figure]:
    """`ask` for many lists of items at once: what any of their prompts begin with alike is read once.

    Nothing is generated: greedy generation gives the answer exactly if each token of the answer, and of one of the ends
    behind it, is the most probable one in its place.
    """
    tokenizer = language_model.tokenizer
    ends = [tokenizer.encode(end) for end in ANSWER_ENDS]
    asked = [item for items in questions.values() for item in items]
    answers = [pair_of(tokenizer, item.prompt, f" {item.answer}") for item in asked]
    pairs = [Pair(context, [*answer, *end]) for context, answer in answers for end in ends]
    greedy = [scored.greedy for scored in score_continuations(language_model.model, pairs)]
    right = [any(greedy[first : first + len(ends)]) for first in range(0, len(greedy), len(ends))]
    figures, first = {}, 0
    for name, items in questions.items():
        correct = sum(right[first : first + len(items)])
        figures[name] = Figure(correct / len(items), len(items), chance(items), wilson(correct, len(items)))
        first += len(items)
    return figures
