"""Probabilities of labels, and what calibration takes out of them."""

import numpy as np
import pytest

from chainrule.prompting.calibrate import bias, probabilities

SCORES = np.random.default_rng(0).normal(-20, 5, (7, 3))
REFERENCES = np.random.default_rng(1).normal(-15, 3, (4, 3))


def test_probabilities_are_those_of_the_labels_alone() -> None:
    found = probabilities(SCORES)
    assert found.sum(1) == pytest.approx(1)
    assert found == pytest.approx(np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True))
    assert probabilities(SCORES - 1000) == pytest.approx(found)  # however improbable all of them are


def test_a_bias_that_every_text_has_is_taken_out_whatever_it_is() -> None:
    shared = np.array([0.0, 4.0, -30.0])
    plain = probabilities(SCORES, bias(REFERENCES))
    assert probabilities(SCORES + shared, bias(REFERENCES + shared)) == pytest.approx(plain)
    assert probabilities(SCORES + shared) != pytest.approx(probabilities(SCORES))


def test_a_text_that_says_what_the_references_say_gets_equal_probabilities() -> None:
    assert probabilities(REFERENCES[:1], bias(REFERENCES[:1])) == pytest.approx(1 / 3)


def test_a_bias_for_each_row_is_that_of_its_own_references() -> None:
    references = np.stack([REFERENCES + row for row in SCORES])  # (N, M, C)
    together = probabilities(SCORES, bias(references))
    for row, own, found in zip(SCORES, references, together, strict=True):
        assert probabilities(row[None], bias(own))[0] == pytest.approx(found)
