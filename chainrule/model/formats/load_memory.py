"""How much memory the weights of a file take when they are loaded, and what is said where that is too much. Knows no
model.

Weights that stay as they are in their file are mapped: the system reads them when they are used, and may forget them
again, so that they need no memory of their own. What is converted, transposed, or put together from several tensors
needs some.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import torch

from chainrule import machine
from chainrule.model.formats.family import TensorLocation
from chainrule.model.formats.gguf_tensors import GGUFTensors
from chainrule.model.formats.tensors import Tensors
from chainrule.terminal import log

ASKED_FROM = 2**26  # bytes of weights: whether there is room for fewer is not asked


class LoadMemory:
    """Bytes of what is going to be loaded from a directory or a file, added up by `add`."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device
        self.copied = self.mapped = 0

    def add(self, size: int, mapped: bool) -> None:
        """Some weights of so many bytes as they will be in memory; `mapped`: they stay in the file."""
        if mapped and self.device.type == "cpu":
            self.mapped += size
        else:
            self.copied += size

    def check(self, say: Callable[[str], None] = log) -> None:
        """OptionError where what is copied does not fit; a line where what is mapped fits only in part."""
        if self.copied + self.mapped < ASKED_FROM:
            return
        cure = "take fewer bits (--quantize int8 or int4, --dtype bfloat16) or a smaller model"
        machine.require_memory(f"load {self.path}", {"weights": self.copied}, self.device, cure)
        free = machine.free_memory(self.device)
        if self.mapped and self.copied + self.mapped > free:
            shown = machine.shown_bytes
            say(
                f"{self.path}: {shown(self.mapped)} of weights stay in the file, {shown(free)} of memory are free: what"
                f" does not fit is read from the disk each time it is used; {cure}"
            )


class Planned(NamedTuple):
    """A parameter that is going to be loaded."""

    name: str
    location: TensorLocation
    names: list[str]  # of its parts in the file
    shape: torch.Size
    stored: torch.dtype
    device: torch.device
    dtype: torch.dtype | None
    keep: Collection[str]

    @property
    def as_stored(self) -> bool:
        """Whether its values are in the file as they are wanted."""
        same_layout = not self.location.transposed and not self.location.interleaved
        return self.device.type == "cpu" and self.dtype in (None, self.stored) and same_layout

    def kept(self, tensors: Tensors | GGUFTensors) -> bool:
        """Whether its blocks stay as they are."""
        return (
            isinstance(tensors, GGUFTensors)
            and bool(self.keep)
            and not self.location.transposed
            and tensors.keeps(self.names, self.keep)
        )

    def size(self, tensors: Tensors | GGUFTensors) -> tuple[int, bool]:
        """Its bytes in memory, and whether they stay in the file."""
        if self.kept(tensors) and isinstance(tensors, GGUFTensors):
            size, mapped = tensors.block_bytes(self.names)
            return size, mapped and not self.location.interleaved
        mapped = self.as_stored and tensors.mapped(self.names) is not None
        return self.shape.numel() * (self.dtype or self.stored).itemsize, mapped
