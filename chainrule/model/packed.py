"""Weights that oneDNN has in its own order as well, for inference on a CPU. Knows no layer.

oneDNN's products of weights that it has ordered once are 1.1 to 1.4 times as fast as PyTorch's of many rows and two to
three times of 4 to 64 rows (AMD EPYC, Zen 4). Ordering costs about as much as multiplying 500 rows, so that weights are
ordered when they have been used enough.

Shapes: N rows of activations, I inputs, O outputs.
"""

import platform
from typing import Any

import torch
from torch import Tensor

from chainrule.model.versions import version

_ROWS, _CALLS = 1024, 16  # after so many rows or products, weights are ordered


class Packing:
    """What a layer keeps of its weights in oneDNN's order, made anew where they have changed. A copy has none."""

    def __init__(self) -> None:
        self._packed: Tensor | None = None
        # Where the weights are, their version, the precision; and the weights, so that no others take their place.
        self._source: tuple[int, int, torch.dtype] | None = None
        self._kept: Tensor | None = None
        self._rows = self._calls = 0

    def __deepcopy__(self, memo: Any) -> "Packing":
        return Packing()

    def __reduce__(self) -> tuple[type["Packing"], tuple[()]]:
        return Packing, ()

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """x · weightᵀ + bias, (…, I) to (…, O), in the precision of x; None while the weights are not ordered, and with
        gradients."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu" or not x.numel():
            return None
        source = (weight.data_ptr(), version(weight), x.dtype)
        if source != self._source:
            self._packed, self._source, self._kept, self._rows, self._calls = None, source, weight.detach(), 0, 0
        if self._packed is None:
            self._rows += x.numel() // x.shape[-1]
            self._calls += 1
            if self._rows < _ROWS and self._calls < _CALLS:
                return None
            ordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(x.dtype), 16)
            self._packed = ordered
        wide = None if bias is None else bias.detach().to(x.dtype)
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(flat, self._packed, wide, "none", [], "")
        return y.view(*x.shape[:-1], -1)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor and this PyTorch have such products in a precision."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
