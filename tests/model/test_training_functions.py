"""The compiled functions of a training step compute what torch computes, values and gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from conftest import SHAPES, random_model
from torch import Tensor

from chainrule.model.kernels import linear_cross_entropy
from chainrule.model.native import training
from chainrule.model.native.library import training_library
from chainrule.model.rotary import Rope, rotate, rotation
from chainrule.model.transformer import Transformer
from chainrule.pretraining.decide import make_model, make_optimizer
from chainrule.pretraining.options import PretrainOptions
from chainrule.training import optimizer
from chainrule.training.objectives import next_token_loss

pytestmark = pytest.mark.skipif(training_library() is None, reason="there is no C++ compiler")
EPSILON = 1e-6


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a compiler."""
    monkeypatch.setattr(training, "usable", lambda x: False)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def values_and_gradients(compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    made = compute(*(x.requires_grad_() for x in inputs))
    return [made.detach(), *torch.autograd.grad((made * random(*made.shape)).sum(), inputs)]


def plain_attention(projected: Tensor, gains: Sequence[Tensor], turn: tuple[Tensor, Tensor] | None, of: training.Heads):
    B, T, _ = projected.shape
    query, key, value = projected.view(B, T, -1, of.head_width).split((of.heads, *(of.key_value_heads,) * 2), 2)
    if gains:
        query, key = (F.rms_norm(x, x.shape[-1:], g, of.epsilon) for x, g in zip((query, key), gains, strict=True))
    if turn is not None:
        query, key = rotate(query, turn), rotate(key, turn)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=of.scale, enable_gqa=True)
    return mixed.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 64, 150])
@pytest.mark.parametrize(
    ("heads", "groups", "K", "rotary", "normed"),
    [(3, 3, 32, 32, True), (2, 1, 64, 32, True), (4, 2, 6, 4, True), (2, 2, 16, 0, False), (3, 1, 20, 20, False)],
)
def test_attention_is_scaled_dot_product_attention_of_normed_and_rotated_heads(
    T: int, heads: int, groups: int, K: int, rotary: int, normed: bool
) -> None:
    of = training.Heads(heads, groups, K, 0.7 * K**-0.5, EPSILON)
    turn = rotation(torch.arange(T)[None], K, Rope(width=rotary), torch.float32) if rotary else None
    inputs = [random(2, T, (heads + 2 * groups) * K), *([1 + random(K), 1 + 0.5 * random(K)] if normed else [])]
    ours = values_and_gradients(
        lambda x, *gains: training.causal_attention(x, (gains[0], gains[1]) if gains else None, turn, of), inputs
    )
    theirs = values_and_gradients(lambda x, *gains: plain_attention(x, gains, turn, of), inputs)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_attention_is_the_same_for_a_sequence_alone_and_in_a_batch() -> None:
    of, x = training.Heads(3, 3, 16, 0.25, EPSILON), random(3, 40, 9 * 16)
    together = training.causal_attention(x, None, None, of)
    shorter = training.causal_attention(x[1:2, :23], None, None, of)
    torch.testing.assert_close(together[1:2, :23], shorter, atol=0, rtol=0)


def test_attention_of_scores_that_a_softmax_would_overflow_is_finite() -> None:
    of, x = training.Heads(1, 1, 16, 1.0, EPSILON), 30 * random(1, 20, 48)
    found = values_and_gradients(lambda x: training.causal_attention(x, None, None, of), [x])
    theirs = values_and_gradients(lambda x: plain_attention(x, (), None, of), [x])
    torch.testing.assert_close(found, theirs, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2), (7, 2 * 19), (2, 5, 2 * 48)])
def test_swiglu_is_silu_of_the_gate_times_up(shape: tuple[int, ...]) -> None:
    def plain(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    inputs = [20 * random(*shape)]
    torch.testing.assert_close(
        values_and_gradients(training.swiglu, inputs), values_and_gradients(plain, inputs), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize(("N", "D", "hidden"), [(1, 16, 16), (7, 32, 48), (150, 48, 80)])
def test_the_mlp_is_that_of_plain_operations(N: int, D: int, hidden: int) -> None:
    def plain(h: Tensor, gain: Tensor, up: Tensor, down: Tensor) -> Tensor:
        gate, linear = F.linear(F.rms_norm(h, (D,), gain, EPSILON), up).chunk(2, dim=-1)
        return h + F.linear(F.silu(gate) * linear, down)

    inputs = [random(N, D), 1 + 0.1 * random(D), random(2 * hidden, D) * D**-0.5, random(D, hidden) * hidden**-0.5]
    ours = values_and_gradients(partial(training.gated_mlp, epsilon=EPSILON), inputs)
    torch.testing.assert_close(ours, values_and_gradients(plain, inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (7, 50), (3, 1301)])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_the_cross_entropy_and_its_gradient_are_torchs(shape: tuple[int, int], size: float) -> None:
    logits, targets = (size * random(*shape)).requires_grad_(), torch.arange(shape[0]) % shape[1]
    losses = F.cross_entropy(logits, targets, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum() * 0.3, logits)
    changed = logits.detach().clone()
    torch.testing.assert_close(training.cross_entropy(changed, targets, 0.3), losses.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(changed, gradient, atol=1e-6, rtol=1e-5)
    training.cross_entropy(unchanged := logits.detach().clone(), targets, 0.0)
    assert torch.equal(unchanged, logits)


def test_the_cross_entropy_takes_targets_of_any_layout_and_refuses_those_past_the_vocabulary() -> None:
    logits, targets = random(4, 11), torch.tensor([[3, 0], [10, 0], [0, 0], [7, 0]])[:, 0]
    wanted = F.cross_entropy(logits, targets, reduction="none")
    for other in (targets, targets.int()):
        torch.testing.assert_close(training.cross_entropy(logits.clone(), other, 1.0), wanted, atol=1e-5, rtol=1e-5)
    for wrong in (11, -100):
        with pytest.raises(IndexError, match="targets: wanted numbers from 0 to 10, got others"):
            training.cross_entropy(logits.clone(), torch.tensor([0, 1, 2, wrong]), 1.0)


def test_a_loss_without_gradients_leaves_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    features, weight, targets = random(6, 8), random(50, 8).requires_grad_(), torch.arange(6)
    monkeypatch.setattr(training, "cross_entropy", lambda *_: pytest.fail("a gradient that nobody asked for"))
    with torch.no_grad():
        found = linear_cross_entropy(features, weight, targets)
    torch.testing.assert_close(found, F.cross_entropy(features @ weight.T, targets).detach())


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 16, 40), (1, 33, 33), (2, 1, 1), (4, 96, 256)])
def test_newton_schulz_steps_are_torchs(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = random(*shape)
    ours = optimizer.orthogonal(matrices)
    refuse(monkeypatch)
    torch.testing.assert_close(ours, optimizer.orthogonal(matrices), atol=2e-5, rtol=2e-5)


def loss_and_gradients(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss = next_token_loss(model, tokens)
    loss.backward()
    gradients = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.mark.parametrize("family", SHAPES)
def test_the_loss_and_its_gradients_are_those_without_compiled_functions(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(family).train()
    tokens = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(4))
    ours = loss_and_gradients(model, tokens)
    refuse(monkeypatch)
    torch.testing.assert_close(ours, loss_and_gradients(model, tokens), atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "llama"])
def test_a_causal_model_uses_them_in_training_and_leaves_inference_as_it_was(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, attention = random_model(family).train(), Mock(wraps=training.causal_attention)
    monkeypatch.setattr(training, "causal_attention", attention)
    tokens = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(4))
    loss_and_gradients(model, tokens)
    assert attention.call_count == model.config.layers
    with torch.no_grad():
        model.features(tokens)
    assert attention.call_count == model.config.layers


@pytest.mark.parametrize("name", ["mlp", "mlp.up", "mlp_norm", "attention.query_norm"])
def test_hooks_of_layers_are_called_in_training_too(name: str) -> None:
    model, calls = random_model("qwen3").train(), list[int]()
    tokens = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(4))
    wanted = loss_and_gradients(model, tokens)
    for block in model.blocks:
        block.get_submodule(name).register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(loss_and_gradients(model, tokens), wanted, atol=2e-5, rtol=2e-4)
    assert len(calls) == model.config.layers


def trained(steps: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], int]:
    """The losses of a small model of the default architecture, and how often its MLPs were computed in one call."""
    mlp = Mock(wraps=training.gated_mlp)
    monkeypatch.setattr(training, "gated_mlp", mlp)
    options = PretrainOptions(depth=2, width=48, heads=2, context=32, steps=steps)
    model, _ = make_model(61, options, torch.device("cpu"))
    update, losses = make_optimizer(model, options, steps), []
    tokens = torch.randint(0, 61, (4, 33), generator=torch.Generator().manual_seed(4))
    for step in range(steps):
        losses.append(float(loss_and_gradients(model, tokens)["loss"]))
        update.step(step)
    return losses, mlp.call_count


def test_a_model_learns_as_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, calls = trained(12, monkeypatch)
    assert calls == 2 * 12
    refuse(monkeypatch)
    theirs, calls = trained(12, monkeypatch)
    assert calls == 0
    assert theirs[-1] < 0.9 * theirs[0]
    assert ours == pytest.approx(theirs, rel=1e-4)
