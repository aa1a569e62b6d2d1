"""Kinds of values that a request's field may have. Each checks a value, and describes itself as JSON Schema: what
`/openapi.json` says of a field is what it is checked by. Knows no field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chainrule.serving.requests import RequestError, shown

Schema = dict[str, Any]


class Kind(Protocol):
    """A kind of value."""

    @property
    def wanted(self) -> str:
        """The kind in words, for errors."""

    def schema(self) -> Schema:
        """The kind as JSON Schema."""

    def check(self, value: Any, name: str) -> None:
        """RequestError, which names the field, for a value of another kind."""


def wrong(name: str, wanted: str, value: Any = None) -> RequestError:
    """The error for a field with a value that is not what is wanted; None: it was not given."""
    return RequestError(f"{name}: wanted {wanted}, got {'none' if value is None else shown(value)}", name)


def unsupported(name: str, why: str) -> RequestError:
    """The error for a field, or a value of one, that is not supported."""
    return RequestError(f"{name}: {why}", name, code="unsupported_parameter")


@dataclass(frozen=True)
class Text:
    """A string of at least so many characters."""

    least: int = 0

    @property
    def wanted(self) -> str:
        return "a string of at least one character" if self.least else "a string"

    def schema(self) -> Schema:
        return {"type": "string", "minLength": self.least} if self.least else {"type": "string"}

    def check(self, value: Any, name: str) -> None:
        if not isinstance(value, str) or len(value) < self.least:
            raise wrong(name, self.wanted, value)


@dataclass(frozen=True)
class Flag:
    """true or false."""

    wanted: str = "true or false"

    def schema(self) -> Schema:
        return {"type": "boolean"}

    def check(self, value: Any, name: str) -> None:
        if not isinstance(value, bool):
            raise wrong(name, self.wanted, value)


@dataclass(frozen=True)
class Whole:
    """A whole number in a range."""

    least: int
    most: int

    @property
    def wanted(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def check(self, value: Any, name: str) -> None:
        if type(value) is not int or not self.least <= value <= self.most:
            raise wrong(name, self.wanted, value)


@dataclass(frozen=True)
class Number:
    """A number in a range."""

    least: float
    most: float

    @property
    def wanted(self) -> str:
        return f"a number from {self.least:g} to {self.most:g}"

    def schema(self) -> Schema:
        return {"type": "number", "minimum": self.least, "maximum": self.most}

    def check(self, value: Any, name: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.least <= value <= self.most:
            raise wrong(name, self.wanted, value)


@dataclass(frozen=True)
class OneOf:
    """One of some strings."""

    options: Sequence[str]

    @property
    def wanted(self) -> str:
        return f"one of {', '.join(self.options)}"

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.options)}

    def check(self, value: Any, name: str) -> None:
        if value not in self.options:
            raise wrong(name, self.wanted, value)


@dataclass(frozen=True)
class Only:
    """Of a field that is not supported: the values of it that change nothing, beside null."""

    values: Sequence[Any] = ()
    why: str = "not supported"

    @property
    def wanted(self) -> str:
        return " or ".join(map(shown, (*self.values, None)))

    def schema(self) -> Schema:
        return {"enum": list(self.values)} if self.values else {"type": "null"}

    def check(self, value: Any, name: str) -> None:
        if not any(value == each and type(value) is type(each) for each in self.values):
            raise unsupported(name, f"{self.why}; leave it out (got {shown(value)})")


@dataclass(frozen=True)
class Ids:
    """A list of whole numbers from 0 on: tokens, rows. How many there are is checked elsewhere."""

    least: int = 1
    wanted: str = "a list of whole numbers from 0 on"

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": self.least}

    def check(self, value: Any, name: str) -> None:
        fine = isinstance(value, list) and len(value) >= self.least and all(type(each) is int for each in value)
        if not fine or min(value, default=0) < 0:
            raise wrong(name, self.wanted, value)


@dataclass(frozen=True)
class ListOf:
    """A list of values of one kind."""

    kind: Kind
    least: int
    most: int
    wanted: str

    def schema(self) -> Schema:
        return {"type": "array", "items": self.kind.schema(), "minItems": self.least, "maxItems": self.most}

    def check(self, value: Any, name: str) -> None:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise wrong(name, self.wanted, value)
        for number, each in enumerate(value):
            self.kind.check(each, f"{name}[{number}]")


@dataclass(frozen=True)
class Texts:
    """An object of any names, whose values are strings."""

    wanted: str = "an object of strings"

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": {"type": "string"}}

    def check(self, value: Any, name: str) -> None:
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise wrong(name, self.wanted, value)


@dataclass(frozen=True)
class Either:
    """A value of any of some kinds."""

    kinds: Sequence[Kind]
    wanted: str

    def schema(self) -> Schema:
        return {"anyOf": [kind.schema() for kind in self.kinds]}

    def check(self, value: Any, name: str) -> None:
        for kind in self.kinds:
            try:
                return kind.check(value, name)
            except RequestError:
                pass
        raise wrong(name, self.wanted, value)


@dataclass(frozen=True)
class Form:
    """An object of known fields; null is a field that was not given. Others are refused, never ignored."""

    fields: Mapping[str, Kind]
    required: Sequence[str] = ()
    wanted: str = "an object"

    def schema(self) -> Schema:
        found: Schema = {
            "type": "object",
            "properties": {
                name: kind.schema() if name in self.required else or_null(kind.schema())
                for name, kind in self.fields.items()
            },
            "additionalProperties": False,
        }
        return found | {"required": list(self.required)} if self.required else found

    def check(self, value: Any, name: str) -> None:
        if not isinstance(value, dict):
            raise wrong(name, self.wanted, value)
        inside = f"{name}." if name else ""
        for field, each in value.items():
            if field not in self.fields:
                known = ", ".join(self.fields)
                raise unsupported(inside + field, f"this field is not supported; leave it out (known: {known})")
            if each is not None:
                self.fields[field].check(each, inside + field)
        for field in self.required:
            if value.get(field) is None:
                raise wrong(inside + field, self.fields[field].wanted)


def or_null(schema: Schema) -> Schema:
    """What a schema allows, or null."""
    return schema if schema == {"type": "null"} else {"anyOf": [schema, {"type": "null"}]}


TEXT_OR_TOKENS = Either((Text(), Ids()), "a text, or at least one token")


def texts_or_tokens(most: int) -> Either:
    """A text, the tokens of one, or a list of so many of either."""
    wanted = f"a text, tokens, or a list of 1 to {most} of them"
    return Either((Text(), Ids(), ListOf(TEXT_OR_TOKENS, 1, most, wanted)), wanted)
