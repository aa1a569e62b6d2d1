"""What pretraining minimises. Knows a model and tokens, not where they come from."""

import torch.nn.functional as F
from torch import Tensor

from chainrule.model.transformer import Transformer


def next_token_loss(model: Transformer, tokens: Tensor) -> Tensor:
    """Equation 14.8 for a batch: the mean over its tokens of -log p(x_{t+1} | x_1..x_t), in nats.

    `tokens` (B, T+1) are windows: the first T are read, the last T predicted.
    """
    logits = model(tokens[:, :-1])  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
