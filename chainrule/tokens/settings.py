"""The fields of a tokenizer's settings files: special tokens by their role, chat templates. Knows no tokens' ids."""

import json
from collections.abc import Mapping
from typing import Any

# What a tokenizer's directory may contain; its files are copied byte for byte.
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "sentencepiece.bpe.model", "chat_template.jinja"),
)
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
Files = Mapping[str, bytes]  # a directory's, by their names; tokenizer.json among them


def setting(files: Files, name: str) -> dict[str, Any]:
    """The fields of a settings file; none where there is no such file, or it is no object."""
    return json_object(files.get(name, b"{}"))


def json_object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    return found if isinstance(found, dict) else {}


def named(files: Files) -> dict[str, str]:
    """Special tokens by their role in tokenizer_config.json, or special_tokens_map.json: bos_token, …"""
    found = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for role, token in setting(files, name).items():
            if role.endswith("_token") and (spelled := spelled_token(token)):
                found[role] = spelled
    return found


def chat_templates(files: Files) -> dict[str, str]:
    """Jinja templates by name; a single one is the default."""
    if "chat_template.jinja" in files:
        return {"default": files["chat_template.jinja"].decode()}
    given = setting(files, "tokenizer_config.json").get("chat_template")
    if isinstance(given, str):
        return {"default": given}
    each = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    return {str(one.get("name")): one["template"] for one in each if isinstance(one.get("template"), str)}


def spelled_token(token: Any) -> str | None:
    """The text of a token in a settings file: a string, or an object with its flags; None for anything else."""
    spelled = token.get("content") if isinstance(token, dict) else token
    return spelled if isinstance(spelled, str) and spelled else None
