"""Loads a model whose matrices stay in few bits, or in the precision of their file. Knows no tokenizer."""

from pathlib import Path
from typing import Literal

import torch

from chainrule.errors import OptionError
from chainrule.model.blocks import KINDS
from chainrule.model.formats.checkpoint import load_model
from chainrule.model.native.library import library
from chainrule.model.quantise import quantise_model
from chainrule.model.transformer import Transformer

Quantize = Literal["none", "auto", "int8", "int4"]
# Kinds of a GGUF's blocks that are kept; what has fewer bits than wanted is not made wider.
_KEPT = {"none": (), "auto": tuple(KINDS), "int8": tuple(KINDS), "int4": tuple(KINDS)}


def load_quantised(
    directory: Path, device: torch.device, dtype: torch.dtype, quantize: Quantize
) -> tuple[Transformer, str]:
    """The Transformer of a directory or a GGUF, and its family; activations in `dtype`.

    "none": weights in `dtype`. "int8", "int4": linear layers and a tied embedding in blocks, those of a GGUF as they
    are. "auto": on a CPU, in float32, weights as they are in the file, from which the same values are computed;
    elsewhere, and without the compiled functions that compute from them fast, "none".

    Raises what `load_model` does, and OptionError for a `quantize` that is unknown, and where blocks don't divide a
    width.
    """
    if quantize not in _KEPT:
        raise OptionError(f"--quantize: wanted none, auto, int8 or int4, got {quantize}")
    slow = device.type != "cpu" or dtype != torch.float32 or library() is None
    if quantize == "none" or (quantize == "auto" and slow):
        return load_model(directory, device, dtype)
    model, family = load_model(directory, device, None, keep=_KEPT[quantize])
    model.compute_dtype = dtype
    if quantize != "auto":
        quantise_model(model, quantize)
    return model, family
