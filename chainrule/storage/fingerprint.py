"""Tells whether two folders or files of weights are the same, by reading a little of each. Knows bytes."""

import hashlib
from pathlib import Path

_SAMPLES, _SAMPLE = 16, 1 << 16  # of a large file: places, and bytes at each


def fingerprint(path: Path) -> str:
    """Hex digest of the names and sizes of a folder's files, or of a file's, of all small ones' content, and of 1 MB of
    each large one's, taken all over it: training changes every tensor."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            if size <= _SAMPLES * _SAMPLE:
                digest.update(content.read())
                continue
            for sample in range(_SAMPLES):
                content.seek(sample * (size - _SAMPLE) // (_SAMPLES - 1))
                digest.update(content.read(_SAMPLE))
    return digest.hexdigest()[:16]


def name_for_workers(name: str | Path) -> str:
    """A path as other processes find it; a name on the Hub as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else str(name)
