"""The CPU's own attention and norm give the values and gradients of PyTorch's."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.model.attention import Pattern, attend
from chainrule.model.kernels import BLOCK, LOGITS_AT_ONCE, causal_attention, linear_cross_entropy, plain_cpu, rms_norm

EPSILON = 1e-6


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def values_and_gradients(compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    made = compute(*inputs)
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(1), dtype=made.dtype)
    return [made.detach(), *torch.autograd.grad((made * weights).sum(), inputs)]


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, EPSILON)


@pytest.mark.parametrize("T", [1, 2, 3, 31, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 300])
def test_causal_attention_is_scaled_dot_product_attention_and_so_are_its_gradients(T: int) -> None:
    inputs = [random(3, T, 8) for _ in range(3)]
    ours, theirs = (values_and_gradients(compute, inputs) for compute in (causal_attention, plain_attention))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (7, 16), (2, 5, 32), (2, 3, 4, 8)])
def test_rms_norm_is_pytorchs_and_so_are_its_gradients(shape: tuple[int, ...]) -> None:
    inputs = [random(*shape), random(shape[-1])]
    ours = values_and_gradients(lambda x, weight: rms_norm(x, weight, EPSILON), inputs)
    torch.testing.assert_close(ours, values_and_gradients(plain_norm, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("T", [1, 4, BLOCK + 1])
def test_the_gradients_of_attention_are_those_of_finite_differences(T: int) -> None:
    inputs = [random(1, T, 2, dtype=torch.float64) for _ in range(3)]
    assert torch.autograd.gradcheck(causal_attention, inputs, fast_mode=T > 4)


def test_the_gradients_of_the_norm_are_those_of_finite_differences() -> None:
    inputs = [random(3, 4, dtype=torch.float64), random(4, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, 0.1), inputs)


@pytest.mark.parametrize("compute", [causal_attention, plain_attention])
def test_bfloat16_stays_near_float32(compute: Callable[..., Tensor]) -> None:
    inputs = [random(2, 40, 8).detach() for _ in range(3)]
    low = compute(*(x.bfloat16() for x in inputs))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), plain_attention(*inputs), atol=0.05, rtol=0.05)


def plain_loss(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(features @ weight.T, targets)


@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 5), (7, 61), (5, LOGITS_AT_ONCE // 3), (2, LOGITS_AT_ONCE + 1)])
def test_the_loss_is_pytorchs_and_so_are_its_gradients(tokens: int, vocabulary: int) -> None:
    targets = torch.randint(0, vocabulary, (tokens,), generator=torch.Generator().manual_seed(0))
    inputs = [random(tokens, 3, dtype=torch.float64), random(vocabulary, 3, dtype=torch.float64)]
    ours, theirs = (
        values_and_gradients(lambda features, weight: compute(features, weight, targets), inputs)  # noqa: B023
        for compute in (linear_cross_entropy, plain_loss)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_gradients_of_the_loss_are_those_of_finite_differences() -> None:
    inputs = [random(4, 3, dtype=torch.float64), random(5, 3, dtype=torch.float64)]
    targets = torch.tensor([0, 4, 2, 2])
    assert torch.autograd.gradcheck(lambda features, weight: linear_cross_entropy(features, weight, targets), inputs)


def test_the_loss_of_bfloat16_features_is_taken_in_float32() -> None:
    features, weight, targets = random(6, 8).bfloat16(), random(50, 8).bfloat16(), torch.arange(6)
    loss = linear_cross_entropy(features, weight, targets)
    assert loss.dtype == torch.float32
    wide = F.cross_entropy((features @ weight.T).float(), targets)
    torch.testing.assert_close(loss, wide, atol=1e-5, rtol=1e-5)


def test_they_serve_on_a_cpu_alone() -> None:
    assert plain_cpu(torch.zeros(1))
    assert not plain_cpu(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("pattern", ["causal", "causal masked", "masked", "all"])
def test_capped_attention_is_the_plain_formula_past_a_block_of_queries(pattern: Pattern) -> None:
    generator = torch.Generator().manual_seed(0)
    T, S = BLOCK + 9, BLOCK + 9 + (0 if pattern == "causal" else 5)
    query = torch.randn(2, 4, T, 6, generator=generator, dtype=torch.float64)
    key, value = (torch.randn(2, 2, S, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(2, 1, T, S - 3, generator=generator) < 0.5 if "masked" in pattern else None
    scores = 0.7 * torch.tanh(query @ key.repeat_interleave(2, 1).mT / 6**0.5 / 0.7)
    hidden = torch.zeros(T, S, dtype=torch.bool) if pattern != "causal" else torch.ones(T, S, dtype=torch.bool).triu(1)
    if mask is not None:
        hidden = torch.cat((torch.zeros(2, 1, T, 3, dtype=torch.bool), ~mask), dim=3)
    wanted = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value.repeat_interleave(2, 1)
    torch.testing.assert_close(attend(query, key, value, pattern, mask, cap=0.7), wanted)
