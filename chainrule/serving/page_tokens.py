"""Tokens as the page shows them. Knows no view."""

from collections.abc import Sequence
from typing import Any

from chainrule.tokens.tokenizer import Tokenizer


def shown_tokens(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[dict[str, Any]]:
    r"""Each token's id and its text for display; bytes that are no whole character are \xe2, BOS is ⊥."""
    texts = tokenizer.token_texts(tokens)
    return [{"id": token, "text": text} for token, text in zip(tokens, texts, strict=True)]
