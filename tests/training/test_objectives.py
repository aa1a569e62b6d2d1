"""What objectives give a step: which tokens are masked (Devlin et al., 2019), and the same examples for any world."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_model

from chainrule.corpus.batches import Batches
from chainrule.corpus.shards import Split
from chainrule.finetuning.trained import TextClassifier
from chainrule.model.transformer import initialise
from chainrule.training.classes import Classes, LabelledTexts
from chainrule.training.epochs import Epochs
from chainrule.training.gradients import accumulate
from chainrule.training.objectives import (
    MaskedToken,
    NextToken,
    SpecialTokens,
    Windows,
    mask_windows,
    masked_token_loss,
)

V, SPECIAL = 61, SpecialTokens(bos=60, closing=[58], mask=59)
WINDOWS = np.random.default_rng(0).integers(58, size=(500, 41))


def test_15_percent_are_predicted_and_of_these_80_are_masked_10_are_any_token_and_10_stay() -> None:
    tokens, places, targets = (tensor.numpy() for tensor in mask_windows(WINDOWS, SPECIAL, V, np.random.default_rng(1)))
    assert tokens.shape == (500, 40) and places.shape == targets.shape == (500, round(0.15 * 38))
    assert (places >= 1).all() and (places < 39).all() and (np.diff(places, axis=1) > 0).all()
    assert (tokens[:, 0] == 60).all() and (tokens[:, -1] == 58).all()
    np.testing.assert_array_equal(np.take_along_axis(WINDOWS, places, axis=1), targets)
    read = np.take_along_axis(tokens, places, axis=1)
    masked, kept = (read == 59).mean(), (read == targets).mean()
    assert masked == pytest.approx(0.8, abs=0.03) and kept == pytest.approx(0.1, abs=0.03)  # 3,000 blanks
    untouched = np.ones_like(tokens, bool)
    np.put_along_axis(untouched, places, False, axis=1)
    untouched[:, [0, -1]] = False
    np.testing.assert_array_equal(tokens[untouched], WINDOWS[:, :-1][untouched])
    assert np.bincount(places.ravel(), minlength=40)[1:39].min() > 40  # of 79 on average: no place is left out


def windows(folder: Path, batch_size: int, context: int = 40, micro_batch_size: int = 4) -> Windows:
    """Of a small random language."""
    np.random.default_rng(1).integers(58, size=5000).astype("<u2").tofile(folder / "train.bin")
    source = Batches(Split([folder / "train.bin"], "uint16", 2**16), context, seed=3)
    return Windows(source, batch_size, micro_batch_size, "cpu")


def test_other_tokens_are_masked_at_each_step_and_the_same_at_the_same_step(tmp_path: Path) -> None:
    objective = MaskedToken(windows(tmp_path, 8), SPECIAL, V)
    first, again, other = (list(objective.batches(step)) for step in (1, 1, 2))
    assert [len(batch.tokens) for batch in first] == [4, 4]
    for one, two in zip(first, again, strict=True):
        assert all(map(torch.equal, one, two))
    assert not torch.equal(first[0].positions, other[0].positions)
    assert sum(batch.targets.numel() for batch in first) == 8 * 6


def test_nothing_is_masked_where_only_the_ends_fit_and_the_sum_is_then_0() -> None:
    model = random_model("bert", vocabulary_size=V, context=40)
    batch = mask_windows(WINDOWS[:, :3], SPECIAL, V, np.random.default_rng(0))
    assert batch.targets.numel() == 0
    total, count = MaskedToken(None, SPECIAL, V).loss(model, batch)  # type: ignore[arg-type]
    assert total.item() == count.item() == 0


@pytest.mark.parametrize("world", [2, 3, 5, 8])
@pytest.mark.parametrize("kind", ["next", "masked", "classes"])
def test_the_gradients_of_all_ranks_add_up_to_those_of_one(kind: str, world: int, tmp_path: Path) -> None:
    objective: Any
    if kind == "classes":
        rng = np.random.default_rng(0)
        documents = [rng.integers(V, size=rng.integers(1, 30)) for _ in range(20)]
        texts = LabelledTexts(documents, rng.integers(3, size=20))
        weights = np.array([0.5, 1, 2], np.float32)
        objective = Classes(texts, weights, Epochs(7, 64, torch.device("cpu"), 0), smoothing=0.1)
        w = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
        model: torch.nn.Module = TextClassifier(random_model("qwen3", vocabulary_size=V, context=40), w)
    elif kind == "masked":
        objective = MaskedToken(windows(tmp_path, 7), SPECIAL, V)
        model = random_model("bert", vocabulary_size=V, context=40)
    else:
        objective = NextToken(windows(tmp_path, 7))
        model = random_model("qwen3", vocabulary_size=V, context=40)

    def summed(ranks: int) -> tuple[list[torch.Tensor], float, float]:
        model.zero_grad()
        parts = [accumulate(model, objective, 2, rank, ranks) for rank in range(ranks)]
        gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        return gradients, float(sum(loss for loss, _ in parts)), float(sum(count for _, count in parts))

    (whole, loss, count), (parts, part_losses, part_counts) = summed(1), summed(world)
    assert count == pytest.approx(part_counts) and loss == pytest.approx(part_losses, rel=1e-5)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(one.abs().max()), rtol=1e-4)


@torch.no_grad()
def test_the_masked_loss_is_the_mean_over_blanks_of_minus_log_p() -> None:
    model = random_model("bert", vocabulary_size=V, context=40)
    tokens, places, targets = batch = mask_windows(WINDOWS[:5], SPECIAL, V, np.random.default_rng(1))
    log_probs = model(tokens).log_softmax(-1)
    terms = [
        float(log_probs[row, place, target])
        for row in range(5)
        for place, target in zip(places[row], targets[row], strict=True)
    ]
    assert float(masked_token_loss(model, batch)) == pytest.approx(-np.mean(terms), rel=1e-5)
    initialise(model, 0)
    assert float(masked_token_loss(model, batch)) == pytest.approx(math.log(V), abs=0.1)
