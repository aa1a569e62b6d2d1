"""What the page's requests and answers have in common. Knows fields and tokens, no view."""

from collections.abc import Sequence
from typing import Any

from chainrule.serving.requests import Fields
from chainrule.tokens.tokenizer import Tokenizer


def whole_numbers(fields: Fields, name: str) -> list[int]:
    """A field that is a list of whole numbers; none where it was not given. RequestError for any other."""
    value = fields.raw(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise fields.error(name, "a list of whole numbers")
    return value


def object_of_texts(fields: Fields, name: str) -> dict[str, str]:
    """A field that is an object of strings; none where it was not given. RequestError for any other."""
    value = fields.raw(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise fields.error(name, "an object of strings")
    return value


def shown_tokens(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[dict[str, Any]]:
    r"""Each token's id and its text for display; bytes that are no whole character are \xe2, BOS is ⊥."""
    texts = tokenizer.token_texts(tokens)
    return [{"id": token, "text": text} for token, text in zip(tokens, texts, strict=True)]
