"""The forms that answers of completions and chat share: events, usage, the tokens' texts. Knows no request."""

import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from chainrule.tokens.tokenizer import Tokenizer

_LEAST = -9999.0  # what stands for log 0, which JSON has not
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def new_id(kind: str) -> str:
    """An answer's id."""
    return f"{kind}-{uuid4().hex}"


def now() -> int:
    """The time of an answer, in seconds since 1970."""
    return int(time.time())


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """How many tokens a request took."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as text: bytes that are no whole character as \\xe2, special tokens by their spelling."""
    return tokenizer.bos if token == tokenizer.bos_id else tokenizer.token_texts([token])[0]


def finite(log_prob: float) -> float:
    """A log-probability as JSON can have it."""
    return max(log_prob, _LEAST)


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + _to_json(data).encode() + b"\n\n"
