"""The folder of --out: new, continued where an earlier command stopped, or refused. Knows names and values, not what
they stand for.

A record file in the folder (TOML or JSON) says what the folder was made with. The same command continues from what the
folder holds; a command that differs is refused, and so is a folder that holds something else.
"""

import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chainrule.errors import ChainruleError, FolderError
from chainrule.storage.files import is_partial, refuse_broken_link

_SHOWN = 60  # characters of a value in a message; of a longer one (a hash, a list of files) only the beginning


def find_record(out: Path, names: Sequence[str], kind: str, *, before: Collection[str] = ()) -> Path | None:
    """The record of an earlier command in `out`: the first of `names` that is there; None where `out` is new or empty.

    `kind` is what messages call such a folder ("a run"). `before`: names of what a command that was killed may have
    written before its record. Raises FolderError where `out` is a file or a link to nothing, or holds
    anything else.
    """
    for name in names:
        if (out / name).is_file():
            return out / name
    refuse_broken_link(out)
    if out.exists() and not out.is_dir():
        raise FolderError(f"--out {out}: wanted a folder, got a file; choose another")
    entries = sorted(entry.name for entry in out.iterdir() if not is_partial(entry)) if out.is_dir() else []
    foreign = [name for name in entries if name not in before]
    if foreign:
        raise FolderError(
            f"--out {out}: wanted a new folder or {kind}, got one that holds something else ({foreign[0]}); choose"
            " another"
        )
    return None


def read_record(path: Path, kind: str, wanted: Collection[str] = ()) -> dict[str, Any]:
    """What a record file holds; FolderError where it cannot be read or lacks one of the `wanted` keys."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise FolderError(f"{path}: cannot be read as the record of {kind} ({error}); restore it") from None
    missing = [name for name in wanted if not isinstance(content, dict) or name not in content]
    if missing:
        raise FolderError(f"{path}: wanted the record of {kind}, got one without {missing[0]}; choose another --out")
    return content if isinstance(content, dict) else {}


@contextmanager
def unaltered(path: Path, kind: str) -> Iterator[None]:
    """Within, what `path` holds is taken apart: FolderError where that cannot be done."""
    try:
        yield
    except ChainruleError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{path}: wanted {kind}, got one that was cut or altered ({error!r}); restore it") from None


def require_same(
    out: Path, before: Mapping[str, Any], now: Mapping[str, Any], called: Mapping[str, str] | None = None
) -> None:
    """FolderError for the first value that is not what it was when `out` was begun; absent and None are the same.

    Values are named by their options (batch_tokens is --batch-tokens); `called` names those that are no options.
    """
    for name in [*now, *(name for name in before if name not in now)]:
        if before.get(name) != now.get(name):
            spelled = (called or {}).get(name) or f"--{name.replace('_', '-')}"
            raise FolderError(
                f"{spelled}: wanted {shown(before.get(name))}, as when {out} was begun, got {shown(now.get(name))};"
                " use the same, or another --out"
            )


def shown(value: Any) -> str:
    """A value in a message; of a long one only the beginning."""
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    text = "none" if value is None else str(value) or '""'
    return text if len(text) <= _SHOWN else f"{text[:12]}…"
