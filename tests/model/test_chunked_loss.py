"""The loss by chunks of positions is the whole loss, in values, gradients and a training's steps, with less memory."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import MASKED, SHAPES, random_model
from torch import Tensor

from chainrule.model import chunked_loss
from chainrule.model.chunked_loss import Logits, chunked_cross_entropy, positions_at_once
from chainrule.model.transformer import Transformer
from chainrule.training.objectives import MaskedBatch, masked_token_loss, next_token_loss
from chainrule.training.spans import Span, SpanBatch

LOGITS = [Logits(), Logits(divisor=1.5), Logits(cap=3.0), Logits(0.5, 2.0)]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def whole_loss(features: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, logits: Logits) -> Tensor:
    return F.cross_entropy(logits.of(F.linear(features, weight, bias)), targets)


@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("at_once", [1, 4, 7, 100])
def test_the_loss_by_chunks_has_the_values_and_gradients_of_the_whole(
    logits: Logits, biased: bool, at_once: int
) -> None:
    inputs = [random(7, 3), random(11, 3, seed=1), *([random(11, seed=2)] if biased else [])]
    targets = torch.arange(7)
    found = []
    for compute in (
        lambda f, w, b=None: whole_loss(f, w, targets, b, logits),
        lambda f, w, b=None: chunked_cross_entropy(f, w, targets, b, logits, at_once),
    ):
        loss = compute(*inputs)
        found.append([loss, *torch.autograd.grad(3 * loss, inputs)])
    torch.testing.assert_close(found[1], found[0], atol=1e-12, rtol=1e-10)


def test_only_what_needs_a_gradient_gets_one() -> None:
    features, weight = random(5, 3), random(8, 3, seed=1).detach()
    loss = chunked_cross_entropy(features, weight, torch.arange(5), at_once=2)
    loss.backward()
    assert features.grad is not None and weight.grad is None
    with torch.no_grad():
        assert torch.equal(chunked_cross_entropy(features, weight, torch.arange(5), at_once=2), loss)


def test_without_gradients_none_is_computed_though_the_weights_are_trained() -> None:
    class Refusing(Logits):
        def through(self, gradient: Tensor, logits: Tensor) -> Tensor:
            raise AssertionError("a gradient that nobody asked for")

    features, weight, targets = random(5, 3), random(8, 3, seed=1), torch.arange(5)
    with torch.no_grad():
        found = chunked_cross_entropy(features, weight, targets, logits=Refusing(), at_once=2)
    torch.testing.assert_close(found, whole_loss(features, weight, targets, None, Logits()).detach())


def test_in_bfloat16_the_gradient_of_float32_weights_is_summed_in_float32() -> None:
    features, weight = random(64, 16, dtype=torch.float32), random(40, 16, dtype=torch.float32, seed=1)
    targets = torch.arange(64) % 40
    wanted = torch.autograd.grad(F.cross_entropy(features @ weight.T, targets), weight)[0]
    found = torch.autograd.grad(chunked_cross_entropy(features.bfloat16(), weight, targets, at_once=1), weight)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=2e-2)


def losses_and_gradients(model: Transformer, compute: Callable[[Transformer], Tensor]) -> list[Tensor]:
    model.zero_grad()
    loss = compute(model)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("family", [*SHAPES, *MASKED])
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_past_the_size_learns_what_one_below_it_learns(
    family: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(family) if family in MASKED else random_model(family, tied=tied)
    tokens = torch.randint(1, 61, (3, 9), generator=torch.Generator().manual_seed(0))

    def compute(model: Transformer) -> Tensor:
        if model.config.causal:
            return next_token_loss(model, tokens)
        positions = torch.tensor([[1, 3], [2, 5], [1, 7]])
        return masked_token_loss(model, MaskedBatch(tokens, positions, tokens.gather(1, positions)))

    whole = losses_and_gradients(model, compute)
    monkeypatch.setitem(chunked_loss.LOGITS_AT_ONCE, "cpu", 61 * 2)
    assert positions_at_once(61, model.device) == 2
    for found, wanted in zip(losses_and_gradients(model, compute), whole, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-4)


def test_label_words_past_the_size_are_scored_as_those_below(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("gemma2")
    spans = [Span([0, 4, 7], [1, 2], [7, 9]), Span([0, 4, 8], [2], [9]), Span([0, 5], [0, 1], [5, 3])]
    batch = SpanBatch(spans, True, torch.device("cpu"))

    def compute(model: Transformer) -> Tensor:
        return (batch.log_probs(model) * torch.arange(1.0, 6.0)).sum()

    whole = losses_and_gradients(model, compute)
    monkeypatch.setitem(chunked_loss.LOGITS_AT_ONCE, "cpu", 61 * 2)
    for found, wanted in zip(losses_and_gradients(model, compute), whole, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-4)


def test_no_more_logits_than_a_chunk_are_ever_in_memory() -> None:
    """By the sizes of all tensors that the loss makes."""
    largest = 0

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: object, types: object, args: object = (), kwargs: object = None) -> object:
            nonlocal largest
            made = func(*args, **(kwargs or {}))  # type: ignore[operator, misc, dict-item]
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return made

    features, weight = random(400, 4, dtype=torch.float32), random(50, 4, dtype=torch.float32, seed=1)
    with Watching():
        chunked_cross_entropy(features, weight, torch.arange(400) % 50, at_once=40).backward()
    assert largest == 40 * 50
