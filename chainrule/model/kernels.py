"""Causal attention and RMSNorm for a CPU, backward passes written out: the same values in fewer passes over memory.

Knows no model. Shapes: N = B·H sequences, T positions, K head width, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128  # queries at once: what lies above the diagonal blocks is never computed


def plain_cpu(x: Tensor) -> bool:
    """Where these serve: a GPU has better ones, and a compiler makes its own."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class CausalAttention(torch.autograd.Function):
    """softmax(q kᵀ / √K + causal mask) v on (N, T, K), block of queries by block."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        T, K = query.shape[1:]
        mixed, seen = torch.empty_like(query), []
        for start in range(0, T, BLOCK):
            stop = min(start + BLOCK, T)
            mask = torch.full((stop - start, stop), -torch.inf, dtype=query.dtype).triu(start + 1)
            scores = torch.baddbmm(mask, query[:, start:stop], key[:, :stop].mT, alpha=K**-0.5)
            weights = torch.softmax(scores, dim=-1)  # (N, stop - start, stop)
            mixed[:, start:stop] = weights @ value[:, :stop]
            seen.append(weights)
        ctx.save_for_backward(query, key, value, *seen)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *seen = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for start, weights in zip(range(0, query.shape[1], BLOCK), seen, strict=True):
            stop = min(start + BLOCK, query.shape[1])
            part = gradient[:, start:stop]
            d_value[:, :stop] += weights.mT @ part
            d_scores = torch._softmax_backward_data(part @ value[:, :stop].mT, weights, -1, weights.dtype)
            d_query[:, start:stop] = d_scores @ key[:, :stop]
            d_key[:, :stop] += d_scores.mT @ query[:, start:stop]
        scale = query.shape[-1] ** -0.5
        return d_query.mul_(scale), d_key.mul_(scale), d_value


class RMSNorm(torch.autograd.Function):
    """x / √(mean(x²) + ε) · weight over the last dimension; the mean is taken in float32 or wider."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()
        scale = (square / x.shape[-1]).add_(epsilon).rsqrt_().to(x.dtype)  # (…, 1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        product = (gradient * x).flatten(0, -2)  # (…, D)
        d_weight = scale.flatten() @ product
        along = (product @ weight).view_as(scale) * scale**3 / x.shape[-1]
        d_x = (gradient * weight).mul_(scale).addcmul_(x, along, value=-1)
        return d_x, d_weight, None


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / √K) v over what came before, (N, T, K) each."""
    mixed: Tensor = CausalAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return mixed


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / √(mean(x²) + ε) · weight over the last dimension."""
    normal: Tensor = RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return normal
