"""Prompts that fit the context, from rows and demonstrations. Knows text and tokens, no probabilities.

Of a prompt that is too long the first demonstrations are dropped, then the beginning of the row's longest text is cut.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from chainrule.errors import ChainruleError
from chainrule.language_model import Pretrained
from chainrule.scoring.blanks import masked_at
from chainrule.scoring.continuations import Pair, pair_of
from chainrule.scoring.longer import Longer
from chainrule.tasks.examples import Examples, Row
from chainrule.tasks.prompt import Prompt
from chainrule.tokens.chat import Chat
from chainrule.training.spans import Span

_SETS_IN_MEMORY = 16  # of demonstrations: rows that share a set may differ in how many of it fit

Options = Sequence[Pair] | Sequence[Span]


class NoRoomError(ChainruleError):
    """A prompt that does not fit into the context even without the row's text."""


class RowPrompt(NamedTuple):
    """The prompt of one row."""

    prompt: str  # its exact text, without BOS
    tokens: Sequence[int]  # BOS and the prompt's tokens that do not depend on the answer
    chosen: tuple[int, ...]  # the indices of its demonstrations in the pool, the last of the prompt first
    endings: list[str]  # the text scored for each label: its word and what follows; none where answers are generated
    options: Options  # for each label: `tokens` and those of its ending, or a masked model's input with blanks
    cut: bool = False  # whether the row's beginning was cut


class PromptMaker:
    """Makes the prompts of one predictor.

    `columns`: those with text. `labels`: the choices; none where the answer is generated, and then `answer_tokens` of
    the context are kept for it. `pool`: the examples to take demonstrations from. `chat`: the model's chat template, if
    it is to be used.
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

    def fit(self, chosen: tuple[int, ...], row: Row) -> RowPrompt:
        """The row after as many of the demonstrations `chosen` as fit into the context, the first of them next to it.

        Raises ChainruleError for a row that does not fit even alone, with longer="refuse"; and NoRoomError for a
        template that does not fit even without text.
        """
        prompt = self._prompt(chosen, row)
        if self._fits(prompt):
            return prompt
        numbers = range(1, len(chosen))  # if n fit, fewer fit too
        shots = bisect_left(numbers, True, key=lambda n: not self._fits(self._prompt(chosen[:n], row)))
        prompt = self._prompt(chosen[:shots], row)
        return prompt if self._fits(prompt) else self._cut(row)

    def _cut(self, row: Row) -> RowPrompt:
        """The row alone, the beginning of its longest text cut; where that is not enough, of the next longest too."""
        if self.longer == "refuse":
            beginning = next(row[column] for column in self.columns)[:40]
            raise ChainruleError(
                f"text: wanted at most {self.context} tokens (the context) with the prompt around it, got"
                f" {self._length(self._prompt((), row))} in {beginning!r}…; shorten it, or let its beginning be cut"
            )
        for column in sorted(self.columns, key=lambda column: len(row[column]), reverse=True):
            row = self._shortened(row, column)
            prompt = self._prompt((), row)
            if self._fits(prompt):
                return prompt._replace(cut=True)
        raise NoRoomError(
            f"template: wanted at most {self.context} tokens (the context), got {self._length(prompt)} with no text in"
            " it; shorten it, or take a model with a longer context"
        )

    def _shortened(self, row: Row, column: str) -> Row:
        """The row with as much of the end of a text as fits, possibly nothing."""
        text = row[column]
        starts = range(len(text))
        start = bisect_left(starts, True, key=lambda start: self._fits(self._prompt((), {**row, column: text[start:]})))
        return {**row, column: text[start:]}

    def _prompt(self, chosen: tuple[int, ...], row: Row) -> RowPrompt:
        if self.chat is not None:
            return self._chat_prompt(self.chat, chosen, row)
        if not self.causal:
            return self._prompt_with_blanks(chosen, row)
        text, head, rest = self._demonstrated(chosen)
        if not self.labels:
            before = self.prompt.before(row).rstrip(" ")  # the answer's first token has the space
            return RowPrompt(text + before, [*head, *self.tokenizer.encode(rest + before)], chosen, [], [])
        questions = self.prompt.questions((), row, self.labels)
        pairs = [pair_of(self.tokenizer, rest + before, ending) for before, ending in questions]
        pairs = [Pair([*head, *context[1:]], continuation) for context, continuation in pairs]
        return _with_common_prefix(text + questions[0].before, chosen, [ending for _, ending in questions], pairs)

    def _chat_prompt(self, chat: Chat, chosen: tuple[int, ...], row: Row) -> RowPrompt:
        messages = self.prompt.messages(self._shown(chosen), row)
        text, parts = chat.render(messages), chat.tokens_and_texts(messages)
        if not self.labels:
            return RowPrompt(text, self.tokenizer.join(parts), chosen, [], [])
        begun = parts.pop() if isinstance(parts[-1], str) else ""  # the template's text after its last special token
        head = self.tokenizer.join(parts)
        endings = [self.prompt.word(label) + self.prompt.after(row) for label in self.labels]
        return _with_common_prefix(
            text, chosen, endings, [pair_of(self.tokenizer, str(begun), each, head) for each in endings]
        )

    def _prompt_with_blanks(self, chosen: tuple[int, ...], row: Row) -> RowPrompt:
        """For a masked model, which sees what follows the answer: as many blanks as a label word has tokens."""
        before = self.prompt.prompt(self._shown(chosen), row)
        after, mask = self.prompt.after(row), self.tokenizer.mask
        assert mask is not None, "a masked language model has a mask"
        words = [self.prompt.word(label) for label in self.labels]
        options = []
        for word in words:
            # Spaces before the answer are predicted with it, as in `Prompt.questions`.
            text, first, end = before + word + after, len(before.rstrip(" ")), len(before + word)
            tokens = [self.tokenizer.bos_id, *self.tokenizer.encode(text), *self.tokenizer.closing]
            spans = enumerate(self.tokenizer.spans(text), 1)
            options.append(
                masked_at(tokens, [n for n, (start, stop) in spans if stop > first and start < end], mask.id)
            )
        return RowPrompt(before + self.tokenizer.named["mask_token"] + after, [], chosen, words, options)

    def _demonstrate(self, chosen: tuple[int, ...]) -> tuple[str, list[int], str]:
        """The demonstrations' text; its tokens, BOS first, that do not depend on what follows; and the rest of it."""
        shown = [self.prompt.filled(row, label) for row, label in self._shown(chosen)]
        text = "".join(example + self.prompt.separator for example in shown)
        cut = self.tokenizer.cut(text)
        return text, [self.tokenizer.bos_id, *self.tokenizer.encode(text[:cut])], text[cut:]

    def _shown(self, chosen: tuple[int, ...]) -> list[tuple[Row, str]]:
        """The examples in the order of the prompt."""
        return [(self.pool.rows[index], self.pool.labels[index]) for index in reversed(chosen)]

    def _fits(self, prompt: RowPrompt) -> bool:
        return self._length(prompt) <= self.context

    def _length(self, prompt: RowPrompt) -> int:
        """How many positions of the context it needs."""
        needed = [
            len(option.tokens) if isinstance(option, Span) else len(option.context) + len(option.continuation) - 1
            for option in prompt.options  # the last token of a continuation is scored, but not processed
        ]
        return max(needed, default=len(prompt.tokens) + self.answer_tokens)


def _with_common_prefix(text: str, chosen: tuple[int, ...], endings: list[str], pairs: list[Pair]) -> RowPrompt:
    """All endings are scored after the same tokens, even if the prompt is tokenized differently with one of them."""
    tokens = _common_prefix([pair.context for pair in pairs])
    options = [Pair(tokens, [*pair.context[len(tokens) :], *pair.continuation]) for pair in pairs]
    return RowPrompt(text, tokens, chosen, endings, options)


def _common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The longest prefix of all sequences: that of the least and the greatest in lexical order."""
    least, greatest = min(map(list, sequences)), max(map(list, sequences))
    pairs = enumerate(zip(least, greatest, strict=False))
    return least[: next((index for index, (one, other) in pairs if one != other), len(least))]
