"""Reads a tokenizer's directory, and makes the files that it is saved as. Knows no text.

The model's own files may say which token is BOS, or name special tokens: the saved files then say it too.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chainrule.errors import ModelError
from chainrule.storage.gguf import is_gguf
from chainrule.tokens import gguf_tokenizer, sentencepiece_file
from chainrule.tokens.added_tokens import Completed, complete
from chainrule.tokens.bos import Bos, choose_bos, put_in_front
from chainrule.tokens.old_files import with_tokenizer_json
from chainrule.tokens.settings import FILES, SETTINGS, Files, chat_templates, json_object, named, setting


def read(directory: Path, bos: str | None = None) -> tuple[dict[str, bytes], Bos, Completed]:
    """The files of a directory, its BOS (`bos` if it is given), and their contents together. Raises ModelError for
    files that are missing, cannot be read, or disagree.

    Special tokens that only the model's files name are added to the tokenizer's, which are saved without those.
    """
    files, config, generation = gguf_tokenizer.tokenizer_files(directory) if is_gguf(directory) else _found(directory)
    try:
        completed = complete(files)
    except ValueError as error:
        raise ModelError(f"{directory}/{error}") from None
    _check_listed(completed, config, directory)
    if bos is not None:
        return _with_bos(files, bos, completed)
    chosen = _bos(completed, files, config)
    recorded = config.get("bos_token_id") if (directory / "run.toml").is_file() else None
    if type(recorded) is not int or not 0 <= recorded < completed.inner.get_vocab_size():
        recorded = None
    if recorded is not None and (chosen is None or recorded != chosen.id):  # an earlier version's choice
        chosen = Bos(recorded, "this run was trained with it")
    if chosen is None:
        raise ModelError(
            f"{directory}: the tokenizer names no token that begins a document: give --bos TOKEN, or put"
            ' {"bos_token": "<the token>"} into tokenizer_config.json'
        )
    spelled = str(completed.inner.id_to_token(chosen.id))
    saved = with_settings(files, spelled, segments=bool(config.get("type_vocab_size")))
    added, numbers = completed.inner.get_added_tokens_decoder(), _numbered(config) | _numbered(generation)
    names = [token.content for id, token in added.items() if id in numbers and token.content not in completed.special]

    def same(files: Files) -> bool:
        """Whether these files, without the model's, have the same BOS."""
        found = _bos(completed, files, {})
        return found is not None and found.id == chosen.id

    bos_token = {} if same(saved) else {"bos_token": spelled}
    if names or bos_token:
        saved = _with_names(saved, bos_token, names)
    if not same(saved):
        saved, _, completed = _with_bos(saved, spelled, completed)
    return saved, chosen, completed if saved == files else complete(saved)


def _bos(completed: Completed, files: Files, config: Mapping[str, Any]) -> Bos | None:
    return choose_bos(
        completed.inner, list(completed.special), named(files), list(chat_templates(files).values()), config
    )


def _with_bos(files: Files, bos: str, completed: Completed) -> tuple[dict[str, bytes], Bos, Completed]:
    """Files that put this token in front of a text: what is saved from here on has the same BOS."""
    id = completed.inner.token_to_id(bos)
    if id is None:
        raise ModelError(
            f"--bos: wanted a token of this model's vocabulary, got {bos!r}; see its tokenizer.json, or leave --bos out"
        )
    settings = {**setting(with_settings(files, bos), "tokenizer_config.json"), "bos_token": bos}
    changed = {
        **files,
        "tokenizer.json": put_in_front(completed.inner, bos).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode() + b"\n",
    }
    return changed, Bos(id, "--bos"), complete(changed)


def _found(directory: Path) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """The tokenizer's files in a directory, and what its config.json and generation_config.json say."""
    files = {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
    for name in SETTINGS:
        _settings(directory / name)
    config = _settings(directory / "config.json")
    if "tokenizer.json" not in files:
        made = (
            sentencepiece_file.files_of
            if not files.keys().isdisjoint(sentencepiece_file.NAMES)
            else with_tokenizer_json
        )
        files = made(directory, files, config)
    return files, config, _settings(directory / "generation_config.json")


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


def with_settings(files: Files, bos_token: str, segments: bool = False, **others: str) -> dict[str, bytes]:
    """`files`, with a tokenizer_config.json if there is none, which names BOS and `others`.

    Without PreTrainedTokenizerFast in it, AutoTokenizer builds the tokenizer by the model's type, with another pattern:
    a character tokenizer would drop spaces. `segments`: the model takes token_type_ids too.
    """
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), bos_token),
        **others,
        "clean_up_tokenization_spaces": False,
        "model_input_names": model_input_names(segments),
        "padding_side": "right",
        "split_special_tokens": "mask_token" not in others,  # only the mask is encoded from text
    }
    return {"tokenizer_config.json": json.dumps(settings, indent=2).encode() + b"\n", **files}


def model_input_names(segments: bool) -> list[str]:
    """The model's inputs that transformers makes of a text. Without these names, its version 4 adds token_type_ids,
    which only a model with segments takes."""
    return ["input_ids", *["token_type_ids"] * segments, "attention_mask"]


def _with_names(files: Files, bos: Mapping[str, str], special: Sequence[str]) -> dict[str, bytes]:
    """`files`, with a special_tokens_map.json that names these too."""
    names = setting(files, "special_tokens_map.json")
    more = [*(names.get("additional_special_tokens") or []), *special]
    names |= {**bos, **({"additional_special_tokens": more} if more else {})}
    return {**files, "special_tokens_map.json": json.dumps(names, indent=2).encode() + b"\n"}
