"""A trimmed embedding is the whole one for the tokens that occur, and trains as it does."""

import numpy as np
import torch
from torch import nn

from chainrule.finetuning.trimmed_embedding import TrimmedEmbedding


def test_the_tokens_that_occur_have_their_rows_and_gradients() -> None:
    whole = nn.Embedding.from_pretrained(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), freeze=False)
    occurring = np.array([3, 7, 8, 40])
    trimmed = TrimmedEmbedding(whole.weight, occurring)
    tokens = torch.tensor([[3, 40, 7], [8, 8, 3]])
    assert torch.equal(trimmed(tokens), whole(tokens))
    trimmed(tokens).square().sum().backward()
    whole(tokens).square().sum().backward()
    assert trimmed.weight.grad is not None and whole.weight.grad is not None
    assert torch.equal(trimmed.weight.grad, whole.weight.grad[occurring])


def test_what_was_trained_is_put_back_and_the_original_does_not_change() -> None:
    original = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    before, occurring = original.clone(), np.array([3, 7, 8, 40])
    trimmed = TrimmedEmbedding(original, occurring)
    with torch.no_grad():
        trimmed.weight.add_(1)
    restored = trimmed.whole(original, trimmed.weight.detach())
    assert restored.dtype == torch.float32 and torch.equal(original, before)
    assert torch.equal(restored[occurring], original[occurring].float() + 1)
    others = np.setdiff1d(np.arange(50), occurring)
    assert torch.equal(restored[others], original[others].float())
