"""softmax(u / τ), and filters that keep what transformers' keep."""

import math

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chainrule.generation.sampling import (
    Sampling,
    choose,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
    probabilities,
    random_numbers,
)

LOGITS = torch.randn(5, 97, generator=torch.Generator().manual_seed(0)) * 3


def kept(logits: torch.Tensor) -> torch.Tensor:
    return logits > -torch.inf


@pytest.mark.parametrize("k", [1, 2, 40, 97, 1000])
def test_top_k_keeps_what_transformers_keeps(k: int) -> None:
    assert torch.equal(keep_top_k(LOGITS, k), TopKLogitsWarper(k)(None, LOGITS))
    assert kept(keep_top_k(LOGITS, k)).sum(-1).tolist() == [min(k, 97)] * 5


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.999])
def test_top_p_keeps_what_transformers_keeps(p: float) -> None:
    assert torch.equal(keep_top_p(LOGITS, p), TopPLogitsWarper(p)(None, LOGITS))


def test_top_p_of_one_keeps_all_however_small() -> None:
    assert kept(keep_top_p(LOGITS * 20, 1.0)).all()


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_top_p_keeps_the_fewest_that_sum_to_p(p: float) -> None:
    held = LOGITS.softmax(-1).where(kept(keep_top_p(LOGITS, p)), torch.tensor(0.0))
    least = held.where(held > 0, torch.tensor(1.0)).amin(-1)
    assert (held.sum(-1) >= p).all()
    assert (held.sum(-1) - least < p).all()


@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 1.0])
def test_min_p_keeps_what_transformers_keeps(p: float) -> None:
    assert torch.equal(keep_min_p(LOGITS, p), MinPLogitsWarper(p)(None, LOGITS))


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 10.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    tokens = torch.randint(0, 97, (5, 12), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(5, 97, dtype=torch.bool).scatter_(1, tokens, True)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(tokens, LOGITS.clone())
    assert torch.equal(penalise_repetition(LOGITS, seen, penalty), theirs)


def test_the_filters_together_give_the_probabilities_of_transformers() -> None:
    theirs = LogitsProcessorList(
        [TemperatureLogitsWarper(0.7), TopKLogitsWarper(30), TopPLogitsWarper(0.8), MinPLogitsWarper(0.1)]
    )
    ours = probabilities(LOGITS, Sampling(temperature=0.7, top_k=30, top_p=0.8, min_p=0.1))
    torch.testing.assert_close(ours, theirs(None, LOGITS).softmax(-1))
    assert torch.equal(ours > 0, kept(theirs(None, LOGITS)))


def test_the_entropy_of_softmax_rises_with_the_temperature() -> None:
    def entropy(temperature: float) -> torch.Tensor:
        p = probabilities(LOGITS.double(), Sampling(temperature))
        return -torch.special.xlogy(p, p).sum(-1)

    entropies = torch.stack([entropy(τ) for τ in (0.1, 0.3, 0.5, 0.9, 1.0, 1.1, 2.0, 5.0, 100.0)])  # (9, 5)
    assert (entropies.diff(dim=0) > 0).all()
    assert (entropies < math.log(97)).all()


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-30, 1e-9, 1e-5, 1e-3])
def test_temperature_to_zero_is_argmax(temperature: float) -> None:
    best = LOGITS.argmax(-1)
    p = probabilities(LOGITS, Sampling(temperature))
    torch.testing.assert_close(p, torch.nn.functional.one_hot(best, 97).float(), atol=1e-6, rtol=0)
    assert torch.equal(choose(LOGITS, Sampling(temperature), [random_numbers(0, 0)] * 5), best)


def test_probabilities_sum_to_one_for_huge_logits_too() -> None:
    for scale in (1e-3, 1.0, 1e6, 1e30):
        p = probabilities(LOGITS * scale, Sampling(0.5, top_p=0.9))
        torch.testing.assert_close(p.sum(-1), torch.ones(5))


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    p = torch.tensor([[0.5, 0.0, 0.3, 0.15, 0.05, 0.0]])
    numbers, n = random_numbers(7, 0), 20_000
    counts = draw(p.expand(n, -1), [numbers] * n).bincount(minlength=6)
    assert counts[1] == counts[5] == 0
    assert ((counts / n - p[0]).abs() < 4 * (p[0] * (1 - p[0]) / n).sqrt() + 1e-9).all()


def test_the_last_place_is_reached_but_never_passed() -> None:
    class Greatest:
        def random(self) -> float:
            return 1 - 2**-53

    for p in (LOGITS.softmax(-1), torch.full((5, 97), 1 / 97)):
        assert (draw(p, [Greatest()] * 5) == 96).all()  # type: ignore[list-item]


def test_random_numbers_differ_by_seed_and_sample_and_by_nothing_else() -> None:
    keys = [(seed, sample) for seed in (0, 1, 2**63) for sample in (0, 1, 5)]
    numbers = {key: random_numbers(*key).random(4).tolist() for key in keys}
    assert len({tuple(values) for values in numbers.values()}) == 9
    assert random_numbers(1, 5).random(4).tolist() == numbers[1, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "--temperature: wanted a number of at least 0, got -0.1"),
        ({"temperature": math.nan}, "--temperature: wanted .* got nan"),
        ({"temperature": math.inf}, "--temperature: wanted .* got inf"),
        ({"top_k": 0}, "--top-k: wanted at least 1, got 0"),
        ({"top_p": 0.0}, "--top-p: wanted more than 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "--top-p: wanted .* got 1.5"),
        ({"min_p": -1.0}, "--min-p: wanted from 0 to 1, got -1.0"),
        ({"min_p": math.nan}, "--min-p: wanted from 0 to 1, got nan"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty: wanted more than 0, got 0.0"),
    ],
)
def test_an_option_out_of_range_is_one_line(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Sampling(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_one_line(seed: int) -> None:
    with pytest.raises(ValueError, match="seed: wanted a whole number from 0"):
        random_numbers(seed, 0)
