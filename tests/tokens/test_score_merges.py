"""The merges of a vocabulary with scores are those that looking at each cut of each token finds."""

import numpy as np
import pytest

from chainrule.tokens import score_merges
from chainrule.tokens.score_merges import merges_by_scores


def looked_for(ids: dict[str, int], scores: np.ndarray) -> list[str]:
    """One token and one cut at a time."""
    found = []
    for token in sorted(ids, key=lambda token: (-scores[ids[token]], ids[token])):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [(left, right) for left, right in cuts if left in ids and right in ids]
        found += [f"{left} {right}" for left, right in sorted(pairs, key=lambda pair: ids[pair[0]])]
    return found


def vocabulary(alphabet: str, size: int, seed: int) -> dict[str, int]:
    generator = np.random.default_rng(seed)
    texts = ["".join(generator.choice(list(alphabet), generator.integers(1, 7))) for _ in range(size)]
    ids = generator.permutation(3 * size)[: len(set(texts))]
    return dict(zip(dict.fromkeys(texts), map(int, ids), strict=True))


@pytest.mark.parametrize("alphabet", ["ab", "abcdefg▁", "日本語🚀é▁", "\x01\x02a"])
def test_merges_are_those_of_every_cut(alphabet: str) -> None:
    ids = vocabulary(alphabet, 400, len(alphabet))
    scores = np.random.default_rng(1).integers(-9, 0, 1200).astype(float)  # many are equal
    assert merges_by_scores(ids, scores) == looked_for(ids, scores) != []


def test_two_texts_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, scores = vocabulary("abc", 60, 3), -np.arange(180.0)
    monkeypatch.setattr(score_merges, "_BASE", 1)  # the hash is then a sum, the same for ab and ba
    monkeypatch.setattr(score_merges, "_INVERSE", 1)
    assert set(merges_by_scores(ids, scores)) <= set(looked_for(ids, scores))


def test_a_slot_that_two_tokens_share_hides_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, scores = vocabulary("abcde", 500, 4), -np.arange(1500.0)
    monkeypatch.setattr(score_merges, "_SLOT_BITS", 4)
    assert merges_by_scores(ids, scores) == looked_for(ids, scores)


@pytest.mark.parametrize("ids", [{}, {"": 0}, {"a": 0}, {"": 1, "a": 0}, {"a": 1, "b": 0}])
def test_a_vocabulary_may_have_no_merges(ids: dict[str, int]) -> None:
    assert merges_by_scores(ids, np.zeros(2)) == []
