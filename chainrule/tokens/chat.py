"""A model's chat template: messages to tokens, where a user's message never becomes a special token. Knows no model.

The template is rendered as transformers does. Only the template can write control tokens: where a message spells one,
a placeholder takes its place while the template is rendered and split, and becomes text again when it is tokenized.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from chainrule.errors import ChainruleError, ModelError
from chainrule.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, str]  # its role, "user", "assistant" or "system", and its content
_OPEN, _CLOSE = "\U0010fffc", "\U0010fffd"  # around the number of a spelling, its placeholder
_PLACEHOLDER = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_CONTENT = f"{_OPEN}{_CLOSE}"  # a message, to see what the template writes around it


class Chat:
    """A tokenizer's chat template. Made by `Chat.of`."""

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        self.tokenizer, self._source = tokenizer, template
        spellings = sorted({*tokenizer.control, _OPEN}, key=lambda spelling: (-len(spelling), spelling))
        self._number = {spelling: number for number, spelling in enumerate(spellings)}
        self._spelling = re.compile("|".join(map(re.escape, spellings)))

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Chat":
        """Raises ModelError for a tokenizer without a chat template."""
        template = tokenizer.chat_template
        if template is None:
            raise ModelError(
                "--chat: wanted a model with a chat_template (chat_template.jinja, or in tokenizer_config.json), got"
                " one without; ask it in plain text"
            )
        return cls(tokenizer, template)

    def render(self, messages: Sequence[Message]) -> str:
        """The messages, and the beginning of the assistant's answer, as text. Raises what `tokens_and_texts` does."""
        return self._restored(self._rendered(messages))

    def tokens_and_texts(self, messages: Sequence[Message]) -> list[int | str]:
        """The messages, and the beginning of the assistant's answer: control tokens, and the text between them.

        Raises ModelError for messages that the template refuses, and for one that spells what the template writes
        between messages in plain text: a user could begin another role's turn with it.
        """
        rendered = self._rendered(messages)
        found: list[int | str] = []
        start, strips = 0, False  # strips: the special token before includes the white space after it
        for match in self._spelling.finditer(rendered):
            if match[0] == _OPEN:
                continue
            token = self.tokenizer.control[match[0]]
            text = rendered[start : match.start()]
            text = text.lstrip() if strips else text
            found += [self._restored(text.rstrip() if token.lstrip else text), token.id]
            start, strips = match.end(), token.rstrip
        found.append(self._restored(rendered[start:].lstrip() if strips else rendered[start:]))
        return [part for part in found if part != ""]

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The same as tokens; without BOS in front, unless the template writes it."""
        return self.tokenizer.join(self.tokens_and_texts(messages))

    @cached_property
    def end(self) -> int | None:
        """The control token that the template writes right behind an assistant's message; None where it writes none."""
        if len(self._around) < 3:  # a template that drops a message
            return None
        match = self._spelling.match(self._around[2].lstrip())
        return None if match is None else self.tokenizer.control[match[0]].id

    def _rendered(self, messages: Sequence[Message]) -> str:
        """With a placeholder for each control token that a message spells."""
        for content in (message["content"] for message in messages):
            for border in self._borders:
                if border in content:
                    raise ModelError(
                        f"chat: wanted messages without {border!r}, with which this model's template begins a turn,"
                        f" got {content[:40]!r}…; leave it out, or ask in plain text"
                    )
        return self._render([{**message, "content": self._without_spellings(message)} for message in messages])

    def _render(self, messages: Sequence[Message]) -> str:
        named = self.tokenizer.named
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **named
            )
        except Exception as error:  # of any kind: the template is a program of the model's authors
            raise ModelError(f"chat: the model's template refuses these messages: {error}") from None

    @cached_property
    def _borders(self) -> tuple[str, ...]:
        """What the template writes around messages in plain text alone, without a special token."""
        marks = (piece.strip() for piece in self._around if not self._spelling.search(piece))
        return tuple(mark for mark in marks if mark)

    @cached_property
    def _around(self) -> list[str]:
        """What the template writes before, between and after messages."""
        user, assistant, system = ({"role": role, "content": _CONTENT} for role in ("user", "assistant", "system"))
        around = self._render([user, assistant, user]).split(_CONTENT)
        with suppress(ChainruleError):  # a template may refuse a system message
            around += self._render([system, user]).split(_CONTENT)
        return around

    def _without_spellings(self, message: Message) -> str:
        """Its content with placeholders. The assistant's keeps spellings of tokens that are not special: some
        templates search it for <think>."""
        kept = self._kept if message["role"] == "assistant" else frozenset[str]()
        return self._spelling.sub(
            lambda match: match[0] if match[0] in kept else f"{_OPEN}{self._number[match[0]]}{_CLOSE}",
            message["content"],
        )

    @cached_property
    def _kept(self) -> frozenset[str]:
        """The control tokens that are neither special nor written around a message."""
        control = self.tokenizer.control.keys() - self.tokenizer.special.keys()
        return frozenset(token for token in control if not any(token in border for border in self._around))

    def _restored(self, text: str) -> str:
        spellings = list(self._number)
        return _PLACEHOLDER.sub(lambda match: spellings[int(match[1])], text)

    @cached_property
    def _template(self) -> "Template":
        """Compiled as transformers does: in jinja's sandbox, as a template from the Hub is not trusted."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> NoReturn:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_generation(), "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        try:
            return environment.from_string(self._source)
        except TemplateError as error:
            raise ModelError(f"chat: wanted a chat_template in jinja, got one that it cannot read: {error}") from None


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _generation() -> Any:
    """The tag {% generation %}, with which some templates mark the assistant's text for training: it does nothing."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  (jinja's own way)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return Generation
