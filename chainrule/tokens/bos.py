"""Which token begins a document (BOS), and why. Knows a tokenizer's files and the model's, no text.

What the tokenizer puts in front of a text by itself; where it puts nothing, what separated documents in pretraining;
else the bos, eos or cls token that the files name. A token that marks the turns of a chat is none.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import tokenizers
from tokenizers import processors

# What separates documents in pretraining where the tokenizer puts nothing in front.
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "<|endofdocument|>", "<|eod|>")
_TURN = re.compile(r"im_start|im_end|im_sep|turn|eot|header|inst|user|assistant|system", re.IGNORECASE)


class Bos(NamedTuple):
    """The token that begins a document."""

    id: int
    reason: str


def surroundings(inner: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """What a tokenizer puts in front of a text and behind it by itself: often nothing."""
    for probe in chain(("a",), _vocabulary(inner)):
        try:
            text, whole = inner.encode(probe, add_special_tokens=False).ids, inner.encode(probe).ids
        except Exception:  # tokenizers raises nothing narrower for what a vocabulary of characters lacks
            continue
        if text:
            start = next(index for index in range(len(whole)) if whole[index : index + len(text)] == text)
            return list(whole[:start]), list(whole[start + len(text) :])
    return [], []


def _vocabulary(inner: tokenizers.Tokenizer) -> Iterator[str]:
    yield from inner.get_vocab(with_added_tokens=False)  # listed when it is wanted: there can be 262,144


def choose_bos(
    inner: tokenizers.Tokenizer,
    special: Sequence[str],
    named: Mapping[str, str],
    templates: Sequence[str],
    config: Mapping[str, Any],
) -> Bos | None:
    """The BOS of a tokenizer; None where its files name none.

    `special`: its special tokens; `named`: those with a role, such as bos_token; `templates`: of chats; `config`: the
    model's config.json, or nothing.
    """
    front, _ = surroundings(inner)
    if front:
        return Bos(front[0], "the tokenizer puts it in front of a text")
    separators = [token for token in (named.get("bos_token"), *SEPARATORS) if token in SEPARATORS and token in special]
    if separators:
        return Bos(_id(inner, separators[0]), "it separated documents in pretraining")
    for token, reason in _named(inner, named, config):
        turn = _TURN.search(token) or any(token in template for template in templates)
        if not turn and (id := inner.token_to_id(token)) is not None:
            return Bos(id, reason)
    return Bos(_id(inner, special[0]), "the only special token") if len(special) == 1 else None


def _id(inner: tokenizers.Tokenizer, token: str) -> int:
    id = inner.token_to_id(token)
    assert id is not None, "a special token is in the vocabulary"
    return id


def _named(
    inner: tokenizers.Tokenizer, named: Mapping[str, str], config: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The tokens that the files name, in the order in which they are taken for BOS, and where they are named."""
    for role in ("bos", "eos", "cls"):
        if f"{role}_token" in named:
            yield named[f"{role}_token"], f"{role}_token of the tokenizer"
        ids = config.get(f"{role}_token_id")
        id = ids[0] if isinstance(ids, list) and ids else ids
        if type(id) is int and 0 <= id < 2**32 and (token := inner.id_to_token(id)) is not None:
            yield token, f"{role}_token_id in config.json"


def put_in_front(inner: tokenizers.Tokenizer, bos: str) -> str:
    """A tokenizer.json that puts `bos` in front of a text by itself, instead of what it puts there now."""
    _, closing = surroundings(inner)
    inner = tokenizers.Tokenizer.from_str(inner.to_str())
    ends = [inner.id_to_token(id) for id in closing]
    inner.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", *ends],
        special_tokens=[(bos, inner.token_to_id(bos)), *zip(ends, closing, strict=True)],
    )
    return str(inner.to_str(pretty=True))
