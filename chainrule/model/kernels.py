"""Causal attention, RMSNorm and the loss for a CPU, backward passes written out: the same values in fewer passes over
memory.

Knows no model. Shapes: N = B·H sequences (of the loss: B·T tokens), T positions, K head width, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from chainrule.model.native import training

BLOCK = 64  # queries at once: scores above the diagonal blocks are never computed
LOGITS_AT_ONCE = 2**20  # widened to float32 at once: they stay in the processor's cache


def plain_cpu(x: Tensor) -> bool:
    """Whether these are used: a GPU has better ones, and a compiler makes its own."""
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
        T, scale = query.shape[1], query.shape[-1] ** -0.5
        d_query = torch.empty_like(query)
        d_key = d_value = torch.empty(0)
        for start in reversed(range(0, T, BLOCK)):  # the last block sees all keys: its gradients are the first sums
            stop, weights = min(start + BLOCK, T), seen[start // BLOCK]
            part = gradient[:, start:stop]
            d_scores = torch._softmax_backward_data(part @ value[:, :stop].mT, weights, -1, weights.dtype)
            d_query[:, start:stop] = d_scores @ key[:, :stop]
            if stop == T:
                d_value, d_key = weights.mT @ part, d_scores.mT @ query[:, start:stop]
            else:
                d_value[:, :stop] += weights.mT @ part
                d_key[:, :stop] += d_scores.mT @ query[:, start:stop]
        return d_query.mul_(scale), d_key.mul_(scale), d_value


class RMSNorm(torch.autograd.Function):
    """x / √(mean(x²) + ε) · weight over the last dimension; the mean is taken in float32 or wider."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, compiled: bool) -> Tensor:
        ctx.compiled = compiled
        if compiled:
            x, weight = x.contiguous(), weight.contiguous()
            normal, scale = training.rms_norm(x, weight, epsilon)
            ctx.save_for_backward(x, weight, scale)
            return normal
        wide = torch.promote_types(x.dtype, torch.float32)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()
        scale = (square / x.shape[-1]).add_(epsilon).rsqrt_().to(x.dtype)  # (…, 1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        if ctx.compiled:
            return *training.rms_norm_gradient(x, weight, scale, gradient), None, None
        product = (gradient * x).flatten(0, -2)  # (…, D)
        d_weight = scale.flatten() @ product
        along = (product @ weight).view_as(scale) * scale**3 / x.shape[-1]
        d_x = (gradient * weight).mul_(scale).addcmul_(x, along, value=-1)
        return d_x, d_weight, None, None


class LinearCrossEntropy(torch.autograd.Function):
    """The mean over tokens of -log softmax(w · φ)[target]; the logits (N, V) become their gradient in place."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, learning: bool) -> Tensor:
        learning = learning and any(ctx.needs_input_grad)  # which is True of weights without gradients too
        logits = features @ weight.T  # (N, V)
        wide = torch.promote_types(logits.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide)
        if learning and training.usable(logits):
            loss = training.cross_entropy(logits, targets, 1 / len(targets)).sum()
            ctx.save_for_backward(features, weight, logits)
            return loss / len(targets)
        for part, target in zip(
            *(x.split(max(1, LOGITS_AT_ONCE // len(weight))) for x in (logits, targets)), strict=True
        ):
            log_p = torch.log_softmax(part, -1, dtype=wide)
            loss -= log_p.gather(1, target[:, None]).sum()
            if learning:
                p = log_p.exp_()
                p[torch.arange(len(p)), target] -= 1
                part.copy_(p.div_(len(targets)))
        ctx.save_for_backward(features, weight, logits)
        return loss / len(targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        features, weight, d_logits = ctx.saved_tensors
        # `gradient` stays in its own precision: a count of losses is not a number of bfloat16
        d_weight = d_logits.T @ (features * gradient) if ctx.needs_input_grad[1] else None  # frozen beside adapters
        return (d_logits @ weight).mul_(gradient), d_weight, None, None


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / √K) v over each position and those before it, (N, T, K) each."""
    mixed: Tensor = CausalAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return mixed


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """softmax(q kᵀ / √K) v where the mask is True: (B, H, T, K), (B, H, S, K), (1 or B, 1, T, M) to (B, H, T, K).

    The mask is of the last M of S keys; all those before are attended to. The queries are at the last T positions, and
    none attends to a later one. In bfloat16 two to four times faster than PyTorch's own, in float32 as fast.
    """
    T, S, hidden, mixed = query.shape[2], key.shape[2], ~mask, []
    free = S - mask.shape[3]
    query = query * query.shape[-1] ** -0.5
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        seen = S - T + stop
        scores = query[:, :, start:stop] @ key[:, :, :seen].mT
        scores[..., free:].masked_fill_(hidden[:, :, start:stop, : seen - free], -torch.inf)
        mixed.append(torch.softmax(scores, dim=-1) @ value[:, :, :seen])
    return torch.cat(mixed, dim=2)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / √(mean(x²) + ε) · weight over the last dimension."""
    learning = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    compiled = learning and training.usable(x)
    normal: Tensor = RMSNorm.apply(x, weight, epsilon, compiled)  # type: ignore[no-untyped-call]
    return normal


def linear_cross_entropy(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The mean of -log softmax(w · φ)[target] in nats: φ (N, D), w (V, D), targets (N,)."""
    learning = torch.is_grad_enabled()
    loss: Tensor = LinearCrossEntropy.apply(features, weight, targets, learning)  # type: ignore[no-untyped-call]
    return loss
