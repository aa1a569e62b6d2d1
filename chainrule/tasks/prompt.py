"""Rows to prompts: a template, label words, demonstrations, and where the answer goes. Knows text, not tokens."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from chainrule.errors import DataError
from chainrule.storage.columns import missing_column

Row = Mapping[str, str]  # column -> text

HISTORY = "history"  # the column with the messages before a row's, where `Prompt.history` says that there are some
ANSWER = "label"  # {label} in a template is where the answer goes, whatever the label's column is called
_MARKS = re.compile(r"(\{\{|\}\}|\{[^{}]*\})")


class Question(NamedTuple):
    """A label is scored by p(continuation | before); `before` does not end with a space."""

    before: str
    continuation: str


@dataclass(frozen=True)
class Prompt:
    """How a row is asked about: `template` names text columns as {column} and, once, {label}, where the answer goes.

    A literal brace is written twice; braces in the rows' texts are text. `words`: label -> label word; a label
    that is not listed is its own word. Raises DataError for a template without {label} or with a lone brace.
    """

    template: str
    separator: str = "\n\n"
    words: Mapping[str, str] = field(default_factory=dict)
    history: bool = False  # a row's column "history" may have the messages before it, as JSON

    def __post_init__(self) -> None:
        times = list(columns_in(self.template)).count(ANSWER)
        if times != 1:
            raise DataError(f"template: wanted {{label}} once, where the answer goes, got it {times} times: correct it")

    @classmethod
    def default(cls, text: Sequence[str], label: str) -> "Prompt":
        """A line for each text column, then the answer's: "Review: {review}" and "Stars: {label}"."""
        lines = [f"{_title(column)}: {{{column}}}" for column in text]
        return cls("\n".join([*lines, f"{_title(label)}: {{{ANSWER}}}"]))

    def before(self, row: Row) -> str:
        """The filled template up to {label}."""
        return fill(self._halves[0], row)

    def after(self, row: Row) -> str:
        """What follows {label}: it is scored too."""
        return fill(self._halves[1], row)

    @property
    def _halves(self) -> tuple[str, str]:
        parts = _MARKS.split(self.template)
        index = parts.index(f"{{{ANSWER}}}")
        return "".join(parts[:index]), "".join(parts[index + 1 :])

    @property
    def ends_with_answer(self) -> bool:
        """Whether no column follows {label}."""
        return not list(columns_in(self._halves[1]))

    def word(self, label: str) -> str:
        return self.words.get(label, label)

    def filled(self, row: Row, label: str) -> str:
        """The row with its answer: a demonstration."""
        return self.before(row) + self.word(label) + self.after(row)

    def prompt(self, demonstrations: Sequence[tuple[Row, str]], row: Row) -> str:
        """The demonstrations, each followed by the separator, and the row up to its answer."""
        shown = [self.filled(example, label) for example, label in demonstrations]
        return self.separator.join([*shown, self.before(row)])

    def messages(self, demonstrations: Sequence[tuple[Row, str]], row: Row) -> list[dict[str, str]]:
        """The same as a chat: each demonstration is a user's message and the assistant's answer."""

        def asked(row: Row) -> dict[str, str]:
            return {"role": "user", "content": self.before(row).rstrip(" ")}

        found = []
        for example, label in demonstrations:
            found += [asked(example), {"role": "assistant", "content": self.word(label) + self.after(example)}]
        before = json.loads(row.get(HISTORY, "[]")) if self.history else []
        return [*found, *before, asked(row)]

    def questions(self, demonstrations: Sequence[tuple[Row, str]], row: Row, labels: Sequence[str]) -> list[Question]:
        """For each label the text that is given, the same for all, and the text that is scored after it.

        Spaces before {label} are scored with the word: most tokenizers make them the beginning of its first token.
        """
        asked = self.prompt(demonstrations, row)
        before = asked.rstrip(" ")
        return [Question(before, asked[len(before) :] + self.word(label) + self.after(row)) for label in labels]

    def for_labels(self, labels: Sequence[str], where: str = "") -> "Prompt":
        """The same prompt with its label words by these labels, which have no space around them.

        Raises DataError, which begins with `where`, for a word of another label, and for a label with two words.
        """
        words: dict[str, str] = {}
        for label, word in ((label.strip(), word) for label, word in self.words.items()):
            if words.setdefault(label, word) != word:
                raise DataError(f"[prompt.words]: {label!r} has two words, {words[label]!r} and {word!r}")
        for label in words:
            if label not in labels:
                listed = ", ".join(map(repr, labels))
                raise DataError(f"{where}[prompt.words] has {label!r}, none of the labels {listed}: correct it")
        return replace(self, words=words)

    def check_columns(self, text: Sequence[str]) -> None:
        """Raise DataError unless the template names some of the text columns and no other column."""
        check_columns("[prompt] template", self.template, text, answer=True)

    def check_words(self, labels: Sequence[str]) -> None:
        """Raise DataError unless each label has a meaningful word, and no word is a prefix of another."""
        meaningless = [label for label in labels if label not in self.words and not is_word(label)]
        if meaningless:
            example = ", ".join(f'{label} = "…"' for label in meaningless[:2])
            raise DataError(
                f"prompting wants labels that are words, got {', '.join(map(repr, meaningless[:9]))}:"
                f" give each a word in [prompt.words], as in {example}"
            )
        words = sorted((self.word(label), label) for label in labels)
        for word, label in words:
            if not word.strip():
                raise DataError(f"[prompt.words]: wanted a word for {label!r}, got {word!r}: write one")
        for (word, label), (longer, other) in pairwise(words):  # sorted: a prefix comes right before its longer word
            if longer.startswith(word):
                raise DataError(
                    f"[prompt.words]: the word {word!r} of {label!r} begins {longer!r} of {other!r}:"
                    " a model would find both in one answer; write words that differ earlier"
                )


def is_word(label: str) -> bool:
    """Whether a label can mean something to a language model: it has a letter, and more than one character."""
    return len(label) > 1 and any(character.isalpha() for character in label)


def columns_in(template: str) -> Iterator[str]:
    """The names in braces, in order; DataError for an unpaired brace."""
    for index, part in enumerate(_MARKS.split(template)):
        if index % 2 == 0:
            if "{" in part or "}" in part:
                raise DataError(
                    f"template: wanted braces around columns only, got a single one in {template!r}: double it"
                )
        elif part not in ("{{", "}}"):
            yield part[1:-1]


def fill(template: str, row: Row) -> str:
    """The template with each name in braces replaced by the row's text; DataError for a column that the row lacks.

    >>> fill("{{{text}}}", {"text": "a {b}"})
    '{a {b}}'
    """

    def filled(mark: str) -> str:
        if mark in ("{{", "}}"):
            return mark[0]
        if mark[1:-1] not in row:
            raise missing_column("template", mark[1:-1], list(row))
        return row[mark[1:-1]]

    return "".join(filled(part) if index % 2 else part for index, part in enumerate(_MARKS.split(template)))


def check_columns(name: str, template: str, text: Sequence[str], *, answer: bool = False) -> None:
    """Raise DataError unless the template called `name` names some of the text columns and, with `answer`, {label}."""
    named = set(columns_in(template))
    listed = ", ".join(f"{{{column}}}" for column in text)
    for column in sorted(named - set(text) - ({ANSWER} if answer else set())):
        raise DataError(f"{name}: {{{column}}} is none of the text columns {listed}: name these, or add it to text")
    if not named & set(text):
        raise DataError(f"{name}: wanted a text column, {listed}, got {template!r}, which names none: add one")


def _title(column: str) -> str:
    return column[:1].upper() + column[1:]
