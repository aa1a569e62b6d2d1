"""What Muon, AdamW and the schedule do to parameters, whatever their model is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor, nn

from chainrule.training.optimizer import Group, Matrix, Muon, Optimizer, Schedule, orthogonal

SHAPES = [(4, 6), (6, 4), (4, 6), (12, 3), (5, 5)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(some.integers(1, 3000))
def test_the_rate_rises_stays_and_falls_within_zero_and_one(steps: int) -> None:
    schedule = Schedule(steps)
    rates = [schedule(step) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_rate_warms_up_in_twenty_steps_is_flat_and_decays_over_the_last_share() -> None:
    schedule = Schedule(steps=1000)
    assert [schedule(step) for step in (0, 9)] == pytest.approx([1 / 21, 10 / 21])
    assert {schedule(step) for step in range(20, 401)} == {1.0}
    assert [schedule(step) for step in (700, 999)] == pytest.approx([0.5, 1 / 600])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 64), (2, 32, 33)])
def test_orthogonal_keeps_the_singular_vectors_and_brings_the_values_near_one(shape: tuple[int, ...]) -> None:
    left, _, right = torch.linalg.svd(random(*shape), full_matrices=False)
    values = torch.linspace(0.3, 1.0, shape[1])
    made = orthogonal(100 * left @ torch.diag(values) @ right)
    rotated = left.mT @ made @ right.mT  # diagonal where the vectors were kept
    assert torch.linalg.svdvals(made).sub(1).abs().max() < 0.35
    torch.testing.assert_close(rotated, torch.diag_embed(rotated.diagonal(dim1=1, dim2=2)), atol=1e-3, rtol=0)


def matrices() -> list[Matrix]:
    """Whole parameters of several shapes, and three maps in one parameter."""
    whole = [Matrix(nn.Parameter(random(*shape, seed=seed)), 0, shape[0]) for seed, shape in enumerate(SHAPES)]
    fused = nn.Parameter(random(14, 6, seed=9))
    return [*whole, *(Matrix(fused, start, stop) for start, stop in ((0, 6), (6, 10), (10, 14)))]


def give_gradients(ours: list[Matrix], seed: int) -> None:
    for number, parameter in enumerate(dict.fromkeys(matrix.parameter for matrix in ours)):
        parameter.grad = random(*parameter.shape, seed=100 * seed + number)


def test_muon_on_stacked_matrices_is_muon_on_one_after_the_other() -> None:
    together, apart = matrices(), matrices()
    stacked, alone = Muon(together, torch.float32), [Muon([matrix], torch.float32) for matrix in apart]
    assert len(stacked.stacks) < len(alone)
    for step in range(3):
        give_gradients(together, step)
        give_gradients(apart, step)
        stacked.step(0.1, 0.9)
        for muon in alone:
            muon.step(0.1, 0.9)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one.parameter, other.parameter, atol=1e-5, rtol=0)


def test_muon_is_as_its_author_wrote_it() -> None:
    """One tall matrix: momentum, Nesterov's look ahead, five times x <- 3.4445x + (-4.7750a + 2.0315a²)x, a = xxᵀ."""
    parameter = nn.Parameter(random(12, 3))
    muon, expected = Muon([Matrix(parameter, 0, 12)], torch.float32), parameter.detach().clone()
    momentum = torch.zeros(12, 3)
    for step in range(3):
        gradient = random(12, 3, seed=step + 1)
        parameter.grad = gradient.clone()
        muon.step(0.1, 0.9)
        momentum = 0.9 * momentum + 0.1 * gradient
        x = (0.1 * gradient + 0.9 * momentum).T
        x = x / x.norm()
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        expected -= 0.1 * (12 / 3) ** 0.5 * x.T
    torch.testing.assert_close(parameter.detach(), expected, atol=1e-5, rtol=0)


def test_a_part_of_a_parameter_moves_alone() -> None:
    parameter = nn.Parameter(random(10, 4))
    before = parameter.detach().clone()
    parameter.grad = random(10, 4, seed=1)
    Muon([Matrix(parameter, 2, 6)], torch.float32).step(0.1, 0.9)
    moved = (parameter.detach() != before).any(dim=1).tolist()
    assert moved == [False] * 2 + [True] * 4 + [False] * 4


def optimizer() -> Optimizer:
    matrix, table, gain = (
        nn.Parameter(random(*shape, seed=seed)) for seed, shape in enumerate([(4, 6), (9, 4), (4,)], 20)
    )
    names = {matrix: "matrix", table: "table", gain: "gain"}
    return Optimizer(
        names, [Matrix(matrix, 0, 4)], 0.02, [Group([table], 0.3, decay=0.1), Group([gain], 0.01)], Schedule(50)
    )


def advance(made: Optimizer, steps: range) -> None:
    for step in steps:
        for number, parameter in enumerate(made.names):
            parameter.grad = random(*parameter.shape, seed=1000 + 10 * step + number)
        made.step(step)


def test_what_an_optimizer_remembers_loaded_into_another_goes_on_with_the_same_bits() -> None:
    whole, begun, resumed = optimizer(), optimizer(), optimizer()
    advance(whole, range(8))
    advance(begun, range(5))
    with torch.no_grad():
        for ours, theirs in zip(resumed.names, begun.names, strict=True):
            ours.copy_(theirs)
    resumed.load_state({name: tensor.clone() for name, tensor in begun.state().items()})
    advance(resumed, range(5, 8))
    for ours, theirs in zip(resumed.names, whole.names, strict=True):
        assert torch.equal(ours, theirs)
    assert resumed.state().keys() == whole.state().keys()
    assert all(torch.equal(tensor, whole.state()[name]) for name, tensor in resumed.state().items())


def test_each_parameter_moves_at_the_rate_of_its_group() -> None:
    made = optimizer()
    before = [parameter.detach().clone() for parameter in made.names]
    advance(made, range(1))
    matrix, table, gain = (
        (parameter.detach() - old).abs().max() for parameter, old in zip(made.names, before, strict=True)
    )
    factor = made.schedule(0)
    assert made.rate(0) == 0.02 * factor
    assert 0 < matrix < 1.4 * 0.02 * factor
    # AdamW's first step is its rate in every place, and the decay beside it
    assert gain == pytest.approx(0.01 * factor, rel=1e-3)
    assert 0.3 * factor < table < 0.3 * factor * (1 + 0.1 * before[1].abs().max())
