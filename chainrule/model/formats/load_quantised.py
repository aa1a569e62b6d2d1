"""Loads a model whose matrices stay in few bits, or in the precision of their file. Knows no tokenizer."""

from pathlib import Path
from typing import Literal

import torch

from chainrule import machine
from chainrule.errors import OptionError
from chainrule.model.blocks import KINDS
from chainrule.model.formats.checkpoint import load_model
from chainrule.model.layers import Embedding
from chainrule.model.linear import Linear
from chainrule.model.native.library import library
from chainrule.model.packed import Packing, can_pack
from chainrule.model.quantise import quantise_model
from chainrule.model.transformer import Transformer

Quantize = Literal["none", "auto", "int8", "int4"]
# Kinds of a GGUF's blocks that are kept; what has fewer bits than wanted is not made wider.
_KEPT = {"none": (), "auto": tuple(KINDS), "int8": tuple(KINDS), "int4": tuple(KINDS)}
_OF_FREE_MEMORY = 0.25  # more than this part of it is not taken for weights in oneDNN's order


def load_quantised(
    directory: Path, device: torch.device, dtype: torch.dtype, quantize: Quantize
) -> tuple[Transformer, str]:
    """The Transformer of a directory or a GGUF, and its family; activations in `dtype`.

    "none": weights in `dtype`. "int8", "int4": linear layers and a tied embedding in blocks, those of a GGUF as they
    are. "auto": on a CPU, in float32, weights as they are in the file, from which the same values are computed;
    elsewhere, and without the compiled functions that compute from them fast, "none". On a CPU with the memory for it,
    weights that are used much are then also kept in the order that products of many rows want.

    Raises what `load_model` does, and OptionError for a `quantize` that is unknown, and where blocks don't divide a
    width.
    """
    if quantize not in _KEPT:
        raise OptionError(f"--quantize: wanted none, auto, int8 or int4, got {quantize}")
    slow = device.type != "cpu" or dtype != torch.float32 or library() is None
    if quantize == "none" or (quantize == "auto" and slow):
        model, family = load_model(directory, device, dtype)
    else:
        model, family = load_model(directory, device, None, keep=_KEPT[quantize])
        model.compute_dtype = dtype
    if quantize == "auto":
        _allow_packing(model, dtype)
    elif quantize != "none":
        quantise_model(model, quantize)
    return model, family


def _allow_packing(model: Transformer, dtype: torch.dtype) -> None:
    """Let the linear layers and a tied output matrix keep their weights in oneDNN's order, where memory allows it."""
    layers: list[Linear | Embedding] = [layer for layer in model.modules() if isinstance(layer, Linear)]
    if model.config.tied and type(model.embedding) is Embedding:
        layers.append(model.embedding)
    size = sum(layer.weight.numel() for layer in layers) * dtype.itemsize
    if model.device.type == "cpu" and can_pack(dtype) and size < _OF_FREE_MEMORY * machine.free_memory(model.device):
        for layer in layers:
            layer.packing = Packing()
