"""The tensors of a directory's safetensors, in one file or in shards, found by name. Knows no model.

They are mapped to memory: opening reads the headers, and a tensor's bytes are read where they are first looked at. What
must be put together from several places is read into memory by `fill`.
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
from chainrule.model.formats.others import CONVERT, holds_pickle

_PRECISIONS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Stored(NamedTuple):
    """Where a tensor lies."""

    path: Path
    start: int  # bytes
    end: int
    shape: list[int]
    precision: str


class Tensors:
    """What a directory holds. Raises ModelError where it holds none, and for a file that is missing or cut short."""

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
        self.files = {path: _map(path) for path in paths}

    def hold(self, ending: str) -> bool:
        """Whether there is a tensor whose name ends so."""
        return any(name.endswith(ending) for name in self.stored)

    def check(self, name: str, shape: tuple[int, ...]) -> torch.dtype:
        """The precision of a tensor; ModelError where it is missing, or not one of floats of that shape."""
        if name not in self.stored:
            nearest = get_close_matches(name, self.stored, n=1, cutoff=0.0)
            beside = f"; the nearest that they have is {nearest[0]}" if nearest else ""
            raise ModelError(
                f"{self.directory}: wanted the tensor {name}, which the files lack{beside}: they are not whole, or of"
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
        """Tensors that lie one after another in a file, as one by rows and still in the file; None if they do not."""
        pieces = [self.stored[name] for name in names]
        if any(
            (one.path, one.end, one.precision) != (two.path, two.start, two.precision) for one, two in pairwise(pieces)
        ):
            return None
        whole = pieces[0]._replace(
            end=pieces[-1].end, shape=[sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:]]
        )
        return _view(self.files[whole.path], whole)

    def passing(self, name: str) -> Tensor:
        """A tensor to copy from, through a mapping of its own: the memory that it takes is free when it goes."""
        stored = self.stored[name]
        return _view(_map(stored.path), stored)

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
    """Name -> where it lies, in a file that opens with its header's length and the header."""
    try:
        with safe_open(path, framework="pt"):  # the library checks the header against the file
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


def _map(path: Path) -> Tensor:
    """A file's bytes; what is written to them stays in memory."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


def _view(file: Tensor, stored: Stored) -> Tensor:
    part, precision = file[stored.start : stored.end], _PRECISIONS[stored.precision]
    if stored.start % precision.itemsize:  # files of other writers may lie so
        part = part.clone()
    return part.view(precision).view(stored.shape)


def _shards(directory: Path) -> dict[str, Path]:
    """Tensor name -> its file, as the index says; empty where model.safetensors holds everything."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        return {}
    if not index.is_file():
        hint = f", {CONVERT}" if holds_pickle(directory) else ""
        if (directory / "run.toml").is_file():
            hint = ": it is a run that has saved no model yet; the command that began it goes on"
        raise ModelError(f"{directory}: wanted model.safetensors or its shards' index, found none{hint}")
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {name: directory / Path(shard).name for name, shard in places.items()}
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
