"""Files that appear whole or not at all, and their hashes. Knows bytes and paths, not what they mean."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chainrule.errors import ChainruleError


def _sync(path: Path) -> None:
    """Flush a file or a directory's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it is renamed to `path` when the block ends well, removed when not."""
    if not path.parent.is_dir():
        raise ChainruleError(
            f"{path}: wanted a file in a folder that is there, got no folder {path.parent}; make it first"
        )
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        _sync(beside)
        beside.chmod(0o644)  # some writers make files that only their owner reads
        beside.replace(path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Like `whole_file`, for a directory that must not exist yet and appears with all that was put into it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        for file in beside.iterdir():
            _sync(file)
        _sync(beside)
        beside.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def nothing_left_if_refused(out: Path, *, saved: Sequence[str] = (), underway: Sequence[str] = ()) -> Iterator[None]:
    """Within, a command makes the folder or file `out`; an error removes what it made, and empty folders above it.

    An `out` that held something before is never touched: it is refused, or gone on with. `saved` names, by patterns
    inside `out`, what is worth keeping whatever happens, such as a checkpoint; `underway`, what is worth keeping unless
    the error is a ChainruleError, so that the same command goes on from there once the disk has room again. Ctrl-C and
    SIGTERM are no errors: they leave what there is.
    """
    above = [folder for folder in (out, *out.parents) if not folder.exists()]
    held = out.is_file() or (out.is_dir() and any(not is_partial(entry) for entry in out.iterdir()))
    try:
        yield
    except Exception as error:
        kept = saved if isinstance(error, ChainruleError) else (*saved, *underway)
        if not held and not any(True for pattern in kept for _ in out.glob(pattern)):
            _remove(out, above)
        raise


def _remove(out: Path, above: Sequence[Path]) -> None:
    """What is in `out`, and those folders above it that are then empty."""
    if out.is_dir():
        for entry in list(out.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    else:
        out.unlink(missing_ok=True)
    for folder in above:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def is_partial(entry: Path) -> bool:
    """Whether a writer that was killed left it."""
    return entry.name.startswith(".") and entry.name.endswith(".partial")


def sweep(directory: Path) -> None:
    """Remove what writers that were killed left beside the files of a directory that nobody else writes to."""
    for left in directory.glob(".*.partial"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def size_and_time(path: Path) -> dict[str, int]:
    """A file's size in bytes and its modification time in nanoseconds: while both stay, its content is taken to."""
    status = path.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def sha256(path: Path) -> str:
    """Hex digest of a file's content; the file is never in memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
