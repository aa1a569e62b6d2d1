"""Files that appear whole or not at all, and their hashes. Knows bytes and paths, not what they mean."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def sweep(directory: Path) -> None:
    """Remove what writers that were killed left beside the files of a directory that nobody else writes to."""
    for left in directory.glob(".*.partial"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
