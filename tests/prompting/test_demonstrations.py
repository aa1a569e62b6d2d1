"""Which examples are shown: drawn alike for a seed, shared out evenly, or the nearest."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from chainrule.prompting import demonstrations
from chainrule.prompting.demonstrations import (
    balanced,
    nearest_by_features,
    nearest_by_words,
    random,
    reordered,
    the_same,
)

TEXTS = [
    "a charming and often affecting journey",
    "the film is a mess",
    "a mess of a script, a mess of a film",
    "the acting is charming",
    "",
    "???",
]


def letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """Counts of letters: stands for a model's features."""
    return np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz?"] for text in texts], np.float32)


NEAREST = {
    "features": lambda texts: nearest_by_features(letters, texts),
    "words": nearest_by_words,
}


def test_a_seed_draws_the_same_examples_and_fewer_shots_are_the_first_of_them() -> None:
    labels = ["a", "b", "c"] * 10
    for draw in (lambda shots, seed: random(30, shots, seed), lambda shots, seed: balanced(labels, shots, seed)):
        assert draw(12, 0) == draw(12, 0) != draw(12, 1)
        assert draw(5, 0) == draw(12, 0)[:5]
        assert sorted(draw(30, 0)) == list(range(30))
        assert draw(0, 0) == []


def test_random_examples_are_any_with_equal_chance() -> None:
    counts = Counter(index for seed in range(2000) for index in random(5, 2, seed))
    assert all(counts[index] == pytest.approx(800, abs=90) for index in range(5))  # 4 standard deviations


@pytest.mark.parametrize("shots", [2, 3, 6, 7, 9])
def test_balanced_examples_are_shared_out_evenly(shots: int) -> None:
    labels = ["rare"] * 3 + ["often"] * 50 + ["some"] * 9
    for seed in range(5):
        counts = Counter(labels[index] for index in balanced(labels, shots, seed))
        assert max(counts.values()) - min(counts[label] for label in set(labels)) <= (shots % 3 > 0)


def test_the_share_of_a_class_that_runs_out_goes_to_the_others() -> None:
    labels = ["rare"] + ["often"] * 9
    chosen = balanced(labels, 6, seed=0)
    assert Counter(labels[index] for index in chosen) == {"rare": 1, "often": 5}
    assert len(set(chosen)) == 6


def test_another_order_has_the_same_examples() -> None:
    indices = [9, 4, 7, 1, 0]
    orders = [reordered(indices, seed=3, order=order) for order in range(3)]
    assert all(sorted(order) == sorted(indices) for order in orders)
    assert len(set(map(tuple, orders))) == 3
    assert reordered(indices, seed=3, order=0) == orders[0] != reordered(indices, seed=4, order=0)


def test_one_set_is_the_same_for_every_row() -> None:
    assert the_same([4, 2, 9])(["x", "y"], 2) == [(4, 2), (4, 2)]
    assert the_same([])(["x"], 3) == [()]


@pytest.mark.parametrize("by", NEAREST)
def test_the_nearest_to_a_text_that_is_among_the_examples_is_itself(by: str) -> None:
    texts = TEXTS[:4]
    for place, chosen in enumerate(NEAREST[by](texts)(texts, 3)):
        assert chosen[0] == place
        assert len(set(chosen)) == 3


@pytest.mark.parametrize("by", NEAREST)
def test_a_row_has_the_nearest_it_has_alone(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = NEAREST[by](TEXTS)
    rows = ["a charming script", "", "zzz", "the journey is a mess ???", *TEXTS]
    together = choose(rows, 4)
    assert [choose([row], 4)[0] for row in rows] == together
    assert choose(rows[::-1], 4) == together[::-1]
    assert choose(rows, 2) == [chosen[:2] for chosen in together]
    monkeypatch.setattr(demonstrations, "_SIMILARITIES_AT_ONCE", 2 * len(TEXTS) + 1)  # in several parts
    assert choose(rows, 4) == together
    assert choose([], 4) == []


@pytest.mark.parametrize("by", NEAREST)
def test_of_equal_examples_the_first_is_chosen_and_more_than_all_are_all(by: str) -> None:
    choose = NEAREST[by](["a mess", "charming", "a mess", "a mess"])
    assert choose(["a mess"], 2) == [(0, 2)]
    assert choose(["a mess"], 10) == [(0, 2, 3, 1)]
    assert NEAREST[by](["only one"])(["another"], 3) == [(0,)]


def test_bm25_is_its_formula() -> None:
    texts, query = ["the film is a mess", "a mess a mess", "charming"], "A mess, charming mess"
    words = [text.split() for text in texts]
    average = sum(map(len, words)) / 3

    def score(example: list[str]) -> float:
        total = 0.0
        for word in ("a", "mess", "charming", "mess"):
            containing, count = sum(word in other for other in words), example.count(word)
            rarity = np.log(1 + (3 - containing + 0.5) / (containing + 0.5))
            total += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(example) / average))
        return total

    wanted = sorted(range(3), key=lambda index: -score(words[index]))
    assert nearest_by_words(texts)([query], 3) == [tuple(wanted)]
    assert wanted == [1, 2, 0]


def test_what_all_features_share_decides_nothing() -> None:
    shared = np.full(27, 1000, np.float32)
    choose = nearest_by_features(lambda texts: letters(texts) + shared, TEXTS)
    rows = ["a charming script", "mess"]
    assert choose(rows, 3) == nearest_by_features(letters, TEXTS)(rows, 3)
