"""What a step of training is, whatever the model and the loss."""

import copy
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHAPES, random_model
from torch import Tensor

from chainrule.model.linear import linear_maps
from chainrule.model.transformer import Transformer, initialise
from chainrule.training.checkpoints import newest_checkpoint
from chainrule.training.objectives import Validation, next_token_loss
from chainrule.training.optimizer import Group, Matrix, Optimizer, Schedule
from chainrule.training.trainer import Progress, Saving, Trainer, Validating, trained

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


class Objective:
    """The next token of windows, in micro-batches of these sizes."""

    def __init__(self, sizes: Sequence[int] = (ROWS,), loss: Callable[..., Tensor] = next_token_loss) -> None:
        self.sizes, self.mean, self.asked = list(sizes), loss, list[int]()

    def batches(self, step: int, rank: int = 0, world: int = 1) -> Sequence[Tensor]:
        self.asked.append(step)
        return windows(step).split(self.sizes)

    def halve(self) -> str | None:
        return None

    def loss(self, model: Transformer, batch: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.tensor(float(batch[:, 1:].numel()))
        return self.mean(model, batch) * count, count


def trainer(model: Transformer, objective: Objective, steps: int, **options: Any) -> Trainer:
    return Trainer(model, optimizer_for(model, steps), objective, steps, **options)


def train(model: Transformer, sizes: Sequence[int], steps: int = 3) -> list[Progress]:
    return list(trainer(model, Objective(sizes), steps).steps())


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


EVEN = ([1] * ROWS, [4, 4])


@pytest.mark.parametrize(
    ("family", "sizes"),
    [*((family, [5, 1, 2]) for family in SHAPES), *((each, sizes) for each in ("qwen3", "gpt2") for sizes in EVEN)],
)
def test_accumulation_equals_the_full_batch_whatever_the_sizes(sizes: list[int], family: str) -> None:
    whole = random_model(family, vocabulary_size=11, context=8).train()
    parts = copy.deepcopy(whole)
    whole_steps, parts_steps = train(whole, [ROWS]), train(parts, sizes)
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
    objective = Objective()
    made = trainer(model, objective, 7)
    made.step = 4
    assert [progress.step for progress in made.steps()] == [5, 6, 7]
    assert objective.asked == [4, 5, 6]


def test_the_loss_of_what_is_read_again_and_again_falls() -> None:
    model = random_model("qwen3", vocabulary_size=11, context=8).train()
    objective = Objective()
    objective.batches = lambda *_: [windows(0)]  # type: ignore[method-assign]
    made = [progress.loss for progress in trainer(model, objective, 60).steps()]
    assert made[-1] < 0.5 * made[0]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_leaves_the_weights_as_they_were(where: str) -> None:
    model = random_model("qwen3", vocabulary_size=11, context=8)

    def loss(model: Transformer, tokens: Tensor) -> Tensor:
        value = next_token_loss(model, tokens)
        if not broken:
            return value
        # √0 is finite and its derivative is not
        return value * float("nan") if where == "loss" else value + (0 * model.norm.weight).abs().sqrt().sum()

    training = trainer(model, Objective(loss=loss), 3)
    made = training.steps()
    broken = False
    assert not next(made).skipped
    before, memory = (
        [parameter.detach().clone() for parameter in model.parameters()],
        {name: tensor.clone() for name, tensor in training.optimizer.state().items()},
    )
    broken = True
    assert next(made).skipped and training.skipped == 1
    assert all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))
    assert all(torch.equal(tensor, memory[name]) for name, tensor in training.optimizer.state().items())
    broken = False
    assert not next(made).skipped
    assert not all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("size", [0.01, 1000.0])
@pytest.mark.parametrize("sizes", [[ROWS], [5, 3]])
def test_clipping_bounds_the_norm_and_leaves_small_gradients_alone(
    size: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("gpt2", vocabulary_size=11, context=8)
    optimizer = optimizer_for(model, 2, matrices=False)
    norms: list[float] = []
    step_before = optimizer.step

    def noted(step: int) -> None:
        norms.append(float(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()))
        step_before(step)

    monkeypatch.setattr(optimizer, "step", noted)
    objective = Objective(sizes, lambda model, tokens: size * next_token_loss(model, tokens))
    for step in Trainer(model, optimizer, objective, 2, clip=0.5).steps():
        assert norms[-1] == pytest.approx(min(step.gradient_norm, 0.5), rel=1e-4)
        assert (step.gradient_norm > 0.5) == (size > 1)


def test_the_best_state_is_the_result_even_that_before_the_first_step() -> None:
    losses = iter([3.0, 2.0, 2.5, 2.0])  # before the first step, and after each of three
    model = random_model("qwen3", vocabulary_size=11, context=8)
    validating = Validating(lambda: Validation(next(losses)), every=1, keep_best=True)
    training = trainer(model, Objective(), 3, validating=validating)
    states = []
    for progress in training.steps():
        assert progress.validation is not None
        states.append({name: tensor.clone() for name, tensor in trained(model).items()})
    assert training.best == Validation(2.0)
    assert all(torch.equal(tensor, states[0][name]) for name, tensor in training.result().items())
    losses = iter([1.0, 2.0, 2.0, 2.0])
    before = {name: tensor.clone() for name, tensor in trained(model).items()}
    training = trainer(model, Objective(), 3, validating=validating)
    assert len(list(training.steps())) == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.result().items())


def test_only_what_is_trained_is_saved_and_a_trainer_resumed_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    def frozen_but_for_blocks() -> Transformer:
        model = random_model("qwen3", vocabulary_size=11, context=8)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("blocks."))
        return model

    def made(model: Transformer, folder: Path) -> Trainer:
        names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
        optimizer = Optimizer(names, [], 0.0, [Group(list(names), 1e-2)], Schedule(6))
        validating = Validating(lambda: Validation(float(next_token_loss(model, windows(9)))), 2, keep_best=True)
        return Trainer(model, optimizer, Objective(), 6, validating=validating, saving=Saving(folder))

    whole = made(frozen_but_for_blocks(), tmp_path / "whole")
    expected = [(progress.loss, progress.validation) for progress in whole.steps()]
    stopped = made(frozen_but_for_blocks(), tmp_path / "stopped")
    found = [(progress.loss, progress.validation) for progress in itertools.islice(stopped.steps(), 3)]
    stopped.save()
    checkpoint = newest_checkpoint(tmp_path / "stopped")
    assert checkpoint is not None and checkpoint.step == 3
    for name in ("model", "best"):
        assert checkpoint.tensors(name).keys() == {name for name in trained(whole.model) if name.startswith("blocks.")}
    again = made(frozen_but_for_blocks(), tmp_path / "stopped")
    again.resume(checkpoint)
    found += [(progress.loss, progress.validation) for progress in again.steps()]
    assert found == expected and again.best == whole.best
    assert all(torch.equal(tensor, again.result()[name]) for name, tensor in whole.result().items())
    assert all(torch.equal(tensor, trained(again.model)[name]) for name, tensor in trained(whole.model).items())
