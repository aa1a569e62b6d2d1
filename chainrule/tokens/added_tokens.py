"""The added and special tokens of a tokenizer, from all of its files. Knows no text.

tokenizer.json alone is not enough: other files say which of its tokens are special, or list tokens that it lacks.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken

from chainrule.errors import ModelError
from chainrule.tokens.settings import Files, chat_templates, named, setting, spelled_token

_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_ROLES = ("system", "user", "assistant", "tool")


class Special(NamedTuple):
    """A special token; `lstrip` and `rstrip`: it includes the white space before it, or after it."""

    id: int
    lstrip: bool
    rstrip: bool


class Completed(NamedTuple):
    """tokenizer.json completed by the other files. Tokens are keys by their spelling."""

    inner: tokenizers.Tokenizer  # with all added tokens; those in `control` are special there
    special: dict[str, Special]  # called special by any file: left out of decoded text
    control: dict[str, Special]  # never encoded from text: the special ones, and those that a chat template writes
    listed: dict[str, int]  # those that tokenizer.json lacks
    changed: bool  # whether `inner` differs from tokenizer.json


def complete(files: Files) -> Completed:
    """Raises ModelError, whose message begins with the file's name, where one cannot be read or they disagree."""
    try:
        inner = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
    except Exception as error:  # what tokenizers raises has no name of its own
        raise ModelError(f"tokenizer.json: not a tokenizer that can be read: {error}") from None
    inner.no_truncation()
    inner.no_padding()
    before = inner.get_added_tokens_decoder()
    listed = _listed(files, before)
    lacking = _lacking(inner, listed)
    if lacking:
        inner = _with_tokens(inner, lacking)
    added = {id: _marked(token, token.special) for id, token in before.items()}
    added |= {id: token for id, (_, token) in listed.items()}
    spelled = {spelled_token(token) for token in _called_special(files)}
    spelled |= {token.content for token in added.values() if token.special}
    spelled |= {token.content for id, token in before.items() if token.special}
    for content in spelled - {token.content for token in added.values()}:
        # Named as special, but not an added token. A single character is left alone: text needs it.
        if content is not None and len(content) > 1 and (id := inner.token_to_id(content)) is not None:
            added[id] = AddedToken(content, normalized=False)
    templates = list(chat_templates(files).values())
    written = {token.content for token in added.values() if any(_writes(each, token.content) for each in templates)}
    added = {id: _marked(token, token.content in spelled | written) for id, token in added.items()}
    control = {token.content: Special(id, token.lstrip, token.rstrip) for id, token in added.items() if token.special}
    changed = [token for id, token in sorted(added.items()) if id not in before or not _same(token, before[id])]
    inner.add_special_tokens([token for token in changed if token.special])
    inner.add_tokens([token for token in changed if not token.special])
    inner.encode_special_tokens = True  # text that spells a special token stays text
    special = {content: token for content, token in control.items() if content in spelled}
    return Completed(inner, special, control, {token.content: id for id, token in lacking.items()}, bool(changed))


def _called_special(files: Files) -> Iterator[Any]:
    """The special tokens that tokenizer_config.json and special_tokens_map.json name."""
    yield from named(files).values()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        for role in _LISTS:
            more = setting(files, name).get(role)
            if isinstance(more, list | dict):
                yield from more.values() if isinstance(more, dict) else more


def _marked(token: AddedToken, special: bool) -> AddedToken:
    flags = {flag: getattr(token, flag) for flag in _FLAGS} | {"special": special}
    return AddedToken(token.content, **flags)


def _same(one: AddedToken, other: AddedToken) -> bool:
    return all(getattr(one, flag) == getattr(other, flag) for flag in _FLAGS)


def _writes(template: str, content: str) -> bool:
    """Whether a chat template writes this token: it contains it, or its parts around a role's name.

    Tokens of only letters and white space do not count.
    """
    if not re.search(r"[^\w\s]", content):
        return False
    return content in template or any(
        role in content and all(part in template for part in content.split(role)) for role in _ROLES
    )


def _listed(files: Files, before: Mapping[int, AddedToken]) -> dict[int, tuple[str, AddedToken]]:
    """The tokens in added_tokens_decoder and added_tokens.json: id -> the file, the token."""
    found: dict[int, tuple[str, AddedToken]] = {}
    ids: dict[str, int] = {}
    for file, id, token in _listings(files, {token.content: token for token in before.values()}):
        other = found.setdefault(id, (file, token))[1].content
        if other != token.content:
            raise _disagree(file, f"one token {id}", f"{other!r} and {token.content!r}")
        if ids.setdefault(other, id) != id:
            raise _disagree(file, f"one id for {other!r}", f"{ids[other]} and {id}")
    return found


def _listings(files: Files, known: dict[str, AddedToken]) -> Iterator[tuple[str, int, AddedToken]]:
    """(file, id, token). added_tokens.json has only ids: the rest is as in `known`."""
    file = "tokenizer_config.json"
    try:
        for id, token in (setting(files, file).get("added_tokens_decoder") or {}).items():
            flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token}
            known[token["content"]] = AddedToken(token["content"], **flags)
            yield file, int(id), known[token["content"]]
        file = "added_tokens.json"
        for content, id in setting(files, file).items():
            yield file, int(id), known.get(content) or AddedToken(content, normalized=False)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: wanted a list of added tokens, got one that cannot be read: {error!r}") from None


def _lacking(inner: tokenizers.Tokenizer, listed: Mapping[int, tuple[str, AddedToken]]) -> dict[int, AddedToken]:
    """The listed tokens that tokenizer.json lacks."""
    found = {}
    for id, (file, token) in listed.items():
        known, other = inner.token_to_id(token.content), inner.id_to_token(id)
        if known not in (None, id):
            raise _disagree(file, f"{token.content!r} to be token {known}, as in tokenizer.json", str(id))
        if other not in (None, token.content):
            raise _disagree(file, f"token {id} to be {other!r}, as in tokenizer.json", repr(token.content))
        if known is None:
            found[id] = token
    return found


def _disagree(file: str, wanted: str, got: str) -> ModelError:
    return ModelError(
        f"{file}: wanted {wanted}, got {got}; these files are not of one tokenizer: take all of them from the model's"
        " own directory"
    )


def _with_tokens(inner: tokenizers.Tokenizer, lacking: Mapping[int, AddedToken]) -> tokenizers.Tokenizer:
    """`inner` with these tokens in its vocabulary, at these ids; adding them would number them itself."""
    spec = json.loads(inner.to_str())
    vocabulary = spec["model"]["vocab"]
    for id, token in sorted(lacking.items()):
        if isinstance(vocabulary, dict):
            vocabulary[token.content] = id
        flags = {flag: getattr(token, flag) for flag in _FLAGS}
        spec["added_tokens"].append({"id": id, "content": token.content, **flags})
    made = tokenizers.Tokenizer.from_str(json.dumps(spec))
    for id, token in lacking.items():
        if made.token_to_id(token.content) != id:
            raise ModelError(
                f"tokenizer_config.json: wanted ids of added tokens that follow the vocabulary without a gap, got {id}"
                f" for {token.content!r}; take the tokenizer's files from the model's own directory"
            )
    return made
