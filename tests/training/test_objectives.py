"""The masked objective (Devlin et al., 2019): which tokens are to be told, and what stands in their place."""

import math

import numpy as np
import pytest
import torch
from conftest import random_model

from chainrule.model.transformer import initialise
from chainrule.training.objectives import Marks, blanks, masked_token, masked_token_loss

V, MARKS = 61, Marks(bottom=60, closing=[58], mask=59)
WINDOWS = np.random.default_rng(0).integers(58, size=(500, 41))


def test_15_percent_are_told_and_of_these_80_are_masked_10_are_any_token_and_10_stay() -> None:
    tokens, places, targets = (tensor.numpy() for tensor in blanks(WINDOWS, MARKS, V, np.random.default_rng(1)))
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


def test_blanks_are_drawn_anew_at_each_step_and_alike_for_the_same_key() -> None:
    objective = masked_token(MARKS, V)
    first, again, other = (objective.batch(WINDOWS, key) for key in ([0, 1], [0, 1], [0, 2]))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])
    assert objective.predicted(first) == 500 * 6
    assert objective.predicted(objective.batch(WINDOWS[:, :2], [0])) == 0  # no room between the ends


@torch.no_grad()
def test_the_masked_loss_is_the_mean_over_blanks_of_minus_log_p() -> None:
    model = random_model("bert", vocabulary_size=V, context=40)
    tokens, places, targets = blanks(WINDOWS[:5], MARKS, V, np.random.default_rng(1))
    log_probs = model(tokens).log_softmax(-1)
    terms = [
        float(log_probs[row, place, target])
        for row in range(5)
        for place, target in zip(places[row], targets[row], strict=True)
    ]
    assert float(masked_token_loss(model, tokens, places, targets)) == pytest.approx(-np.mean(terms), rel=1e-5)
    initialise(model, 0)
    assert float(masked_token_loss(model, tokens, places, targets)) == pytest.approx(math.log(V), abs=0.1)
