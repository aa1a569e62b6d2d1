"""Which labelled examples are demonstrations: one random set, or the nearest to each row. Knows texts and labels.

Shapes: R rows, N examples, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Asker = TypeVar("Asker")
# Given R rows (or their texts) and how many demonstrations each may have: their indices, the last to be dropped first.
Choose = Callable[[Sequence[Asker], int], list[tuple[int, ...]]]

_SIMILARITIES_AT_ONCE = 2**24  # in memory, whatever the number of rows and examples
_GRAIN = 1e-5  # similarities closer than this count as equal: rounding differs from batch to batch


def random(n: int, shots: int, seed: int) -> list[int]:
    """`shots` of n examples; fewer shots are the first of these."""
    return [int(index) for index in np.random.default_rng([seed, 0, n]).permutation(n)[:shots]]


def balanced(labels: Sequence[str], shots: int, seed: int) -> list[int]:
    """`shots` of the examples, the same number of each class, or one more of some.

    Where a class has too few, the others have more. Fewer shots are the first of these.
    """
    drawn = random(len(labels), len(labels), seed)
    classes = list(dict.fromkeys(labels[index] for index in drawn))  # in the order of this draw
    of_class = [[index for index in drawn if labels[index] == label] for label in classes]
    in_turn = [index for turn in zip_longest(*of_class) for index in turn if index is not None]
    return in_turn[:shots]


def reordered(indices: Sequence[int], seed: int, order: int) -> list[int]:
    """The same examples in another order, one for each (seed, order)."""
    return [int(index) for index in np.random.default_rng([seed, 1, order]).permutation(np.array(indices, np.int64))]


def the_same(indices: Sequence[int]) -> Choose[Any]:
    """These examples for every row."""
    return lambda rows, count: [tuple(indices[:count])] * len(rows)


def nearest_by_features(read: Callable[[Sequence[str]], NDArray[np.float32]], examples: Sequence[str]) -> Choose[str]:
    """By the cosine similarity of hidden states: `read` gives each text's features (…, D).

    They are centred by the examples' mean first, which otherwise dominates the similarity.
    """
    features = read(examples)  # (N, D)
    mean = features.mean(0)
    directions = _directions(features - mean)
    return lambda texts, count: [
        chosen
        for part in _parts(texts, len(examples))
        for chosen in _best(_directions(read(part) - mean) @ directions.T, count)
    ]


def _directions(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def nearest_by_words(examples: Sequence[str], k1: float = 1.2, b: float = 0.75) -> Choose[str]:
    """By BM25 (Robertson and Zaragoza, 2009), each word of a row counted as often as it occurs."""
    from sklearn.feature_extraction.text import HashingVectorizer

    counter = HashingVectorizer(n_features=2**20, norm=None, alternate_sign=False, token_pattern=r"\w+")
    counts = counter.transform(examples)  # (N, words), sparse
    lengths = np.asarray(counts.sum(1)).ravel()
    containing = counts.getnnz(0)
    rarity = np.log1p((len(examples) - containing + 0.5) / (containing + 0.5))
    weights = counts.tocoo()
    saturation = k1 * (1 - b + b * lengths / max(lengths.mean(), 1.0))
    weights.data = rarity[weights.col] * weights.data * (k1 + 1) / (weights.data + saturation[weights.row])
    weights = weights.T.tocsr()  # (words, N)
    return lambda texts, count: [
        chosen
        for part in _parts(texts, len(examples))
        for chosen in _best((counter.transform(part) @ weights).toarray(), count)
    ]


def _parts(texts: Sequence[str], examples: int) -> Iterator[Sequence[str]]:
    rows = max(1, _SIMILARITIES_AT_ONCE // examples)
    return (texts[start : start + rows] for start in range(0, len(texts), rows))


def _best(similarities: NDArray[np.floating], count: int) -> list[tuple[int, ...]]:
    """The indices of each row's `count` greatest (R, N), the greatest first; of equal ones the first."""
    N = similarities.shape[1]
    ranks = np.rint(similarities / _GRAIN).astype(np.int64) * N - np.arange(N)  # no two are equal
    count = min(count, N)
    best = np.argpartition(-ranks, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(ranks, best, axis=1), axis=1)
    return [tuple(row) for row in np.take_along_axis(best, order, axis=1).tolist()]
