"""The accuracy of a language model on the demo's items. Knows no world."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chainrule.demo.items import ANSWER_ENDS, Item, chance
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel
from chainrule.scoring.continuations import Pair, pair_of, score_continuations
from chainrule.uncertainty import wilson

GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Figure:
    """An accuracy with what it is compared to."""

    accuracy: float
    n: int
    chance: float  # of always giving the majority answer
    interval: tuple[float, float]  # Wilson, 95 %
    ceiling: float | None = None  # of an observer who knows the world


def ask(language_model: LanguageModel, items: Sequence[Item]) -> Figure:
    """The share of items whose greedy continuation is their answer."""
    return ask_all(language_model, {"": items})[""]


def ask_all(language_model: LanguageModel, questions: Mapping[str, Sequence[Item]]) -> dict[str, Figure]:
    """`ask` for many lists of items at once; prefixes that prompts share are computed once.

    Nothing is generated: greedy generation gives the answer exactly if each of its tokens is the most probable at its
    position, and after it a token that ends an answer.
    """
    asked = {(item.prompt, item.answer): False for items in questions.values() for item in items}
    tokenizer = language_model.tokenizer
    pieces = tokenizer.token_texts(range(tokenizer.vocabulary_size))
    ends = [token for token, piece in enumerate(pieces) if piece.startswith(ANSWER_ENDS)]
    answers = [pair_of(tokenizer, prompt, f" {answer}") for prompt, answer in asked]
    pairs = [Pair(context, [*answer, end]) for context, answer in answers for end in ends]
    greedy = [scored.greedy for scored in score_continuations(language_model.model, pairs)]
    for number, question in enumerate(asked):
        asked[question] = any(greedy[number * len(ends) : (number + 1) * len(ends)])
    return {
        name: _figure(items, [asked[item.prompt, item.answer] for item in items]) for name, items in questions.items()
    }


def _figure(items: Sequence[Item], right: Sequence[bool]) -> Figure:
    return Figure(sum(right) / len(items), len(items), chance(items), wilson(sum(right), len(items)))
