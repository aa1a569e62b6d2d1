"""Reads many sequences, what several of them begin with only once. Knows tokens, not what is wanted of them.

Sorted, the sequences are a trie walked in preorder. A part of it is read in one call, each token looking at its
ancestors alone, with no padding. From one part to the next the cache keeps the path that goes on.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.model.kv_cache import Cache, Tree
from chainrule.model.transformer import Transformer

Columns = NDArray[np.int64]


class Part(NamedTuple):
    """Some of the sequences, read; good until the next part is asked for."""

    sequences: list[int]  # which they are
    columns: list[Columns]  # of each: where its tokens stand in `features` and in the cache
    features: Tensor  # φ (S, D), where it is wanted
    cache: Cache  # one row


def empty_cache(model: Transformer, capacity: int, padding: Tensor) -> Cache:
    """For `capacity` positions of sequences with that padding, (B,)."""
    config, weight = model.config, model.embedding.weight
    dtype = model.compute_dtype or weight.dtype
    return Cache(config.layers, capacity, padding.to(weight.device), config.key_value_heads, config.head_width, dtype)


def read_all(
    model: Transformer, sequences: Sequence[Sequence[int]], at_once: int, wanted: Sequence[int] | None = None
) -> Iterator[Part]:
    """Read sequences of at least one token each, in the order that shares most; every common prefix is read once.

    A part reads at most `at_once` new tokens, or one sequence; keys and values are held for them and for one sequence.
    `wanted`: of each sequence the place from which on φ is wanted, by default all of it; the last layer is computed
    there alone. Raises ChainruleError for a sequence longer than the context.
    """
    if not sequences:
        return
    texts = [np.array(sequence, np.int32) for sequence in sequences]
    order = sorted(range(len(texts)), key=lambda sequence: texts[sequence].astype(">i4").tobytes())
    texts = [texts[sequence] for sequence in order]
    shared = [0, *(_shared(one, other) for one, other in pairwise(texts))]  # with the one before
    asked = _asked([len(text) for text in texts], shared, [wanted[place] for place in order] if wanted else None)
    parts = list(_parts([len(text) - common for text, common in zip(texts, shared, strict=True)], at_once))
    capacity = max(shared[part.start] + size for part, size in parts)
    cache = empty_cache(model, capacity, torch.zeros(1, dtype=torch.long))
    device, columns = cache.padding.device, np.empty(0, np.int64)
    features = torch.empty(0, model.config.width, device=device, dtype=cache.keys.dtype)
    for part, size in parts:
        held = shared[part.start]  # the path that goes on
        cache.keep(columns[:held])
        features = features[torch.from_numpy(columns[:held]).to(device)]
        columns, paths, end = np.arange(held), [], held
        tokens, depths, ends = np.empty(size, np.int64), np.empty(size, np.int64), np.full(held + size, held + size)
        only = np.empty(size, bool)
        for place in part:
            text, common = texts[place], shared[place]
            start, end = end, end + len(text) - common
            only[start - held : end - held] = asked[place][common:]
            tokens[start - held : end - held] = text[common:]
            depths[start - held : end - held] = np.arange(common, len(text))
            ends[columns[common:]] = start
            columns = np.concatenate((columns[:common], np.arange(start, end)))
            paths.append(columns)
        tree, read = Tree(cache, depths, ends), torch.from_numpy(tokens[None]).to(device)
        if only.all():
            new = model.features(read, tree)[0]  # (T, D)
        else:
            new, there = features.new_zeros(size, features.shape[1]), torch.from_numpy(np.flatnonzero(only)).to(device)
            new[there] = model.features(read, tree, output_positions=there[None])[0]
        features = torch.cat((features, new))  # (S, D)
        yield Part(order[part.start : part.stop], paths, features, cache)


def _asked(lengths: Sequence[int], shared: Sequence[int], wanted: Sequence[int] | None) -> list[NDArray[np.bool_]]:
    """At which tokens of each sequence φ is wanted, by itself or by one after it that begins with the same tokens."""
    found = [np.arange(length) >= (0 if wanted is None else wanted[place]) for place, length in enumerate(lengths)]
    for place in range(len(found) - 2, -1, -1):
        common = shared[place + 1]
        found[place][:common] |= found[place + 1][:common]
    return found


def _shared(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Length of the longest common prefix."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def _parts(new: Sequence[int], at_once: int) -> Iterator[tuple[range, int]]:
    """Runs of sequences with at most `at_once` new tokens in all, or of one sequence, and how many those are."""
    start, size = 0, 0
    for place, more in enumerate(new):
        if size and more and size + more > at_once:
            yield range(start, place), size
            start, size = place, 0
        size += more
    if size:
        yield range(start, len(new)), size
