"""Asks a language model the demo's items by plain greedy generation, and counts. Knows no world."""

from collections.abc import Mapping, Sequence
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
    return ask_all(language_model, {"items": items})["items"]


def ask_all(language_model: LanguageModel, asked: Mapping[str, Sequence[Item]]) -> dict[str, Figure]:
    """`ask` for each name's items; a prompt that several names share is continued once."""
    prompts = list(dict.fromkeys(item.prompt for items in asked.values() for item in items))
    made = language_model.completions(prompts, GREEDY, max_tokens=ANSWER_TOKENS, stop=("\n", ".", ","))
    continued = {prompt: completion.text for prompt, completion in zip(prompts, made, strict=True)}
    return {name: _figure(items, continued) for name, items in asked.items()}


def _figure(items: Sequence[Item], continued: Mapping[str, str]) -> Figure:
    right = sum(item.is_answered_by(continued[item.prompt]) for item in items)
    return Figure(right / len(items), len(items), chance(items), wilson(right, len(items)))
