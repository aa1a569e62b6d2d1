"""The loss of many positions without their logits in memory: a chunk of positions at a time, its gradient at once.

65,536 positions of 150,000 words have 39 GB of logits in float32; here a chunk of them is computed, turned into its
part of the gradient, and dropped. No product is computed twice. Knows no model. Shapes: N positions, n of them in a
chunk, D width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# Logits of a chunk. Each chunk reads and writes the gradient of all output weights, so that there must be few chunks.
LOGITS_AT_ONCE = {"cpu": 2**25}
LOGITS_AT_ONCE_ELSEWHERE = 2**28


@dataclass(frozen=True)
class Logits:
    """How logits follow from w · φ: divided by `divisor`, then c · tanh(u / c) for a `cap` c (Gemma 2)."""

    divisor: float = 1.0
    cap: float | None = None

    def of(self, products: Tensor) -> Tensor:
        """In the precision of w · φ, as the whole logits are computed."""
        if self.divisor != 1:
            products = products / self.divisor
        return products if self.cap is None else self.cap * torch.tanh(products / self.cap)

    def through(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient by w · φ of that by the logits, both in float32."""
        if self.cap is not None:
            gradient = gradient * (1 - (logits / self.cap).square())
        return gradient if self.divisor == 1 else gradient / self.divisor


def positions_at_once(vocabulary_size: int, device: torch.device) -> int:
    """How many positions a chunk has."""
    return max(1, LOGITS_AT_ONCE.get(device.type, LOGITS_AT_ONCE_ELSEWHERE) // vocabulary_size)


class ChunkedCrossEntropy(torch.autograd.Function):
    """The mean over positions of -log softmax(u)[target], u = logits(w · φ + b)."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        logits: Logits,
        at_once: int,
        learning: bool,
    ) -> Tensor:
        """`learning`: gradients are on; autograd's own `needs_input_grad` is True of weights without them too."""
        narrow = weight.to(features.dtype)
        wide = torch.promote_types(features.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide, device=features.device)
        wanted = [learning and needed for needed in ctx.needs_input_grad[:3]]
        # Sums over chunks, in the precision of the weights.
        d_features = torch.empty_like(features) if wanted[0] else None
        d_weight = torch.zeros_like(weight, memory_format=torch.contiguous_format) if wanted[1] else None
        d_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        for start in range(0, len(features), at_once):
            part, target = features[start : start + at_once], targets[start : start + at_once, None]
            products = part @ narrow.T  # (n, V)
            if bias is not None:
                products = products + bias.to(products.dtype)
            u = logits.of(products).to(wide)
            total = u.logsumexp(-1, keepdim=True)
            loss = loss + (total - u.gather(1, target)).sum()
            if not any(wanted):
                continue
            p = (u - total).exp_()
            p.scatter_add_(1, target, torch.full_like(total, -1.0))
            gradient = logits.through(p.div_(len(features)), u)
            if d_bias is not None:
                d_bias += gradient.sum(0).to(d_bias.dtype)
            gradient = gradient.to(features.dtype)
            if d_features is not None:
                d_features[start : start + at_once] = gradient @ narrow
            if d_weight is not None and d_weight.dtype == gradient.dtype:
                d_weight.addmm_(gradient.T, part)
            elif d_weight is not None:
                d_weight += gradient.T @ part
        ctx.save_for_backward(d_features, d_weight, d_bias)
        return loss / len(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # In place: a second gradient of all weights would be as large as what the chunks save. `gradient` stays in its
        # own precision: a count of losses is not a number of bfloat16.
        found = [None if sums is None else sums.mul_(gradient) for sums in ctx.saved_tensors]
        return *found, None, None, None, None


def chunked_cross_entropy(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    logits: Logits = Logits(),
    at_once: int | None = None,
) -> Tensor:
    """The mean of -log softmax(u)[target] in nats, u = logits(w · φ + b): φ (N, D), w (V, D), targets (N,), b (V,).

    `at_once` positions at a time, by default what suits the device. φ may be in another precision than w, which is
    then computed in; the gradient of w is summed in w's.
    """
    at_once = at_once or positions_at_once(len(weight), features.device)
    loss: Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        features, weight, bias, targets, logits, at_once, torch.is_grad_enabled()
    )
    return loss


def chunked_log_probs(
    logits: Callable[[Tensor], Tensor], features: Tensor, states: Tensor, targets: Tensor, at_once: int
) -> Tensor:
    """log softmax(u)[target] of each target, (M,) in float32, u being the logits of the hidden state (N, D) that
    `states` (M,) names, `at_once` of the hidden states at a time. Backward computes the logits anew."""

    def part(features: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        u = logits(features).float()  # (n, V)
        return u[rows, targets] - u.logsumexp(-1)[rows]

    found, order = [], []
    for start in range(0, len(features), at_once):
        here = torch.nonzero((states >= start) & (states < start + at_once))[:, 0]
        arguments = features[start : start + at_once], states[here] - start, targets[here]
        found.append(checkpoint(part, *arguments, use_reentrant=False, preserve_rng_state=False))
        order.append(here)
    return torch.cat(found)[torch.cat(order).argsort()]
