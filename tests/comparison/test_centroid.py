"""The nearest class mean, on features that are known."""

from collections.abc import Sequence

import numpy as np
import pytest
from comparison_fakes import made_task

from chainrule.comparison.methods.centroid import CENTROID, SCALE, SCALES, best_scale
from chainrule.finetuning.classifier import Form
from chainrule.tasks.examples import Task


class Study:
    """Features that tell the classes of `made_task` apart by their first number, behind what all texts have alike."""

    def __init__(self, task: Task, noise: float) -> None:
        self.task, self.noise, self.form = task, noise, Form(task.text, None)

    def texts(self, rows: Sequence[dict[str, str]]) -> list[str]:
        return [row["text"] for row in rows]

    def features(self, texts: Sequence[str]) -> np.ndarray:
        numbers = [int(text.split()[-1]) for text in texts]
        noise = [np.random.default_rng(list(text.encode())).normal(size=8) for text in texts]
        signal = np.array([[1.0 if number % 2 else -1.0] + [0.0] * 7 for number in numbers])
        return (100 + signal + self.noise * np.array(noise)).astype(np.float32)


def test_a_text_gets_the_class_whose_mean_is_nearest() -> None:
    task = made_task(tests=40)
    found = CENTROID.fit(Study(task, noise=0.1), 8, 0)
    assert found.predict(task.test.rows) == list(task.test.labels)
    assert found.labels == task.labels
    probabilities = found.predict_proba(task.test.rows)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert probabilities.max(1).min() > 0.9


def test_it_learns_from_its_labels_alone_and_the_same_from_the_same() -> None:
    task = made_task(tests=40)
    one, again, other = (
        CENTROID.fit(Study(task, noise=1.0), 8, seed).predict_proba(task.test.rows) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_one_example_a_class_is_enough() -> None:
    task = made_task(tests=10)
    found = CENTROID.fit(Study(task, noise=0.1), 2, 0)
    assert found.predict(task.test.rows) == list(task.test.labels)


@pytest.mark.parametrize(("noise", "scales"), [(0.01, SCALES[-1:]), (100.0, SCALES[:1])])
def test_the_scale_is_chosen_by_examples_that_are_not_in_their_means(noise: float, scales: Sequence[float]) -> None:
    rng, classes = np.random.default_rng(0), np.arange(40) % 2
    features = np.concatenate((1 - 2.0 * classes[:, None], noise * rng.normal(size=(40, 30))), axis=1)
    assert best_scale(features / np.linalg.norm(features, axis=1, keepdims=True), classes) in scales
    assert best_scale(features[:2], classes[:2]) == SCALE


def test_free_answers_have_no_class_means() -> None:
    assert CENTROID.kinds == ("classification",)
