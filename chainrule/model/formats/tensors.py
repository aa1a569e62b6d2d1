"""The tensors of a directory's safetensors, in one file or in shards, found by name. Knows no model.

They are mapped to memory: opening reads the headers, and a tensor's bytes are read when they are first used. What must
be put together from several parts is read into memory by `fill`.
"""

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chainrule.errors import ModelError
from chainrule.machine import shown_bytes
from chainrule.model.formats.others import CONVERT, holds_pickle

_PRECISIONS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Stored(NamedTuple):
    """Where a tensor is in a file."""

    path: Path
    start: int  # bytes
    end: int
    shape: list[int]
    precision: str


class Tensors:
    """The tensors of a directory. Raises ModelError where it has none, and for a file that is missing or cut short."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stored: dict[str, Stored] = {}
        shards = _shards(directory)
        paths = list(dict.fromkeys(shards.values())) or [directory / "model.safetensors"]
        for path in paths:
            self.stored |= _header(path)
        for name, path in shards.items():
            if _modern(name) not in self.stored or self.stored[_modern(name)].path != path:
                raise ModelError(f"{path}: wanted the tensor {name}, which the index says is here; the file lacks it")
        self._mapped: dict[Path, Tensor] = {}  # files are mapped when they are first used: `info` reads headers alone

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, by name."""
        return {name: tuple(stored.shape) for name, stored in self.stored.items()}

    def check(self, name: str, shape: tuple[int, ...]) -> torch.dtype:
        """The precision of a tensor; ModelError where it is missing, or not one of floats of that shape."""
        if name not in self.stored:
            nearest = get_close_matches(name, self.stored, n=1, cutoff=0.0)
            hint = f"; the nearest name is {nearest[0]}" if nearest else ""
            raise ModelError(
                f"{self.directory}: wanted the tensor {name}, which the files lack{hint}: they are not whole, or of"
                " another model than config.json says; fetch or save them again"
            )
        stored = self.stored[name]
        if stored.shape != list(shape):
            raise ModelError(f"{self.directory}: wanted {name} of shape {list(shape)}, got {stored.shape}")
        if stored.precision not in _PRECISIONS:
            raise ModelError(
                f"{self.directory}: wanted {name} in float32, bfloat16 or float16, got {stored.precision};"
                " quantized weights are not supported"
            )
        return _PRECISIONS[stored.precision]

    def mapped(self, names: Sequence[str]) -> Tensor | None:
        """Tensors that are one after another in a file as one tensor, memory-mapped; None if they are not, or begin
        between two multiples of their precision, as in files of other writers."""
        parts = [self.stored[name] for name in names]
        if any(
            (one.path, one.end, one.precision) != (two.path, two.start, two.precision) for one, two in pairwise(parts)
        ):
            return None
        if parts[0].start % _PRECISIONS[parts[0].precision].itemsize:
            return None
        whole = parts[0]._replace(end=parts[-1].end, shape=[sum(part.shape[0] for part in parts), *parts[0].shape[1:]])
        if whole.path not in self._mapped:
            self._mapped[whole.path] = map_file(whole.path)
        return _view(self._mapped[whole.path], whole)

    def to_copy(self, name: str) -> Tensor:
        """A tensor to copy from, with a mapping of its own, so that its memory is freed with it."""
        stored = self.stored[name]
        return _view(map_file(stored.path), stored)

    def fill(self, parts: Iterable[tuple[str, Tensor]]) -> None:
        """Read tensors, by name, into contiguous ones in the CPU's memory, of the stored shapes and precisions."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # a read copies, at one core's rate
            for read in [pool.submit(_read, self.stored[name], part) for name, part in parts]:
                read.result()


def _read(stored: Stored, part: Tensor) -> None:
    buffer = part.view(torch.uint8).view(-1).numpy().data
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.start)
        while buffer:
            got = file.readinto(buffer)
            if not got:
                raise ModelError(f"{stored.path}: wanted a whole file, got one that is shorter than when it was opened")
            buffer = buffer[got:]


def _header(path: Path) -> dict[str, Stored]:
    """Name -> where it is, in a file that begins with its header's length and the header."""
    try:
        # The library checks the header against the file; for "pt" it would also reserve memory for all of it.
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise ModelError(
            f"{path}: wanted a whole safetensors file, got one that is cut short or altered ({error})"
        ) from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        found[_modern(name)] = Stored(path, start, end, entry["shape"], entry["dtype"])
    return found


def map_file(path: Path) -> Tensor:
    """A file's bytes, mapped to memory; changes stay in memory. ModelError where the system refuses: most do where a
    file is larger than all memory."""
    size = path.stat().st_size
    try:
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        raise ModelError(
            f"{path}: wanted to map {shown_bytes(size)} to memory, which the system refused; take a file of"
            " fewer bits, or a smaller model"
        ) from None


def _view(file: Tensor, stored: Stored) -> Tensor:
    part, precision = file[stored.start : stored.end], _PRECISIONS[stored.precision]
    if stored.start % precision.itemsize:  # in files of other writers
        part = part.clone()
    return part.view(precision).view(stored.shape)


def _shards(directory: Path) -> dict[str, Path]:
    """Tensor name -> its file, by the index; empty where model.safetensors has everything."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        return {}
    if not index.is_file():
        hint = f", {CONVERT}" if holds_pickle(directory) else ""
        if (directory / "run.toml").is_file():
            hint = ": it is a run that has saved no model yet; give its command again to continue it"
        raise ModelError(f"{directory}: wanted model.safetensors or its shards' index, found none{hint}")
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {name: directory / Path(shard).name for name, shard in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index}: wanted a JSON object with a weight_map of tensors to files, got another") from None
    for name, path in shards.items():
        if not path.is_file():
            raise ModelError(f"{path}: wanted this shard, which holds {name}, found none; fetch it again")
    return shards


def _modern(name: str) -> str:
    """BERT's first files call the gain of a norm gamma and its bias beta."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
