"""What the demo asks: a prompt, the right answer, the possible answers. Knows neither the world nor a model."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.errors import ChainruleError

ANSWER_ENDS = ("\n", ",", ".")  # what follows an answer


@dataclass(frozen=True)
class Item:
    """`prompt` ends without a space, so that the answer's first token has its own, as in the corpus."""

    prompt: str
    answer: str
    options: tuple[str, ...]


def chance(items: Sequence[Item]) -> float:
    """Accuracy of always giving the most frequent answer of each kind of item (those with the same options)."""
    if not items:
        raise ChainruleError("chance: wanted at least one item, got none")
    answers: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for item in items:
        answers[item.options][item.answer] += 1
    return sum(max(counts.values()) for counts in answers.values()) / len(items)
