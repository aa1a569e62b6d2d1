"""A request's JSON body: read up to a size, its fields checked one by one. Knows no model.

Every mistake of a client is a `RequestError`, in the form of OpenAI's errors. A field that is not known is one too: it
is never ignored.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")
BODY_BYTES = 8 * 2**20  # the most that is read of a body


class RequestError(Exception):
    """What a client gets in place of an answer: `message`, the field it is about, and OpenAI's kind of error."""

    def __init__(
        self,
        message: str,
        field: str | None = None,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.field, self.status = message, field, status
        self.type, self.code, self.headers = type, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's form of an error."""
        return {"error": {"message": self.message, "type": self.type, "param": self.field, "code": self.code}}


async def read_json(request: Request, limit: int = BODY_BYTES) -> dict[str, Any]:
    """The body of a request, a JSON object of at most `limit` bytes; RequestError for any other."""
    declared = request.headers.get("content-length", "0")
    size, parts = int(declared) if declared.isdecimal() else 0, []
    if size <= limit:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                break
            parts.append(part)
    if size > limit:
        raise RequestError(f"body: wanted at most {limit} bytes, got more", status=413)
    body = b"".join(parts)
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
        if b"\\u" in body:
            json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
    except RecursionError:
        raise RequestError("body: wanted JSON, got one that is nested too deep") from None
    except ValueError as error:  # of bytes that are no UTF-8 too
        raise RequestError(f"body: wanted JSON, got {error}") from None
    if not isinstance(found, dict):
        raise RequestError(f"body: wanted a JSON object, got {shown(found)}")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name}, which JSON has not")


def shown(value: object) -> str:
    """A value in an error: the beginning of its JSON."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:60] + "…"


class Fields:
    """The fields of a JSON object, each read by its kind; null is a field that was not given.

    Raises RequestError for a field that is not in `known`, at once, and for one of another kind when it is read.
    """

    def __init__(self, values: Mapping[str, Any], known: Collection[str], inside: str = "") -> None:
        self._inside = f"{inside}." if inside else ""
        for name in values:
            if name not in known:
                raise RequestError(
                    f"{self._inside}{name}: this field is not supported; leave it out (known: {', '.join(known)})",
                    f"{self._inside}{name}",
                    code="unsupported_parameter",
                )
        self._values = {name: value for name, value in values.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def raw(self, name: str) -> Any:
        """The value as JSON has it; None for one that was not given."""
        return self._values.get(name)

    def name_of(self, name: str) -> str:
        """The field as an error names it."""
        return self._inside + name

    def error(self, name: str, wanted: str) -> RequestError:
        """The error for a field with a value that is not what is wanted."""
        got = f"got {shown(self._values[name])}" if name in self._values else "got none"
        return RequestError(f"{self._inside}{name}: wanted {wanted}, {got}", self._inside + name)

    def text(self, name: str, default: T = None) -> str | T:  # type: ignore[assignment]
        """A string."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(name, "a string")
        return value

    def required_text(self, name: str) -> str:
        """A string that must be there."""
        value: str | None = self.text(name)
        if value is None:
            raise self.error(name, "a string")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def integer(self, name: str, default: T = None, *, least: int, most: int) -> int | T:  # type: ignore[assignment]
        """A whole number in a range."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(name, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, default: T = None, *, least: float, most: float) -> float | T:  # type: ignore[assignment]
        """A number in a range."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.error(name, f"a number from {least:g} to {most:g}")
        return float(value)

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        """One of some strings."""
        value = self._values.get(name, default)
        if value not in options:
            raise self.error(name, f"one of {', '.join(options)}")
        return str(value)

    def texts(self, name: str, *, most: int) -> list[str]:
        """A string, or a list of at most so many; none where it was not given."""
        value = self._values.get(name)
        if value is None:
            return []
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or len(found) > most or not all(isinstance(each, str) for each in found):
            raise self.error(name, f"a string or a list of at most {most}")
        return found

    def fields(self, name: str, known: Collection[str]) -> "Fields":
        """An object's fields; none where it was not given."""
        value = self._values.get(name, {})
        if not isinstance(value, dict):
            raise self.error(name, "an object")
        return Fields(value, known, self._inside + name)

    def only(self, name: str, *allowed: object, why: str = "not supported") -> None:
        """RequestError where a field has another value than these, which change nothing."""
        value = self._values.get(name)
        if value is not None and not any(value == each and type(value) is type(each) for each in allowed):
            raise RequestError(
                f"{self._inside}{name}: {why}; leave it out (got {shown(value)})",
                self._inside + name,
                code="unsupported_parameter",
            )
