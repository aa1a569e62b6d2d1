"""The tensors of a GGUF under Hugging Face's names and in its layout, dequantised. Knows no model.

It has the methods of `Tensors`, which reads a directory's safetensors.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.errors import MissingPackageError, ModelError
from chainrule.model.formats.gguf_fields import Hyperparameters, architecture_of, config_json
from chainrule.model.formats.gguf_layout import ARCHITECTURES, FACTORS, Layout, is_weight, to_huggingface
from chainrule.model.formats.tensors import map_file
from chainrule.storage.gguf import GGUFFile, StoredTensor, read_gguf

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Located(NamedTuple):
    """A tensor of Hugging Face's, in a GGUF."""

    name: str  # there
    shape: list[int]  # Hugging Face's
    stored: StoredTensor
    layout: Layout


class Blocks(NamedTuple):
    """A matrix as stored: (rows, bytes of a row), and the kind of its blocks."""

    blocks: Tensor
    kind: str


class GGUFTensors:
    """What a GGUF holds. Raises ModelError for a file that is no GGUF, is damaged, or of an unknown architecture.

    precision: what `check` calls every tensor's: that of the matrices where all of them have one plain type, else
    float32.
    """

    def __init__(self, path: Path) -> None:
        self.directory = path
        self.file = read_gguf(path)
        architecture = ARCHITECTURES[architecture_of(self.file)]
        name = self.file.metadata["general.architecture"]
        sizes = Hyperparameters(self.file, name)
        self.heads = sizes.size("attention.head_count")
        self.key_value_heads = sizes.size("attention.head_count_kv", self.heads)
        self.stored: dict[str, Located] = {}
        for tensor, stored in self.file.tensors.items():
            if is_weight(tensor):
                layout = architecture.layout(tensor)
                shape = list(stored.shape[::-1] if layout == "transposed" else stored.shape)
                known = architecture.huggingface_name(tensor) or tensor  # what has no name is left over, by its own
                self.stored[known] = Located(tensor, shape, stored, layout)
        matrices = {
            found.stored.type.name
            for found in self.stored.values()
            if len(found.shape) > 1 and found.name != "position_embd.weight"  # float32 in every file
        }
        self.precision = _PLAIN.get(matrices.pop(), torch.float32) if len(matrices) == 1 else torch.float32

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape."""
        return {name: tuple(found.shape) for name, found in self.stored.items()}

    def check(self, name: str, shape: tuple[int, ...]) -> torch.dtype:
        """The precision of all tensors; ModelError where this one is missing, or not of that shape."""
        if name not in self.stored:
            nearest = get_close_matches(name, self.stored, n=1, cutoff=0.0)
            raise ModelError(
                f"{self.directory}: wanted the tensor {name}, which the file lacks; the nearest that it has is"
                f" {nearest[0] if nearest else 'none'}: it is not whole, or of another kind than its metadata says"
            )
        if self.stored[name].shape != list(shape):
            raise ModelError(
                f"{self.directory}: wanted {name} of shape {list(shape)}, got {self.stored[name].shape}:"
                " its metadata says otherwise"
            )
        return self.precision

    def mapped(self, names: Sequence[str]) -> Tensor | None:
        """A tensor as it is in the file, mapped to memory; None where it is stored otherwise, and for several."""
        found = self.stored[names[0]]
        if len(names) > 1 or found.layout != "same" or _PLAIN.get(found.stored.type.name) != self.precision:
            return None
        if found.stored.start % self.precision.itemsize:
            return None
        return self._plain(found)

    def to_copy(self, name: str) -> Tensor:
        """A tensor to copy from, dequantised, in Hugging Face's layout."""
        found = self.stored[name]
        tensor = self._plain(found) if found.stored.type.name in _PLAIN else self._dequantised(found)
        return to_huggingface(tensor, found.layout, self.heads, self.key_value_heads)

    def fill(self, parts: Iterable[tuple[str, Tensor]]) -> None:
        """Copy tensors, by name, into others in the CPU's memory."""

        def copy(name: str, part: Tensor) -> None:
            part.copy_(self.to_copy(name))

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and torch leave Python's lock while they compute
            for done in [pool.submit(copy, name, part) for name, part in parts]:
                done.result()

    def blocks(self, name: str) -> NDArray[np.uint8]:
        """A quantised matrix as stored, (rows, bytes of a row)."""
        return self._blocks(self.stored[name].stored)

    def keeps(self, names: Sequence[str], kinds: Collection[str]) -> bool:
        """Whether `kept_blocks` has them."""
        found = [self.stored[name] for name in names]
        kind = found[0].stored.type.name
        return kind in kinds and all(
            each.stored.type.name == kind and len(each.shape) == 2 and each.layout not in ("transposed", "offset")
            for each in found
        )

    def block_bytes(self, names: Sequence[str]) -> tuple[int, bool]:
        """How many bytes they are as stored, and whether they stay in the file."""
        found = [self.stored[name] for name in names]
        size = sum(each.stored.end - each.stored.start for each in found)
        return size, len(found) == 1 and found[0].layout == "same"

    def kept_blocks(self, names: Sequence[str], kinds: Collection[str]) -> Blocks | None:
        """Matrices whose rows follow one another as blocks of one of these kinds, (rows, bytes of a row), in Hugging
        Face's order of rows: for layers that compute with them. None where they are not all of one such kind."""
        if not self.keeps(names, kinds):
            return None
        found = [self.stored[name] for name in names]
        kind = found[0].stored.type.name
        parts = [
            to_huggingface(self._mapped_blocks(each.stored), each.layout, self.heads, self.key_value_heads)
            for each in found
        ]
        return Blocks(parts[0] if len(parts) == 1 else torch.cat(parts), kind)

    def _mapped_blocks(self, stored: StoredTensor) -> Tensor:
        return self._file()[stored.start : stored.end].view(stored.shape[0], -1)

    def _file(self) -> Tensor:
        """Its bytes, mapped to memory; changes stay in memory."""
        return map_file(self.directory)

    def _blocks(self, stored: StoredTensor) -> NDArray[np.uint8]:
        row = stored.shape[-1] // stored.type.block * stored.type.size
        return np.memmap(self.directory, np.uint8, "r", stored.start, (*stored.shape[:-1], row))

    def _plain(self, found: Located) -> Tensor:
        stored = found.stored
        precision = _PLAIN[stored.type.name]
        part = self._file()[stored.start : stored.end]
        if stored.start % precision.itemsize:
            part = part.clone()
        return part.view(precision).view(stored.shape)

    def _dequantised(self, found: Located) -> Tensor:
        quants = quantisation()
        kind = found.stored.type.name
        try:
            values = quants.dequantize(np.asarray(self._blocks(found.stored)), _package_type(kind))
        except NotImplementedError:
            raise ModelError(
                f"{self.directory}: wanted tensors of a type that the package gguf can dequantise, got {kind} for"
                f" {found.name}; take the model in another quantisation"
            ) from None
        return torch.from_numpy(np.asarray(values, np.float32)).view(found.stored.shape)


def quantisation() -> Any:
    """The module of the package gguf that quantises and dequantises."""
    try:
        from gguf import quants
    except ImportError:
        raise MissingPackageError(
            "wanted the package gguf, which reads and writes quantised weights, found none: pip install gguf"
        ) from None
    return quants


def _package_type(name: str) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[name]


def gguf_config(path: Path) -> dict[str, Any]:
    """The config.json that a GGUF amounts to; the same errors as `GGUFTensors`."""
    file = read_gguf(path)
    return config_json(file, _frequency_factors(file))


def _frequency_factors(file: GGUFFile) -> dict[str, NDArray[np.float32]]:
    """The tensors, by their names, of the factors by which rotations are slowed."""
    found = {}
    for name in FACTORS:
        stored = file.tensors.get(f"{name}.weight")
        if stored is None:
            continue
        if stored.type.name != "F32" or len(stored.shape) != 1:
            raise ModelError(
                f"{file.path}: wanted {name} of float32 numbers, got {list(stored.shape)} of {stored.type.name}"
            )
        found[name] = np.fromfile(file.path, "<f4", stored.shape[0], offset=stored.start).astype(np.float32)
    return found
