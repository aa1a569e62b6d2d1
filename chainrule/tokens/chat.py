"""A model's chat template: messages to tokens, where what a user wrote can only ever be text. Knows no model.

The template is rendered as transformers does. A control token in what comes out is one only if the template wrote it:
in the messages, each spelling of one is first put out of the way, and is text again when the rest is tokenized.
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
_OPEN, _CLOSE = "\U0010fffc", "\U0010fffd"  # around the number of what was put out of the way
_AWAY = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_CONTENT = f"{_OPEN}{_CLOSE}"  # stands for a message where the template is looked at


class Chat:
    """How one tokenizer's template writes messages down. `of` makes it."""

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
                "chat: wanted a model with a chat_template (chat_template.jinja, or in tokenizer_config.json), got one"
                " without; ask it in plain text"
            )
        return cls(tokenizer, template)

    def render(self, messages: Sequence[Message]) -> str:
        """The messages, and the beginning of the assistant's answer, as text. Raises what `tokens_and_texts` does."""
        return self._back(self._rendered(messages))

    def tokens_and_texts(self, messages: Sequence[Message]) -> list[int | str]:
        """The messages, and the beginning of the assistant's answer: control tokens, and the text between them.

        Raises ModelError for messages that the template refuses, and for one that spells what the template sets
        between messages in plain text: with it a user could speak for another role.
        """
        rendered = self._rendered(messages)
        found: list[int | str] = []
        start, eats = 0, False  # eats: the special token before has the white space behind it
        for match in self._spelling.finditer(rendered):
            if match[0] == _OPEN:
                continue
            token = self.tokenizer.control[match[0]]
            text = rendered[start : match.start()]
            text = text.lstrip() if eats else text
            found += [self._back(text.rstrip() if token.lstrip else text), token.id]
            start, eats = match.end(), token.rstrip
        found.append(self._back(rendered[start:].lstrip() if eats else rendered[start:]))
        return [piece for piece in found if piece != ""]

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """What `tokens_and_texts` gives, all of it as tokens; no ⊥ in front but the template's."""
        return self.tokenizer.join(self.tokens_and_texts(messages))

    def _rendered(self, messages: Sequence[Message]) -> str:
        """With a sign in place of each control token that a message spells."""
        for content in (message["content"] for message in messages):
            for border in self._borders:
                if border in content:
                    raise ModelError(
                        f"chat: wanted messages without {border!r}, by which this model's template tells who speaks,"
                        f" got {content[:40]!r}…; leave it out, or ask in plain text"
                    )
        return self._render([{**message, "content": self._away(message)} for message in messages])

    def _render(self, messages: Sequence[Message]) -> str:
        named = self.tokenizer.named
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **named
            )
        except Exception as error:  # whatever it is: the template is a program of somebody else
            raise ModelError(f"chat: the model's template refuses these messages: {error}") from None

    @cached_property
    def _borders(self) -> tuple[str, ...]:
        """What the template writes around a message in plain text alone, with no special token that guards it."""
        marks = (piece.strip() for piece in self._around if not self._spelling.search(piece))
        return tuple(mark for mark in marks if mark)

    @cached_property
    def _around(self) -> list[str]:
        """What the template writes before, between and behind messages."""
        user, assistant, system = ({"role": role, "content": _CONTENT} for role in ("user", "assistant", "system"))
        around = self._render([user, assistant, user]).split(_CONTENT)
        with suppress(ChainruleError):  # a template may know no system
            around += self._render([system, user]).split(_CONTENT)
        return around

    def _away(self, message: Message) -> str:
        """Its content without spellings; the assistant's keeps those of no special token, such as <think>, which some
        templates look for."""
        kept = self._kept if message["role"] == "assistant" else frozenset[str]()
        return self._spelling.sub(
            lambda match: match[0] if match[0] in kept else f"{_OPEN}{self._number[match[0]]}{_CLOSE}",
            message["content"],
        )

    @cached_property
    def _kept(self) -> frozenset[str]:
        """The control tokens that are no special ones, nor stand around a message."""
        control = self.tokenizer.control.keys() - self.tokenizer.special.keys()
        return frozenset(token for token in control if not any(token in border for border in self._around))

    def _back(self, text: str) -> str:
        spellings = list(self._number)
        return _AWAY.sub(lambda match: spellings[int(match[1])], text)

    @cached_property
    def _template(self) -> "Template":
        """Compiled as transformers does: in jinja's sandbox, as a template of the Hub is nobody's code to trust."""
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
    """The tag {% generation %}, by which some templates mark the assistant's words: here it does nothing."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  (jinja's own way)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return Generation
