"""Files and folders written atomically, and their hashes. Knows bytes and paths, not what they mean."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chainrule.errors import ChainruleError, FolderError, WorkerKilledError

LOCK = ".lock.partial"  # in a folder that a command writes to, while it does (chainrule/storage/locks.py)


def _sync(path: Path) -> None:
    """Flush a file or a directory's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_file(path: Path) -> None:
    """FolderError where no file can be at `path`: it is a folder or a device, or its folder does not exist."""
    if not path.name or (path.exists() and not path.is_file()):
        raise FolderError(f"{path}: wanted the name of a file, got a folder or a device; choose another")
    if not path.parent.is_dir():
        raise FolderError(
            f"{path}: wanted a file in a folder that is there, got no folder {path.parent}; make it first"
        )


def refuse_broken_link(out: Path) -> None:
    """FolderError where the folder `out`, or one above it, is a link to nothing: neither can be made there."""
    for path in (out, *out.parents):
        if path.is_symlink() and not path.exists():
            raise FolderError(
                f"--out {out}: wanted a folder, got a link to nothing ({path} to {path.readlink()}); make the folder"
                " there, or choose another"
            )


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, in the same folder; renamed to `path` if the block succeeds, else removed.

    Raises FolderError as `check_file`.
    """
    check_file(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Rename a finished temporary file to `path`, in the same folder, when it is on the disk."""
    _sync(temporary)
    temporary.chmod(0o644)  # some writers make files that only their owner reads
    temporary.replace(path)
    _sync(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Like `atomic_write`, for a directory that must not exist yet: it appears with all its files at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def nothing_left_if_refused(out: Path, *, saved: Sequence[str] = (), underway: Sequence[str] = ()) -> Iterator[None]:
    """While a command makes the folder or file `out`: an error removes what it made, and empty folders above it.

    An `out` that was not empty before is never touched: it is refused, or continued. `saved` are patterns of files in
    `out` worth keeping after any error, such as a checkpoint; `underway`, of files worth keeping unless the error is a
    mistake of the user, so that the same command continues from them, say after a full disk. Ctrl-C and SIGTERM are no
    errors: they leave everything.
    """
    above = [folder for folder in (out, *out.parents) if not folder.exists()]
    filled = out.is_file() or (out.is_dir() and any(not is_partial(entry) for entry in out.iterdir()))
    try:
        yield
    except Exception as error:
        mistake = isinstance(error, ChainruleError) and not isinstance(error, WorkerKilledError)
        kept = saved if mistake else (*saved, *underway)
        if not filled and not any(True for pattern in kept for _ in out.glob(pattern)):
            _remove(out, above)
        raise


def _remove(out: Path, above: Sequence[Path]) -> None:
    """Remove what is in `out` but its lock, which keeps others away until all is done, and those folders above it that
    are then empty."""
    if out.is_dir():
        for entry in [entry for entry in out.iterdir() if entry.name != LOCK]:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    else:
        out.unlink(missing_ok=True)
    for folder in above:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def is_partial(entry: Path) -> bool:
    """Whether it is a temporary file or folder that a killed process left."""
    return entry.name.startswith(".") and entry.name.endswith(".partial")


def sweep(directory: Path) -> None:
    """Remove what killed processes left in a directory that no other process writes to."""
    for entry in directory.glob(".*.partial"):
        if entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def size_and_time(path: Path) -> dict[str, int]:
    """A file's size in bytes and modification time in ns; if neither changes, the content did not."""
    status = path.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def sha256(path: Path) -> str:
    """Hex digest of a file's content; the file is never in memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
