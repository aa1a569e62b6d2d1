"""log softmax(u) at some tokens, and the most probable tokens, a part of the logits at a time. Knows hidden states.

Shapes: N hidden states, M predictions, D width, V vocabulary. Log-probabilities are in nats.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from chainrule.model.transformer import Transformer

LOGITS_AT_ONCE = 2**24  # in memory, whatever the vocabulary: 64 MiB of float32


class Scores(NamedTuple):
    """What a model predicts at M positions; on the CPU."""

    log_probs: Tensor  # (M,) of the tokens that are there
    best_tokens: Tensor  # (M, top) the most probable tokens there
    best_log_probs: Tensor  # (M, top)


def states_at_once(model: Transformer) -> int:
    """Of how many hidden states the logits are computed together."""
    return max(1, LOGITS_AT_ONCE // model.config.vocabulary_size)


def score_tokens(
    model: Transformer, features: Tensor, tokens: Tensor, top: int, indices: Tensor | None = None
) -> Scores:
    """Score `tokens` (M,) by the hidden states (N, D): token m by that of `indices` (M,), by default each by its own.

    float64: sums of many must not depend on their order.
    """
    indices = torch.arange(len(features)) if indices is None else indices
    M, at_once = len(tokens), states_at_once(model)
    log_probs = torch.empty(M, dtype=torch.float64)
    best_tokens, best_log_probs = torch.empty(M, top, dtype=torch.long), torch.empty(M, top, dtype=torch.float64)
    for start in range(0, len(features), at_once):
        logits = model.logits(features[start : start + at_once]).float()  # (n, V)
        total = logits.logsumexp(-1).cpu().double()
        best = logits.max(-1, keepdim=True) if top == 1 else logits.topk(top)
        here = torch.nonzero((indices >= start) & (indices < start + at_once))[:, 0]
        rows = indices[here] - start
        chosen = logits[rows.to(logits.device), tokens[here].to(logits.device)]
        log_probs[here] = chosen.cpu().double() - total[rows]
        best_tokens[here] = best.indices.cpu()[rows]
        best_log_probs[here] = (best.values.cpu().double() - total[:, None])[rows]
    return Scores(log_probs, best_tokens, best_log_probs)
