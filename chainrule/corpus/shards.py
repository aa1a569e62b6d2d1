"""Reads a directory of shards: token ids on disk. Knows their files, not what is trained on them.

It holds manifest.json, the tokenizer's files, and train-00000.bin, validation-00000.bin and so on: token ids,
little-endian, 2 or 4 bytes each. Beside each .bin is a .offsets: where in it documents begin (8 bytes each).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import DataError
from chainrule.storage.files import sha256, size_and_time
from chainrule.storage.run_folder import read_record, unaltered
from chainrule.tokens.tokenizer import load_tokenizer

FORMAT = "chainrule shards 1"
MANIFEST = "manifest.json"
SPLITS = ("train", "validation")
_OFFSET = np.dtype("<u8")


class Shards:
    """The shards of a directory, and their tokenizer. Raises DataError where a file's size is not what it was."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = directory / MANIFEST
        if not path.is_file():
            raise DataError(f"{directory}: wanted a finished folder of shards, found no {MANIFEST}: tokenize again")
        self.manifest = read_record(path, "a folder of shards")
        if self.manifest.get("format") != FORMAT:
            raise DataError(f"{path}: wanted {FORMAT}, got something else: tokenize again")
        self._files: dict[Path, str] = {}  # and the SHA-256 of each
        with unaltered(path, "the manifest of a folder of shards"):
            width = np.dtype(self.manifest["dtype"]).itemsize
            for shard in self.manifest["shards"]:
                file = directory / shard["file"]
                offsets = file.with_suffix(".offsets")
                for each, wanted in ((file, shard["tokens"] * width), (offsets, shard["documents"] * _OFFSET.itemsize)):
                    if not each.is_file() or each.stat().st_size != wanted:
                        raise DataError(f"{each}: wanted {wanted} bytes, it is missing or cut: tokenize again")
                self._files |= {file: shard["sha256"], offsets: shard["offsets_sha256"]}
        self.tokenizer = load_tokenizer(directory).with_hash(self.manifest["tokenizer"])
        if self.tokenizer.hash != self.manifest["tokenizer"]:
            raise DataError(f"{directory}: its tokenizer is not the one the shards were made with: tokenize again")

    def sizes_and_times(self) -> dict[str, dict[str, int]]:
        """Size and modification time of each file, as a run records them for `verify`."""
        return {file.name: size_and_time(file) for file in self._files}

    def verify(self, unchanged: Mapping[str, Any] | None = None) -> None:
        """Compare the SHA-256 of every file with the manifest; DataError for the first that differs.

        `unchanged`: sizes and times when the files were last known to be right; a file that still has them is not read.
        """
        now = self.sizes_and_times()
        for file, wanted in self._files.items():
            if now[file.name] != (unchanged or {}).get(file.name) and sha256(file) != wanted:
                raise DataError(f"{file}: is not what was written (SHA-256 differs): tokenize again")

    def split(self, name: Literal["train", "validation"]) -> "Split":
        shards = [shard for shard in self.manifest["shards"] if shard["split"] == name]
        return Split(
            [self.directory / shard["file"] for shard in shards],
            self.manifest["dtype"],
            self.tokenizer.vocabulary_size,
        )


class Split:
    """The tokens of one split: all documents, each after a BOS token. Memory-mapped, not loaded."""

    def __init__(self, paths: list[Path], dtype: str, vocabulary_size: int) -> None:
        self._paths, self._vocabulary_size = paths, vocabulary_size
        self._shards = [np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r") for path in paths]
        self._starts = np.cumsum([0, *map(len, self._shards)])

    def __len__(self) -> int:
        """How many tokens, BOS tokens included."""
        return int(self._starts[-1])

    def documents(self, tokens: int) -> NDArray[np.int64]:
        """Where documents begin that have at least `tokens` tokens from there to the split's end; the first always."""
        offsets = [np.fromfile(path.with_suffix(".offsets"), _OFFSET).astype(np.int64) for path in self._paths]
        begins = np.concatenate([each + start for each, start in zip(offsets, self._starts[:-1], strict=True)])
        return begins[: max(1, int(np.searchsorted(begins, len(self) - tokens, "right")))]

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """The tokens [start, stop), (stop - start,). Raises DataError for one that is not in the vocabulary."""
        assert 0 <= start <= stop <= len(self), (start, stop, len(self))
        tokens = np.empty(stop - start, np.int64)
        shard = int(np.searchsorted(self._starts, start, "right")) - 1
        done = 0
        while done < len(tokens):
            part = self._shards[shard][start + done - self._starts[shard] :][: len(tokens) - done]
            tokens[done : done + len(part)] = part
            if len(part) and part.max() >= self._vocabulary_size:
                raise DataError(
                    f"{self._paths[shard]}: wanted tokens below {self._vocabulary_size}, the vocabulary's size, got"
                    f" {part.max()}: the file was altered; tokenize again"
                )
            done += len(part)
            shard += 1
        return tokens
