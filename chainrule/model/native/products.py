"""Products with weights of any kind by the compiled functions, where they are faster; else by torch.

Shapes: N rows of activations, I inputs, O outputs.
"""

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.model.blocks import BLOCK, KINDS, dequantise
from chainrule.model.native.library import Matrix, library
from chainrule.model.packed import Packing

FEW = 32  # rows: with more, the products of torch are as fast
OUTPUTS_AT_ONCE = 2**12  # rows of weights widened at once for more activations
_NUMBERS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_BOTH_BFLOAT16 = 6


def usable(x: Tensor) -> bool:
    """Whether the compiled functions can take these activations: on a CPU, without gradients, where there are any."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def matrix(weight: Tensor, kind: str | None = None, bias: Tensor | None = None, rounded: bool = False) -> Matrix | None:
    """Contiguous weights (O, I), or blocks of a kind, as the compiled functions take them; the caller keeps them. None
    for others. The bias is float32. `rounded`: activations may be rounded to bfloat16 where the weights are in it."""
    number = _NUMBERS.get(weight.dtype) if kind is None else KINDS[kind].number
    if rounded and kind is None and weight.dtype == torch.bfloat16:
        number = _BOTH_BFLOAT16
    if number is None or not weight.is_contiguous():
        return None
    columns = weight.shape[1] if kind is None else weight.shape[1] // KINDS[kind].size * BLOCK
    return Matrix(number, len(weight), columns, weight.data_ptr(), None if bias is None else bias.data_ptr())


def multiply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    kind: str | None = None,
    few: bool = False,
    packing: Packing | None = None,
) -> Tensor:
    """x · weightᵀ + bias: (…, I) to (…, O), in the precision of x. `weight` is (O, I), or blocks of a kind.

    Few rows are multiplied by weights of another precision as they are stored; for more, or without the compiled
    functions, the weights are first widened to that of x. `few`: of weights in the precision of x too, whose product
    then differs in its last bits from that with more rows. `packing`: the same weights as oneDNN has them.
    """
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    narrow = kind is not None or weight.dtype != x.dtype
    if (narrow or few) and 0 < rows <= FEW and usable(x):
        wide = None if bias is None else bias.float().contiguous()
        described = matrix(weight, kind, wide, rounded=x.dtype == torch.bfloat16)
        if described is not None:
            return _few(x, described)
    if packing is not None and (packed := packing.multiply(x, weight, bias)) is not None:
        return packed
    bias = None if bias is None else bias.to(x.dtype)
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    smaller = kind is not None or weight.element_size() < x.element_size()
    if smaller and not trained and x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        product: Tensor = _FrozenProduct.apply(x, weight, bias, kind)  # type: ignore[no-untyped-call]
        return product
    return _widened_product(x, weight, bias, kind)


def _widened_product(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str | None) -> Tensor:
    """x · weightᵀ + bias, the weights being widened to the precision of x first."""
    if kind is None:
        return F.linear(x, weight.to(x.dtype), bias)
    if len(weight) <= OUTPUTS_AT_ONCE:
        return F.linear(x, widened(weight, kind).to(x.dtype), bias)
    parts = [F.linear(x, widened(part, kind).to(x.dtype)) for part in weight.split(OUTPUTS_AT_ONCE)]
    outputs = torch.cat(parts, dim=-1)
    return outputs if bias is None else outputs + bias


class _FrozenProduct(torch.autograd.Function):
    """The product with weights that are not trained and take less memory than in the precision of x. They are widened
    for the product, and again for the gradient with respect to x, so that no layer's wide copy is kept between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kind: str | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.kind = kind
        outputs = x.new_empty(x[..., 0].numel(), len(weight))
        for columns, wide in _wide_parts(outputs, weight, kind):
            torch.mm(x.flatten(0, -2), wide.T, out=columns)
        if bias is not None:
            outputs += bias
        return outputs.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        total: Tensor | None = None
        for columns, wide in _wide_parts(gradient.flatten(0, -2), weight, ctx.kind):
            total = columns @ wide if total is None else total.addmm_(columns, wide)
        assert total is not None, "a layer has outputs"
        return total.unflatten(0, gradient.shape[:-1]), None, None, None


def _wide_parts(outputs: Tensor, weight: Tensor, kind: str | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Some columns of (N, O) at a time, and the rows of weights that they belong to in the precision of these."""
    parts = weight.split(OUTPUTS_AT_ONCE)
    for columns, part in zip(outputs.split(OUTPUTS_AT_ONCE, dim=1), parts, strict=True):
        yield columns, (part if kind is None else widened(part, kind)).to(outputs.dtype)


def _few(x: Tensor, described: Matrix) -> Tensor:
    compiled = library()
    assert compiled is not None
    inputs = x.float().contiguous()
    outputs = torch.empty(*x.shape[:-1], described.rows)
    rows = inputs.numel() // described.columns
    threads = torch.get_num_threads()
    compiled.chainrule_linear(ctypes.addressof(described), inputs.data_ptr(), rows, outputs.data_ptr(), threads)
    return outputs.to(x.dtype)


def widened(blocks: Tensor, kind: str) -> Tensor:
    """Blocks as float32, (O, I)."""
    compiled = library() if blocks.device.type == "cpu" and blocks.is_contiguous() else None
    described = None if compiled is None else matrix(blocks, kind)
    if compiled is None or described is None:
        return dequantise(blocks, kind)
    wide = torch.empty(len(blocks), described.columns)
    compiled.chainrule_widen(ctypes.addressof(described), wide.data_ptr(), torch.get_num_threads())
    return wide
