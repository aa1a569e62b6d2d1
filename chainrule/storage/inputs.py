"""The files that a command's inputs name: files, folders, patterns, URLs, standard input. Knows names, not contents."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from chainrule.errors import DataError
from chainrule.storage.files import size_and_time
from chainrule.storage.records import FORMATS, Log, no_log
from chainrule.storage.remote import is_remote, remote_files, remote_state, without_secrets

_NAMED = 3  # hidden files that are named, of those left out


def find_files(inputs: Sequence[str], log: Log = no_log) -> list[str]:
    """The files that `inputs` name: files, folders (whole, sorted), globs, here or as URLs; "-" is standard input.

    Files and folders whose names begin with a dot are left out of folders and globs; `log` is called with their number.
    Raises DataError for a name that is no file, folder or pattern of one, and where nothing is found.
    """
    found: list[str] = []
    for name in inputs:
        if name == "-" or (not is_remote(name) and Path(name).is_file()):
            found.append(name)
            continue
        if is_remote(name):
            there = remote_files(name)
            if there != [name]:
                there = [url for url in there if _has_text(url) and not url.rpartition("/")[2].startswith(".")]
            if not there:
                raise DataError(
                    f"{without_secrets(name)}: wanted text there ({' '.join(FORMATS)}), found none: check the name"
                )
            found += there
            continue
        if Path(name).is_dir():
            files = [path for path in _files(sorted(Path(name).rglob("*"))) if _has_text(path)]
            hidden = [path for path in files if _is_hidden(Path(path).relative_to(name))]
            nothing = f"{name}: wanted text in this folder ({' '.join(FORMATS)}), found none"
        else:
            files = _files(map(Path, sorted(glob.glob(name, recursive=True, include_hidden=True))))  # noqa: PTH207
            hidden = sorted(set(files) - set(_files(map(Path, glob.glob(name, recursive=True)))))  # noqa: PTH207
            nothing = f"{name}: no such file, folder or pattern: check the name"
        seen = [path for path in files if path not in set(hidden)]
        left_out = (
            f"{len(hidden)} hidden files left out ({', '.join([*hidden[:_NAMED], *['…'][: len(hidden) - _NAMED]])})"
        )
        if not seen:
            raise DataError(nothing + (f" but {left_out}: name them one by one if meant" if hidden else ""))
        if hidden:
            log(f"{name}: {left_out}")
        found += seen
    if not found:
        raise DataError("wanted files to read, got none: name some")
    return found


def source_of(file: str) -> dict[str, Any]:
    """What identifies a file's content without reading it: its name, size and time, or version."""
    if is_remote(file):
        return {"path": without_secrets(file), **remote_state(file)}
    return {"path": str(Path(file).absolute()), **size_and_time(Path(file))}


def _files(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths if path.is_file()]


def _has_text(path: str) -> bool:
    return path.removesuffix(".gz").lower().endswith(FORMATS)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
