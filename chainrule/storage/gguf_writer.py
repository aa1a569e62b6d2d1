"""Writes GGUF files: metadata, and tensors whose bytes are asked for one after the other."""

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chainrule.storage.files import atomic_write
from chainrule.storage.gguf_types import ALIGNMENT, ARRAY, MAGIC, SCALARS, STRING, TENSOR_NUMBERS, tensor_type


class TensorToWrite(NamedTuple):
    """`content` is called once, when the tensor's turn comes; it gives the bytes as stored, in whatever buffer."""

    name: str
    shape: tuple[int, ...]
    type: str
    content: Callable[[], Any]


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Sequence[TensorToWrite]) -> None:
    """Write a GGUF file of version 3, whole or not at all.

    Whole numbers become uint32 (int32 where negative and in lists, uint64 from 2³² on), other numbers float32.
    """
    with atomic_write(path) as beside, beside.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, value in metadata.items():
            file.write(_packed_string(key) + _packed(value))
        offset = 0
        for tensor in tensors:
            file.write(_packed_string(tensor.name) + struct.pack("<I", len(tensor.shape)))
            file.write(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
            file.write(struct.pack("<IQ", TENSOR_NUMBERS[tensor.type], offset))
            offset += -(-_size(tensor) // ALIGNMENT) * ALIGNMENT
        for tensor in tensors:
            file.write(bytes(-file.tell() % ALIGNMENT))
            written = file.write(tensor.content())
            assert written == _size(tensor), f"{tensor.name}: {written} bytes"
        file.write(bytes(-file.tell() % ALIGNMENT))


def _size(tensor: TensorToWrite) -> int:
    kind = tensor_type(tensor.type)
    return math.prod(tensor.shape) // kind.block * kind.size


def _packed_string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _packed(value: Any) -> bytes:
    """A metadata value behind its type."""
    if isinstance(value, list):
        return struct.pack("<I", ARRAY) + b"".join(_packed_items(value))
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _packed_string(value)
    kind = _kind(value)
    return struct.pack("<I" + SCALARS[kind], kind, value)


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return 7
    if isinstance(value, float):
        return 6
    return 5 if value < 0 else 4 if value < 2**32 else 10


def _packed_items(values: Sequence[Any]) -> Iterator[bytes]:
    if values and isinstance(values[0], str):
        yield struct.pack("<IQ", STRING, len(values))
        yield from map(_packed_string, values)
        return
    kind = 6 if values and isinstance(values[0], float) else 5
    yield struct.pack("<IQ", kind, len(values))
    yield struct.pack(f"<{len(values)}{SCALARS[kind]}", *values)
