"""Rows and demonstrations to prompts of tokens that fit the context. Knows text and tokens, not what a model says.

A prompt that is too long loses its first demonstrations, then the beginning of its row's longest text.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from chainrule.adaptation.examples import Examples, Row
from chainrule.adaptation.features import Longer
from chainrule.adaptation.prompt import Prompt
from chainrule.language_model import LanguageModel
from chainrule.scoring.continuations import Pair, pair_of

_SETS_IN_MEMORY = 16  # of demonstrations; where all rows have the same, a few are in turn as they fit


class Asked(NamedTuple):
    """One row in its prompt."""

    prompt: str  # its exact text; ⊥ comes in front
    tokens: Sequence[int]  # ⊥ and the prompt's: those that the prompt has whatever the answer is
    chosen: tuple[int, ...]  # which of the pool it shows, the last one first
    endings: list[str]  # for each label its word and what follows it; none where the answer is generated
    options: list[Pair]  # `tokens` and each ending's
    cut: bool = False  # the row lost its beginning


class Questions:
    """Makes the prompts of one predictor.

    `columns`: those with text. `labels`: what is chosen among; none where the answer is generated, and then `room` is
    how many tokens of the context it has at least. `pool`: the examples that may be shown.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompt: Prompt,
        columns: Sequence[str],
        labels: Sequence[str],
        pool: Examples,
        *,
        longer: Longer,
        room: int,
    ) -> None:
        self.tokenizer, self.context, self.prompt = lm.tokenizer, lm.model.config.context, prompt
        self.columns, self.labels, self.pool, self.longer, self.room = columns, labels, pool, longer, room
        self._demonstrated = lru_cache(_SETS_IN_MEMORY)(self._demonstrate)

    def fit(self, chosen: tuple[int, ...], row: Row) -> Asked:
        """The row after as many of `chosen` as the context has place for, the first of them next to the row.

        Raises ValueError for a row that does not fit even alone, where that is refused; and for a template that does
        not fit with nothing in it.
        """
        asked = self._ask(chosen, row)
        if self._fits(asked):
            return asked
        numbers = range(1, len(chosen))  # those of them that fit come first
        shots = bisect_left(numbers, True, key=lambda n: not self._fits(self._ask(chosen[:n], row)))
        asked = self._ask(chosen[:shots], row)
        return asked if self._fits(asked) else self._cut(row)

    def _cut(self, row: Row) -> Asked:
        """The row alone, without the beginning of its longest text; where that is not enough, of the next longest."""
        if self.longer == "refuse":
            beginning = next(row[column] for column in self.columns)[:40]
            raise ValueError(
                f"text: wanted at most {self.context} tokens (the context) with the prompt around it, got"
                f" {self._length(self._ask((), row))} in {beginning!r}…; shorten it, or let its beginning be cut"
            )
        for column in sorted(self.columns, key=lambda column: len(row[column]), reverse=True):
            row = self._shortened(row, column)
            asked = self._ask((), row)
            if self._fits(asked):
                return asked._replace(cut=True)
        raise ValueError(
            f"template: wanted at most {self.context} tokens (the context), got {self._length(asked)} with no text in"
            " it; shorten it, or take a model with a longer context"
        )

    def _shortened(self, row: Row, column: str) -> Row:
        """The row with as much of the end of a text as fits; without the text, if nothing of it does."""
        text = row[column]
        starts = range(len(text))
        start = bisect_left(starts, True, key=lambda start: self._fits(self._ask((), {**row, column: text[start:]})))
        return {**row, column: text[start:]}

    def _ask(self, chosen: tuple[int, ...], row: Row) -> Asked:
        text, head, rest = self._demonstrated(chosen)
        if not self.labels:
            before = self.prompt.before(row).rstrip(" ")  # the answer's first token has the space
            return Asked(text + before, [*head, *self.tokenizer.encode(rest + before)], chosen, [], [])
        questions = self.prompt.questions((), row, self.labels)
        pairs = [pair_of(self.tokenizer, rest + before, ending) for before, ending in questions]
        # All endings are scored after the same tokens, even if with one of them the prompt is tokenized otherwise.
        common = _common([pair.context for pair in pairs])
        tokens = [*head, *common[1:]]
        options = [Pair(tokens, [*pair.context[len(common) :], *pair.continuation]) for pair in pairs]
        return Asked(text + questions[0].before, tokens, chosen, [ending for _, ending in questions], options)

    def _demonstrate(self, chosen: tuple[int, ...]) -> tuple[str, list[int], str]:
        """The demonstrations' text; the tokens, ⊥ first, that it has whatever follows; and the rest of the text."""
        shown = [self.prompt.filled(self.pool.rows[index], self.pool.labels[index]) for index in reversed(chosen)]
        text = "".join(example + self.prompt.separator for example in shown)
        cut = self.tokenizer.cut(text)
        return text, [self.tokenizer.bottom, *self.tokenizer.encode(text[:cut])], text[cut:]

    def _fits(self, asked: Asked) -> bool:
        return self._length(asked) <= self.context

    def _length(self, asked: Asked) -> int:
        """Positions of the context that are needed; the last token of an ending is scored, but never read."""
        room = max((len(option.continuation) - 1 for option in asked.options), default=self.room)
        return len(asked.tokens) + room


def _common(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The longest beginning of all: the one that the least and the greatest have in common."""
    least, greatest = min(map(list, sequences)), max(map(list, sequences))
    pairs = enumerate(zip(least, greatest, strict=False))
    return least[: next((place for place, (one, other) in pairs if one != other), len(least))]
