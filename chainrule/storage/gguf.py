"""Reads and checks the header of a GGUF file: its metadata, and where each tensor's bytes are.

Does not know what the keys mean, nor how values are quantised.
"""

import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from chainrule.errors import ModelError
from chainrule.storage.gguf_types import (
    ALIGNMENT,
    ARRAY,
    MAGIC,
    SCALARS,
    STRING,
    TENSOR_NUMBERS,
    TENSOR_TYPES,
    TensorType,
)

_MOST_DIMENSIONS = 4


class StoredTensor(NamedTuple):
    """Where a tensor's bytes are. `shape` has the fastest dimension last, as torch and numpy write it."""

    shape: tuple[int, ...]
    type: TensorType
    start: int  # bytes from the file's beginning
    end: int


@dataclass(frozen=True)
class GGUFFile:
    """What a header says."""

    path: Path
    metadata: Mapping[str, Any]  # numbers, booleans, strings, and lists of these
    tensors: Mapping[str, StoredTensor]

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The value of a key, or `default` where there is none. ModelError for a value of another kind."""
        value = self.metadata.get(key)
        if value is None:
            return default
        wanted = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in wanted:  # a bool is no number here
            raise ModelError(
                f"{self.path}: wanted {key} to be {' or '.join(_WORDS[each] for each in wanted)}, got {_brief(value)}:"
                " the file is damaged, or its writer is at fault"
            )
        return value

    def want(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value of a key. ModelError where there is none, or it is of another kind."""
        value = self.get(key, kind)
        if value is None:
            raise ModelError(f"{self.path}: wanted {key} in the metadata, which lacks it: take a whole model's file")
        return value


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list"}


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}…"


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file: by its ending, or by how it begins."""
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_gguf(path: Path) -> GGUFFile:
    """The header of a GGUF file of version 2 or 3; the tensors' bytes are not read.

    Raises ModelError, in one line, for a file that is none, is cut, or whose header contradicts itself. Memory is taken
    for what the file holds, not for what it claims to hold. Several readers ask for one file's header: the last one is
    kept.
    """
    status = path.stat()
    return _read_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _read_once(path: Path, modified: int, size: int) -> GGUFFile:
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ModelError(f"{path}: wanted a GGUF file, which begins with GGUF, got another file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse(path, data)


def parse(path: Path, data: bytes | mmap.mmap) -> GGUFFile:
    """The header of a file whose bytes are `data`; `path` is what errors call it."""
    return _Reader(path, data).read()


class _Reader:
    """A position in a file that is being read."""

    def __init__(self, path: Path, data: bytes | mmap.mmap) -> None:
        self.path, self.data, self.position, self.size = path, data, len(MAGIC), len(data)

    def read(self) -> GGUFFile:
        self.check_version()
        tensor_count, key_count = self.scalar("Q"), self.scalar("Q")
        self.check_count(key_count, 13, "metadata entries")  # a key's length, a type, a byte: the least of each
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self.string()
            if key in metadata:
                raise self.damaged(f"{key!r} twice in the metadata")
            metadata[key] = self.value(self.scalar("I"))
        self.check_count(tensor_count, 24, "tensors")
        infos = [self.tensor_info() for _ in range(tensor_count)]
        return GGUFFile(self.path, metadata, self.located(infos, metadata))

    def check_version(self) -> None:
        version = self.scalar("I")
        if version in (2, 3):
            return
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3)
        why = "a file for big-endian machines" if swapped else f"version {version}"
        raise ModelError(f"{self.path}: wanted GGUF of version 2 or 3, got {why}; convert the model again")

    def located(
        self, infos: Sequence[tuple[str, tuple[int, ...], TensorType, int]], metadata: Mapping[str, Any]
    ) -> dict[str, StoredTensor]:
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self.damaged(f"general.alignment {_brief(alignment)}, which is no power of 2")
        begin = -(-self.position // alignment) * alignment
        tensors: dict[str, StoredTensor] = {}
        for name, shape, kind, offset in infos:
            size = math.prod(shape) // kind.block * kind.size
            tensor = StoredTensor(shape, kind, begin + offset, begin + offset + size)
            if name in tensors:
                raise self.damaged(f"two tensors called {name!r}")
            if offset % alignment:
                raise self.damaged(f"the tensor {name} at {offset} bytes, which is no multiple of {alignment}")
            if tensor.end > self.size:
                raise self.cut()
            tensors[name] = tensor
        ordered = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end))
        for (first, one), (second, two) in pairwise(ordered):
            if two.start < one.end:
                raise self.damaged(f"the tensors {first} and {second} in the same bytes")
        return tensors

    def tensor_info(self) -> tuple[str, tuple[int, ...], TensorType, int]:
        name, dimensions = self.string(), self.scalar("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self.damaged(f"{dimensions} dimensions of the tensor {name!r}")
        shape = tuple(reversed([self.scalar("Q") for _ in range(dimensions)]))
        number, offset = self.scalar("I"), self.scalar("Q")
        if number not in TENSOR_TYPES:
            raise ModelError(
                f"{self.path}: wanted tensors of types that are known ({', '.join(TENSOR_NUMBERS)}), got type {number}"
                f" for {name}; take the model in another quantisation"
            )
        kind = TENSOR_TYPES[number]
        if not all(shape) or shape[-1] % kind.block:
            raise self.damaged(f"the shape {list(shape)} of {name}, whose rows are no multiple of {kind.block}")
        return name, shape, kind, offset

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise self.damaged(f"metadata of the unknown type {kind}")
        return self.scalar(SCALARS[kind])

    def array(self) -> list[Any]:
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == STRING:
            self.check_count(count, 8, "strings")
            return self.strings(count)
        if kind not in SCALARS:
            raise self.damaged(f"a list of the type {kind}")
        form = SCALARS[kind]
        self.check_count(count, struct.calcsize("<" + form), "numbers")
        return list(self.unpack(f"<{count}{form}"))

    def strings(self, count: int) -> list[str]:
        """A vocabulary can have a million: this loop does the least that can be done for each."""
        data, position, size, length_at = self.data, self.position, self.size, struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            start = position + 8
            if start > size:
                raise self.cut()
            position = start + length_at(data, position)[0]
            if position > size:
                raise self.cut()
            found.append(data[start:position])
        self.position = position
        try:
            return [each.decode() for each in found]
        except UnicodeDecodeError as error:
            raise self.damaged(f"a text that is not UTF-8 ({error})") from None

    def string(self) -> str:
        return self.strings(1)[0]

    def scalar(self, form: str) -> Any:
        return self.unpack("<" + form)[0]

    def unpack(self, form: str) -> tuple[Any, ...]:
        end = self.position + struct.calcsize(form)
        if end > self.size:
            raise self.cut()
        values = struct.unpack_from(form, self.data, self.position)
        self.position = end
        return values

    def check_count(self, count: int, least: int, what: str) -> None:
        """ModelError where so many things, each of at least so many bytes, are more than the file has left."""
        if count * least > self.size - self.position:
            raise ModelError(
                f"{self.path}: wanted a whole GGUF file, got one that says it has {count} {what} and is only"
                f" {self.size} bytes long: it is cut short or damaged; fetch it again"
            )

    def cut(self) -> ModelError:
        return ModelError(
            f"{self.path}: wanted a whole GGUF file, got one that ends after {self.size} bytes, before what its header"
            " announces; fetch it again"
        )

    def damaged(self, what: str) -> ModelError:
        return ModelError(f"{self.path}: wanted a sound GGUF file, got one with {what}; fetch or convert it again")
