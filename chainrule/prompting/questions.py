"""Rows and demonstrations to prompts of tokens that fit the context. Knows text and tokens, not what a model says.

A prompt that is too long loses its first demonstrations, then the beginning of its row's longest text.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from chainrule.errors import ChainruleError
from chainrule.finetuning.features import Longer
from chainrule.language_model import Pretrained
from chainrule.scoring.blanks import Blanks, masked_at
from chainrule.scoring.continuations import Pair, pair_of
from chainrule.tasks.examples import Examples, Row
from chainrule.tasks.prompt import Prompt
from chainrule.tokens.chat import Chat

_SETS_IN_MEMORY = 16  # of demonstrations; where all rows have the same, a few are in turn as they fit


Options = Sequence[Pair] | Sequence[Blanks]


class Asked(NamedTuple):
    """One row in its prompt."""

    prompt: str  # its exact text; ⊥ comes in front
    tokens: Sequence[int]  # ⊥ and the prompt's: those that the prompt has whatever the answer is
    chosen: tuple[int, ...]  # which of the pool it shows, the last one first
    endings: list[str]  # what is scored for each label, its word and what follows it; none where answers are generated
    options: Options  # `tokens` and each ending's, or what a masked model reads with each word in its blank
    cut: bool = False  # the row lost its beginning


class Questions:
    """Makes the prompts of one predictor.

    `columns`: those with text. `labels`: what is chosen among; none where the answer is generated, and then `room` is
    how many tokens of the context it has at least. `pool`: the examples that may be shown. `chat`: the model's, if the
    prompts are to be written as its template has them.
    """

    def __init__(
        self,
        lm: Pretrained,
        prompt: Prompt,
        columns: Sequence[str],
        labels: Sequence[str],
        pool: Examples,
        *,
        longer: Longer,
        answer_tokens: int,
        chat: Chat | None = None,
    ) -> None:
        self.tokenizer, self.context, self.prompt = lm.tokenizer, lm.model.config.context, prompt
        self.columns, self.labels, self.pool, self.longer = columns, labels, pool, longer
        self.answer_tokens = answer_tokens
        self.chat, self.causal = chat, lm.model.config.causal
        self._demonstrated = lru_cache(_SETS_IN_MEMORY)(self._demonstrate)

    def fit(self, chosen: tuple[int, ...], row: Row) -> Asked:
        """The row after as many of `chosen` as the context has place for, the first of them next to the row.

        Raises ChainruleError for a row that does not fit even alone, where that is refused; and for a template that
        does not fit with nothing in it.
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
            raise ChainruleError(
                f"text: wanted at most {self.context} tokens (the context) with the prompt around it, got"
                f" {self._length(self._ask((), row))} in {beginning!r}…; shorten it, or let its beginning be cut"
            )
        for column in sorted(self.columns, key=lambda column: len(row[column]), reverse=True):
            row = self._shortened(row, column)
            asked = self._ask((), row)
            if self._fits(asked):
                return asked._replace(cut=True)
        raise ChainruleError(
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
        if self.chat is not None:
            return self._ask_in_chat(self.chat, chosen, row)
        if not self.causal:
            return self._ask_with_blank(chosen, row)
        text, head, rest = self._demonstrated(chosen)
        if not self.labels:
            before = self.prompt.before(row).rstrip(" ")  # the answer's first token has the space
            return Asked(text + before, [*head, *self.tokenizer.encode(rest + before)], chosen, [], [])
        questions = self.prompt.questions((), row, self.labels)
        pairs = [pair_of(self.tokenizer, rest + before, ending) for before, ending in questions]
        pairs = [Pair([*head, *context[1:]], continuation) for context, continuation in pairs]
        return _asked(text + questions[0].before, chosen, [ending for _, ending in questions], pairs)

    def _ask_in_chat(self, chat: Chat, chosen: tuple[int, ...], row: Row) -> Asked:
        messages = self.prompt.messages(self._shown(chosen), row)
        text, pieces = chat.render(messages), chat.tokens_and_texts(messages)
        if not self.labels:
            return Asked(text, self.tokenizer.join(pieces), chosen, [], [])
        begun = pieces.pop() if isinstance(pieces[-1], str) else ""  # the template's own words after its last token
        head = self.tokenizer.join(pieces)
        endings = [self.prompt.word(label) + self.prompt.after(row) for label in self.labels]
        return _asked(text, chosen, endings, [pair_of(self.tokenizer, str(begun), each, head) for each in endings])

    def _ask_with_blank(self, chosen: tuple[int, ...], row: Row) -> Asked:
        """For a masked model, which sees what follows the answer's place: as many blanks as a label word has tokens."""
        before = self.prompt.prompt(self._shown(chosen), row)
        after, mask = self.prompt.after(row), self.tokenizer.mask
        assert mask is not None, "a masked language model has a mask"
        words = [self.prompt.word(label) for label in self.labels]
        options = []
        for word in words:
            # spaces before the answer are told with it, as in `Prompt.questions`
            text, first, end = before + word + after, len(before.rstrip(" ")), len(before + word)
            tokens = [self.tokenizer.bos_id, *self.tokenizer.encode(text), *self.tokenizer.closing]
            spans = enumerate(self.tokenizer.spans(text), 1)
            options.append(
                masked_at(tokens, [n for n, (start, stop) in spans if stop > first and start < end], mask.id)
            )
        return Asked(before + self.tokenizer.named["mask_token"] + after, [], chosen, words, options)

    def _demonstrate(self, chosen: tuple[int, ...]) -> tuple[str, list[int], str]:
        """The demonstrations' text; the tokens, ⊥ first, that it has whatever follows; and the rest of the text."""
        shown = [self.prompt.filled(row, label) for row, label in self._shown(chosen)]
        text = "".join(example + self.prompt.separator for example in shown)
        cut = self.tokenizer.cut(text)
        return text, [self.tokenizer.bos_id, *self.tokenizer.encode(text[:cut])], text[cut:]

    def _shown(self, chosen: tuple[int, ...]) -> list[tuple[Row, str]]:
        """The examples in the order of the prompt."""
        return [(self.pool.rows[index], self.pool.labels[index]) for index in reversed(chosen)]

    def _fits(self, asked: Asked) -> bool:
        return self._length(asked) <= self.context

    def _length(self, asked: Asked) -> int:
        """Positions of the context that are needed."""
        needed = [
            len(option.tokens) if isinstance(option, Blanks) else len(option.context) + len(option.continuation) - 1
            for option in asked.options  # the last token of a continuation is scored, but never read
        ]
        return max(needed, default=len(asked.tokens) + self.answer_tokens)


def _asked(text: str, chosen: tuple[int, ...], endings: list[str], pairs: list[Pair]) -> Asked:
    """All endings are scored after the same tokens, even if with one of them the prompt is tokenized otherwise."""
    tokens = _common([pair.context for pair in pairs])
    options = [Pair(tokens, [*pair.context[len(tokens) :], *pair.continuation]) for pair in pairs]
    return Asked(text, tokens, chosen, endings, options)


def _common(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The longest beginning of all: the one that the least and the greatest have in common."""
    least, greatest = min(map(list, sequences)), max(map(list, sequences))
    pairs = enumerate(zip(least, greatest, strict=False))
    return least[: next((place for place, (one, other) in pairs if one != other), len(least))]
