"""What a step of training is, whatever the model and the loss."""

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from conftest import random_model
from torch import Tensor

from chainrule.model.linear import linear_maps
from chainrule.model.transformer import Transformer, initialise
from chainrule.training.loop import Step, train
from chainrule.training.objectives import next_token_loss
from chainrule.training.optimizer import Group, Matrix, Optimizer, Schedule

ROWS = 8


def windows(step: int) -> Tensor:
    """(ROWS, T + 1) tokens of a small random language."""
    return torch.randint(0, 11, (ROWS, 9), generator=torch.Generator().manual_seed(step))


def optimizer_for(model: Transformer, steps: int, matrices: bool = True) -> Optimizer:
    names = {parameter: name for name, parameter in model.named_parameters()}
    maps = [Matrix(*place) for place in linear_maps(model)] if matrices else []
    inside = {matrix.parameter for matrix in maps}
    made = Optimizer(
        names, maps, 0.02, [Group([parameter for parameter in names if parameter not in inside], 1e-3)], Schedule(steps)
    )
    made.muon.precision = torch.float32
    return made


def trained(model: Transformer, micro_rows: int, steps: int = 3) -> list[Step]:
    """Train it; its steps."""
    batches: Callable[[int], Iterable[Tensor]] = lambda step: windows(step).split(micro_rows)  # noqa: E731
    loss = lambda tokens: next_token_loss(model, tokens)  # noqa: E731
    return list(train(model, optimizer_for(model, steps), batches, loss, steps=steps))


def without_key_biases(model: Transformer) -> list[Tensor]:
    """A key's bias adds the same to all the scores of a query: its gradient is 0, and AdamW follows its rounding."""
    width = model.config.heads * model.config.head_width
    kept = []
    for name, parameter in model.named_parameters():
        key_bias = name.endswith("query_key_value.bias")
        kept.append(torch.cat((parameter[:width], parameter[-width:])) if key_bias else parameter)
    return kept


@torch.no_grad()
def test_the_loss_is_the_mean_over_tokens_of_minus_log_p(family: str) -> None:
    model, tokens = random_model(family, vocabulary_size=11, context=8), windows(0)
    total = 0.0
    for window in tokens:
        for t in range(1, len(window)):
            u = model(window[None, :t])[0, -1].double()  # after x_1..x_t and nothing later
            total -= float(u[window[t]] - u.exp().sum().log())
    assert float(next_token_loss(model, tokens)) == pytest.approx(total / (ROWS * 8), rel=1e-5)


@pytest.mark.parametrize("micro_rows", [1, 2, 4])
def test_accumulation_equals_the_full_batch(micro_rows: int, family: str) -> None:
    whole = random_model(family, vocabulary_size=11, context=8).train()
    parts = copy.deepcopy(whole)
    whole_steps, parts_steps = trained(whole, ROWS), trained(parts, micro_rows)
    for one, other in zip(without_key_biases(parts), without_key_biases(whole), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    for step, other_step in zip(parts_steps, whole_steps, strict=True):
        assert step.loss == pytest.approx(other_step.loss, rel=1e-5)
        assert step.gradient_norm == pytest.approx(other_step.gradient_norm, rel=1e-4)


def test_a_model_starts_from_its_seed_alone() -> None:
    config = random_model("gpt2", vocabulary_size=11, context=8).config
    models = [Transformer(config), Transformer(config)]
    for model in models:
        initialise(model, seed=0)
    assert all(map(torch.equal, *(model.parameters() for model in models)))


def test_steps_are_counted_from_where_training_starts() -> None:
    model = random_model("qwen3", vocabulary_size=11, context=8)
    asked: list[int] = []

    def batches(step: int) -> list[Tensor]:
        asked.append(step)
        return [windows(step)]

    loss = lambda tokens: next_token_loss(model, tokens)  # noqa: E731
    made = train(model, optimizer_for(model, 7), batches, loss, steps=7, start=4)
    assert [step.step for step in made] == [5, 6, 7]
    assert asked == [4, 5, 6]


def test_the_loss_of_what_is_read_again_and_again_falls() -> None:
    model = random_model("qwen3", vocabulary_size=11, context=8).train()
    loss = lambda tokens: next_token_loss(model, tokens)  # noqa: E731
    made = [step.loss for step in train(model, optimizer_for(model, 60), lambda _: [windows(0)], loss, steps=60)]
    assert made[-1] < 0.5 * made[0]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_leaves_the_weights_as_they_were(where: str) -> None:
    model = random_model("qwen3", vocabulary_size=11, context=8)
    optimizer = optimizer_for(model, 3)

    def loss(tokens: Tensor) -> Tensor:
        value = next_token_loss(model, tokens)
        if not broken:
            return value
        # √0 is finite and its derivative is not
        return value * float("nan") if where == "loss" else value + (0 * model.norm.weight).abs().sqrt().sum()

    made = train(model, optimizer, lambda step: [windows(step)], loss, steps=3)
    broken = False
    assert not next(made).skipped
    before, memory = (
        [parameter.detach().clone() for parameter in model.parameters()],
        {name: tensor.clone() for name, tensor in optimizer.state().items()},
    )
    broken = True
    assert next(made).skipped
    assert all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))
    assert all(torch.equal(tensor, memory[name]) for name, tensor in optimizer.state().items())
    broken = False
    assert not next(made).skipped
    assert not all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("size", [0.01, 1000.0])
def test_clipping_bounds_the_norm_and_leaves_small_gradients_alone(size: float) -> None:
    model = random_model("gpt2", vocabulary_size=11, context=8)
    optimizer = optimizer_for(model, 2, matrices=False)
    norms: list[float] = []
    step_before = optimizer.step

    def noted(step: int) -> None:
        norms.append(float(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()))
        step_before(step)

    optimizer.step = noted  # type: ignore[method-assign]
    loss = lambda tokens: size * next_token_loss(model, tokens)  # noqa: E731
    for step in train(model, optimizer, lambda step: [windows(step)], loss, steps=2, clip=0.5):
        assert norms[-1] == pytest.approx(min(step.gradient_norm, 0.5), rel=1e-4)
        assert (step.gradient_norm > 0.5) == (size > 1)
