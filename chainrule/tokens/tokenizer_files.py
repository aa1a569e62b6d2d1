"""The files of a tokenizer's directory, read together: which tokens they name, add and call special.

tokenizer.json alone does not tell: others say that a token of it is special, or list tokens that it lacks; and which
one is ⊥ the model's own files may say. Knows no text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken

from chainrule.errors import ModelError
from chainrule.storage.gguf import is_gguf
from chainrule.tokens import gguf_tokenizer

# What a tokenizer's directory may hold; whatever is there is kept byte for byte.
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja"),
)
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
Files = Mapping[str, bytes]  # a directory's, by their names; tokenizer.json among them

_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_ROLES = ("system", "user", "assistant", "tool")


class Special(NamedTuple):
    """A special token; `lstrip` and `rstrip`: it has the white space before it, or behind it, for itself."""

    id: int
    lstrip: bool
    rstrip: bool


class Completed(NamedTuple):
    """What tokenizer.json says, completed by the other files. Tokens are found by their spelling."""

    inner: tokenizers.Tokenizer  # with all added tokens, `control` among them as special ones
    special: dict[str, Special]  # called special by any file: left out of a decoded text
    control: dict[str, Special]  # never made from text: the special ones, and those that a chat template writes
    listed: dict[str, int]  # those that tokenizer.json lacks
    changed: bool  # whether `inner` is not what tokenizer.json alone says


def setting(files: Files, name: str) -> dict[str, Any]:
    """What a file of settings says; nothing where there is none, or where it says no object."""
    return json_object(files.get(name, b"{}"))


def json_object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    return found if isinstance(found, dict) else {}


def named(files: Files) -> dict[str, str]:
    """Special tokens by what tokenizer_config.json, or special_tokens_map.json, calls them: bos_token, …"""
    found = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for role, token in setting(files, name).items():
            if role.endswith("_token") and (spelled := _spelled(token)):
                found[role] = spelled
    return found


def chat_templates(files: Files) -> dict[str, str]:
    """Jinja templates by their names; one alone is the default one."""
    if "chat_template.jinja" in files:
        return {"default": files["chat_template.jinja"].decode()}
    given = setting(files, "tokenizer_config.json").get("chat_template")
    if isinstance(given, str):
        return {"default": given}
    each = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    return {str(one.get("name")): one["template"] for one in each if isinstance(one.get("template"), str)}


def read(directory: Path) -> tuple[dict[str, bytes], int, Completed]:
    """The files of a directory, the id of ⊥, and what the files say together. Raises ModelError, in one line, for what
    is missing, cannot be read, or disagrees.

    What the model's files alone say of its tokens is added, as they do not go where the tokenizer's go.
    """
    files, config, generation = gguf_tokenizer.tokenizer_files(directory) if is_gguf(directory) else _found(directory)
    try:
        completed = complete(files)
    except ValueError as error:
        raise ModelError(f"{directory}/{error}") from None
    _check_listed(completed, config, directory)
    bottom = _bottom(completed, files, config)
    if bottom is None:
        raise ModelError(
            f"{directory}: the tokenizer names no token that begins a document: put"
            ' {"bos_token": "<the token>"} into tokenizer_config.json'
        )
    spelled = str(completed.inner.id_to_token(bottom))
    told = with_settings(files, spelled, segments=bool(config.get("type_vocab_size")))
    added, numbers = completed.inner.get_added_tokens_decoder(), _numbered(config) | _numbered(generation)
    names = [token.content for id, token in added.items() if id in numbers and token.content not in completed.special]
    bos = {} if _bottom(completed, told, {}) == bottom else {"bos_token": spelled}
    if names or bos:
        told = _with_names(told, bos, names)
    return told, bottom, completed if told == files else complete(told)


def _found(directory: Path) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """The tokenizer's files in a directory, and what its config.json and generation_config.json say."""
    if not (directory / "tokenizer.json").is_file():
        raise ModelError(
            f"{directory}: no tokenizer.json there: if transformers can read its tokenizer,"
            " AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one"
        )
    files = {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
    for name in SETTINGS:
        _settings(directory / name)
    return files, _settings(directory / "config.json"), _settings(directory / "generation_config.json")


def _settings(path: Path) -> dict[str, Any]:
    try:
        return json_object(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{path}: wanted a JSON object, got what is not JSON ({error}): restore it") from None


def _check_listed(completed: Completed, config: Mapping[str, Any], directory: Path) -> None:
    size = config.get("vocab_size")
    for content, id in completed.listed.items():
        if isinstance(size, int) and id >= size:
            raise ModelError(
                f"{directory}: wanted added tokens with ids below {size}, the model's vocab_size in config.json, got"
                f" {id} for {content!r}; take it out of added_tokens.json and tokenizer_config.json, or put the"
                " model's own files there"
            )


def _numbered(config: Mapping[str, Any]) -> set[int]:
    """The ids that a model's file gives as bos_token_id, eos_token_id and so on."""
    given = [ids for role, ids in config.items() if role.endswith("_token_id")]
    return {id for ids in given for id in (ids if isinstance(ids, list) else [ids]) if isinstance(id, int)}


def _bottom(completed: Completed, files: Files, config: Mapping[str, Any]) -> int | None:
    inner, tables = completed.inner, [setting(files, name) for name in SETTINGS[:2]]

    def named(role: str) -> int | None:
        spelled = [found for table in tables if (found := _spelled(table.get(f"{role}_token")))]
        return next((id for id in map(inner.token_to_id, spelled) if id is not None), None)

    def numbered(role: str) -> int | None:
        ids = config.get(f"{role}_token_id")
        id = ids[0] if isinstance(ids, list) and ids else ids
        return id if isinstance(id, int) and inner.id_to_token(id) is not None else None

    found = (named("bos"), numbered("bos"), named("eos"), numbered("eos"), named("cls"))
    special = [token.id for token in completed.special.values()]
    return next((id for id in found if id is not None), special[0] if len(special) == 1 else None)


def with_settings(files: Files, bos_token: str, segments: bool = False, **others: str) -> dict[str, bytes]:
    """`files`, with a tokenizer_config.json if there is none, which names ⊥ and `others`.

    Without PreTrainedTokenizerFast in it, AutoTokenizer builds the tokenizer anew by the model's type: another
    pattern, and a character tokenizer loses its spaces. `segments`: the model reads token_type_ids too.
    """
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), bos_token),
        **others,
        "clean_up_tokenization_spaces": False,
        "model_input_names": model_input_names(segments),
        "padding_side": "right",
        "split_special_tokens": "mask_token" not in others,  # text that spells a special token stays text, but a blank
    }
    return {"tokenizer_config.json": json.dumps(settings, indent=2).encode() + b"\n", **files}


def model_input_names(segments: bool) -> list[str]:
    """What transformers makes of a text for the model; its version 4 adds token_type_ids unless told, which only a
    model with segments takes."""
    return ["input_ids", *["token_type_ids"] * segments, "attention_mask"]


def _with_names(files: Files, bos: Mapping[str, str], special: Sequence[str]) -> dict[str, bytes]:
    """`files`, with a special_tokens_map.json that names these too."""
    names = setting(files, "special_tokens_map.json")
    more = [*(names.get("additional_special_tokens") or []), *special]
    names |= {**bos, **({"additional_special_tokens": more} if more else {})}
    return {**files, "special_tokens_map.json": json.dumps(names, indent=2).encode() + b"\n"}


def complete(files: Files) -> Completed:
    """Raises ModelError, in one line that begins with a file's name, where it cannot be read or they disagree."""
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
    spelled = {_spelled(token) for token in _called_special(files)}
    spelled |= {token.content for token in added.values() if token.special}
    spelled |= {token.content for id, token in before.items() if token.special}
    for content in spelled - {token.content for token in added.values()}:
        # A token of the vocabulary that is only named. One of a single character stays text, which needs it.
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


def _spelled(token: Any) -> str | None:
    spelled = token.get("content") if isinstance(token, dict) else token
    return spelled if isinstance(spelled, str) and spelled else None


def _called_special(files: Files) -> Iterator[Any]:
    """What tokenizer_config.json and special_tokens_map.json name as special."""
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
    """Whether a chat template has such a mark in it: as it is, or put together around a role's name.

    Words and white space that happen to be tokens are no marks.
    """
    if not re.search(r"[^\w\s]", content):
        return False
    return content in template or any(
        role in content and all(part in template for part in content.split(role)) for role in _ROLES
    )


def _listed(files: Files, before: Mapping[int, AddedToken]) -> dict[int, tuple[str, AddedToken]]:
    """The tokens that added_tokens_decoder and added_tokens.json list: id -> the file, the token."""
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
    """(file, id, token). added_tokens.json tells no more than the id: the rest is as `known`."""
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
    """The listed tokens that tokenizer.json has not."""
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
    """`inner` with these tokens at these ids. In its vocabulary they keep their ids, which adding alone would count."""
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
