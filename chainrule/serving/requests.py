"""A request's JSON body, read up to a size, and the error for a client's mistake. Knows no field."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

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
        found = json.loads(body, parse_float=_number, parse_constant=_refuse_constant)
        if b"\\u" in body:
            json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
    except RecursionError:
        raise RequestError("body: wanted JSON, got one that is nested too deep") from None
    except ValueError as error:  # of bytes that are no UTF-8 too
        raise RequestError(f"body: wanted JSON, got {error}") from None
    if not isinstance(found, dict):
        raise RequestError(f"body: wanted a JSON object, got {shown(found)}")
    return found


def _number(written: str) -> int | float:
    """A number of JSON, which does not tell 1.0 from 1."""
    value = float(written)
    return int(value) if value.is_integer() else value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name}, which JSON has not")


def shown(value: object) -> str:
    """A value in an error: the beginning of its JSON."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:60] + "…"
