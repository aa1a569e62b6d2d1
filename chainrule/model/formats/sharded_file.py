"""One safetensors file written by several processes, each the rows that it has. Knows tensors and bytes, no process
group.

The file is the one that a single process would write: a header, then each tensor's numbers. Where a part belongs
follows from the header, which every process computes alike; none has a whole tensor.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from chainrule.model.config import Config
from chainrule.model.formats.families import FAMILIES
from chainrule.model.formats.family import TensorLocation

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Part:
    """A box inside a tensor; `start` is where it begins, a number a dimension."""

    start: tuple[int, ...]
    tensor: Tensor


@dataclass(frozen=True)
class Parts:
    """What one process has of a tensor of this shape; other processes have the rest."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: Sequence[Part]

    def copied(self) -> "Parts":
        """The same in the CPU's memory, where nothing changes it."""
        return Parts(self.shape, self.dtype, [Part(part.start, copied(part.tensor)) for part in self.parts])


def copied(tensor: Tensor) -> Tensor:
    """A contiguous copy in the CPU's memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


class SharedFile:
    """The file at `path` of these tensors: one process calls `create`, then all call `fill`, each with its parts."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor | Parts]) -> None:
        self.path, self.tensors, self.offsets = path, tensors, dict[str, int]()
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        size = 0
        for name, tensor in tensors.items():
            bytes_ = tensor.dtype.itemsize * torch.Size(tensor.shape).numel()
            header[name] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [size, size + bytes_],
            }
            self.offsets[name] = size
            size += bytes_
        encoded = json.dumps(header, separators=(",", ":")).encode()
        self._header = encoded + b" " * (-len(encoded) % 8)  # the numbers begin at a multiple of 8
        self.size = 8 + len(self._header) + size

    def create(self) -> None:
        """Write the header, and the numbers of tensors that are whole; the rest is empty."""
        with self.path.open("wb") as file:
            file.write(len(self._header).to_bytes(8, "little") + self._header)
            file.truncate(self.size)
        self._write(parts=False)

    def fill(self) -> None:
        """Write the parts that this process has."""
        self._write(parts=True)

    def _write(self, parts: bool) -> None:
        handle = os.open(self.path, os.O_WRONLY)
        try:
            for name, tensor in self.tensors.items():
                if isinstance(tensor, Parts) == parts:
                    begin = 8 + len(self._header) + self.offsets[name]
                    for part in tensor.parts if isinstance(tensor, Parts) else [Part((0,) * tensor.ndim, tensor)]:
                        _write_part(handle, begin, tuple(tensor.shape), part)
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_part(handle: int, begin: int, shape: tuple[int, ...], part: Part) -> None:
    """Write a box into a tensor of `shape` whose first byte is at `begin`, in runs that are contiguous in the file."""
    inner = part.tensor.ndim  # dimensions that a run spans: those that the box has whole, and one more
    while inner and part.tensor.shape[inner - 1] == shape[inner - 1]:
        inner -= 1
    outer = max(0, inner - 1)
    strides = torch.empty(shape, device="meta").stride()
    item = part.tensor.element_size()
    content = part.tensor.contiguous().flatten().view(torch.uint8)
    count = torch.Size(part.tensor.shape[:outer]).numel()
    if not part.tensor.numel():
        return
    corner = sum(start * stride for start, stride in zip(part.start, strides, strict=True))
    for number, run in enumerate(content.view(count, -1)):
        offset, left = corner, number
        for dimension in reversed(range(outer)):
            left, index = divmod(left, part.tensor.shape[dimension])
            offset += index * strides[dimension]
        _write_all(handle, run.numpy().data, begin + item * offset)


def _write_all(handle: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written


def weight_parts(
    model: nn.Module, config: Config, family: str, own: Mapping[str, tuple[Tensor, int]]
) -> dict[str, Parts]:
    """Of each tensor of the family's file what this process has. `own`: of each parameter, by name, its rows here, and
    the number of the first."""
    found: dict[str, Parts] = {}
    parameters = dict(model.named_parameters())
    for name, location in FAMILIES[family].locations(model, config.heads).items():
        mine, first = own[name]
        begin = 0
        for theirs, rows in zip(location.names, location.parts, strict=True):
            low, high = max(first, begin), min(first + len(mine), begin + rows)
            part = mine[low - first : max(low, high) - first]
            shape = (rows, *parameters[name].shape[1:])
            found[theirs] = _in_file(part, max(0, low - begin), shape, location)
            begin += rows
    return found


def _in_file(rows: Tensor, first: int, shape: tuple[int, ...], location: TensorLocation) -> Parts:
    """Rows of one of our tensors, from `first` on, as boxes of the file's."""
    if location.transposed:
        return Parts(shape[::-1], rows.dtype, [Part((0, first), rows.T)])
    if not location.interleaved:
        return Parts(shape, rows.dtype, [Part((first, *(0,) * (rows.ndim - 1)), rows)])
    # ours are 3 times heads times width, theirs heads times 3 times width: a head's query, key or value stays together
    width = shape[0] // (3 * location.interleaved)
    parts = []
    for kind in range(3):
        for head in range(location.interleaved):
            begin = (kind * location.interleaved + head) * width
            low, high = max(first, begin), min(first + len(rows), begin + width)
            if low < high:
                theirs = (head * 3 + kind) * width + low - begin
                parts.append(Part((theirs, *(0,) * (rows.ndim - 1)), rows[low - first : high - first]))
    return Parts(shape, rows.dtype, parts)
