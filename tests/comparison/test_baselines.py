"""The baselines are predictors like any other, and learn from the N labels alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from chainrule.comparison.methods.bag_of_words import bag_of_words
from chainrule.comparison.methods.majority import majority
from chainrule.comparison.methods.random_weights import random_weights
from chainrule.finetuning.logistic import Strengths, assign_folds, fit
from chainrule.language_model import LanguageModel
from chainrule.tasks.examples import Task
from chainrule.tokens.make import byte_tokenizer

CLASSES = {"cold": ["snow", "ice", "frost!"], "hot": ["sun", "fire", "sand?"], "wet": ["rain", "sea", "mist"]}


def make_task(folder: Path, kind: str = "classification") -> Task:
    """Sixty rows of one class and thirty of each other, told apart by a word."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        label = "hot" if number % 2 else ("cold", "wet")[number // 2 % 2]
        rows.append({"text": f"day {number} had {rng.choice(CLASSES[label])}", "label": label})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "task.toml").write_text(f'kind = "{kind}"\ntrain = "rows.jsonl"\ntext = "text"\nlabel = "label"\n')
    return Task.load(folder / "task.toml")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path)


def test_majority_gives_the_shares_of_the_labels_it_may_use(task: Task) -> None:
    for labels in (None, 8):
        found = majority(task, labels, seed=1)
        used = task.subset(labels, 1).labels
        probabilities = found.predict_proba(task.test.rows)
        assert probabilities.shape == (len(task.test), 3)
        np.testing.assert_allclose(probabilities[0], [used.count(label) / len(used) for label in task.labels])
        assert found.predict(["whatever it says"]) == ["hot"]


def test_of_several_commonest_labels_majority_takes_the_first(task: Task) -> None:
    assert majority(task, 3).predict(["a text"]) == ["cold"]


def test_majority_of_free_answers_is_the_commonest_one(tmp_path: Path) -> None:
    free = make_task(tmp_path, kind="free")
    assert majority(free).predict(["a text"]) == ["hot"]
    with pytest.raises(
        ValueError, match="bag of words: wanted a task with labels to choose from, got one of kind 'free'"
    ):
        bag_of_words(free)


def test_a_bag_of_words_tells_classes_apart_by_their_words_and_pairs_of_words(task: Task) -> None:
    found = bag_of_words(task)
    assert found.predict(task.test.rows) == list(task.test.labels)
    np.testing.assert_allclose(found.predict_proba(task.test.rows).sum(1), 1.0)
    assert found.labels == task.labels


def test_a_bag_of_words_learns_from_its_subset_alone_and_the_same_from_the_same(task: Task) -> None:
    one, again, other = (bag_of_words(task, 16, seed).predict_proba(task.test.rows) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_baselines_refuse_one_row_alone_and_rows_without_their_columns(task: Task) -> None:
    for made in (majority(task), bag_of_words(task, 8)):
        with pytest.raises(ValueError, match="wanted several rows, got one alone"):
            made.predict("a text")
        with pytest.raises(ValueError, match="review"):
            made.predict([{"review": "a text"}])
        assert made.predict_proba([]).shape == (0, 3)
        assert list(made.notes) == []


def test_the_strength_is_chosen_by_cross_validation_where_there_are_labels_for_it() -> None:
    rng = np.random.default_rng(0)
    strengths = Strengths(choices=(1e-4, 1.0), default=7.0)
    classes = np.arange(100) % 2
    signal, noise = rng.normal(size=(100, 3)) + 3 * classes[:, None], rng.normal(size=(100, 60))
    for features, best in ((signal, 1.0), (noise, 1e-4)):
        fitted = fit(features, classes, strengths, intercept=True, balanced=False, seed=0)
        assert best == fitted.C
    too_few = fit(noise[:9], classes[:9], strengths, intercept=True, balanced=False, seed=0)
    assert too_few.C == 7.0


def test_a_class_with_one_example_does_not_stop_the_cross_validation() -> None:
    classes = np.array([0, 1] * 20 + [2])
    features = np.random.default_rng(0).normal(size=(41, 4)) + classes[:, None]
    fitted = fit(features, classes, Strengths((0.1, 1.0), 7.0), intercept=True, balanced=True, seed=0)
    assert fitted.C in (0.1, 1.0)
    assert fitted.predict_proba(features).shape == (41, 3)


def test_every_class_is_dealt_out_evenly() -> None:
    classes = np.array([0] * 50 + [1] * 23 + [2])
    hands = assign_folds(classes, 5, seed=0)
    assert np.ptp(np.bincount(hands)) <= 1
    for number in range(3):
        assert np.ptp(np.bincount(hands[classes == number], minlength=5)) <= 1


def test_random_weights_are_the_same_network_and_not_the_same_weights(make_model, family: str) -> None:  # type: ignore[no-untyped-def]
    lm = LanguageModel(make_model(vocabulary_size=257), byte_tokenizer(), family)
    one, again, other = (random_weights(lm, seed) for seed in (0, 0, 1))
    assert one.model.config == lm.model.config
    assert one.tokenizer is lm.tokenizer
    assert torch.equal(one.model.embedding.weight, again.model.embedding.weight)
    assert not torch.equal(one.model.embedding.weight, other.model.embedding.weight)
    assert not torch.equal(one.model.embedding.weight, lm.model.embedding.weight)
