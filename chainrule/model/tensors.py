"""The tensors of a directory's safetensors, in one file or in shards, found by name. Knows no model.

They are mapped to memory: opening reads the headers, and a tensor's bytes are read where they are first looked at.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_PRECISIONS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Tensors:
    """What a directory holds. Raises ValueError where it holds none, and for a file that is missing or cut short."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[Path, Any] = {}
        self.found: dict[str, tuple[Path, str]] = {}  # name -> its file, and its name there
        shards = _shards(directory)
        for path in dict.fromkeys(shards.values()) or [directory / "model.safetensors"]:
            self.files[path] = _open(path)
            self.found.update({_modern(name): (path, name) for name in self.files[path].keys()})  # noqa: SIM118
        for name, path in shards.items():
            if self.found.get(_modern(name), (None, name)) != (path, name):
                raise ValueError(f"{path}: wanted the tensor {name}, which the index says is here; the file lacks it")

    def shape(self, name: str) -> list[int]:
        shape: list[int] = self._slice(name).get_shape()
        return shape

    def check(self, name: str, shape: tuple[int, ...]) -> torch.dtype:
        """The precision of a tensor; ValueError where it is missing, or not one of floats of that shape."""
        if name not in self.found:
            raise ValueError(f"{self.directory}: wanted the tensor {name}, which the files lack")
        if self.shape(name) != list(shape):
            raise ValueError(f"{self.directory}: wanted {name} of shape {list(shape)}, got {self.shape(name)}")
        precision = self._slice(name).get_dtype()
        if precision not in _PRECISIONS:
            raise ValueError(
                f"{self.directory}: wanted {name} in float32, bfloat16 or float16, got {precision};"
                " quantized weights are not supported"
            )
        return _PRECISIONS[precision]

    def mapped(self, name: str) -> Tensor:
        """A tensor that lies in its file; what was read of it stays in memory as long as any of that file."""
        path, stored = self.found[name]
        tensor: Tensor = self.files[path].get_tensor(stored)
        return tensor

    def passing(self, name: str) -> Tensor:
        """The same through a mapping of its own, for a tensor to copy from: the memory is free when it goes."""
        path, stored = self.found[name]
        tensor: Tensor = _open(path).get_tensor(stored)
        return tensor

    def _slice(self, name: str) -> Any:
        path, stored = self.found[name]
        return self.files[path].get_slice(stored)


def _shards(directory: Path) -> dict[str, Path]:
    """Tensor name -> its file, as the index says; empty where model.safetensors holds everything."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        return {}
    if not index.is_file():
        pickled = any(path for ending in ("bin", "pt", "pth", "ckpt") for path in directory.glob(f"*.{ending}"))
        hint = (
            ", only a pickle, which is never read: where you trust it, convert it with transformers'"
            " AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)"
        )
        raise ValueError(f"{directory}: wanted model.safetensors or its shards' index, found none{hint * pickled}")
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {name: directory / Path(shard).name for name, shard in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index}: wanted a JSON object with a weight_map of tensors to files, got another") from None
    for name, path in shards.items():
        if not path.is_file():
            raise ValueError(f"{path}: wanted this shard, which holds {name}, found none; fetch it again")
    return shards


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise ValueError(
            f"{path}: wanted a whole safetensors file, got one that is cut short or altered ({error})"
        ) from None


def _modern(name: str) -> str:
    """BERT's first files call the gain of a norm gamma and its bias beta."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
