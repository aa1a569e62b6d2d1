"""What pretraining minimises. Knows a model and tokens, not where they come from."""

import torch.nn.functional as F
from torch import Tensor

from chainrule.model.kernels import linear_cross_entropy, plain_cpu
from chainrule.model.transformer import Transformer


def next_token_loss(model: Transformer, tokens: Tensor) -> Tensor:
    """Equation 14.8 for a batch: the mean over its tokens of -log p(x_{t+1} | x_1..x_t), in nats.

    `tokens` (B, T+1) are windows: the first T are read, the last T predicted.
    """
    features = model.features(tokens[:, :-1]).flatten(0, 1)  # (B·T, D)
    targets = tokens[:, 1:].flatten()
    if plain_cpu(features):
        return linear_cross_entropy(features, model.output_weight.to(features.dtype), targets)
    return F.cross_entropy(model.logits(features).float(), targets)
