"""Computes the hidden states of many sequences, common prefixes once. Knows tokens, not what is done with the result.

Sorted, the sequences are a trie traversed in preorder. A part of it is computed in one call, each token attending to
its ancestors alone, without padding. Between parts the cache keeps the path that the next part continues.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.model.forest import common_beginning
from chainrule.model.kv_cache import KVCache, TreeCache
from chainrule.model.transformer import Transformer

Columns = NDArray[np.int64]


class Part(NamedTuple):
    """Some of the sequences and their hidden states; valid until the next part is computed."""

    sequences: list[int]  # their indices
    columns: list[Columns]  # of each: the columns of its tokens in `features` and in the cache
    features: Tensor  # φ (S, D) at the tokens for which it is wanted, 0 at others
    cache: KVCache  # of one sequence


def empty_cache(model: Transformer, capacity: int, padding: Tensor) -> KVCache:
    """A cache for `capacity` positions of sequences with this much padding on the left, (B,)."""
    config, dtype = model.config, model.compute_dtype or model.dtype
    return KVCache(config.layers, capacity, padding.to(model.device), config.key_value_heads, config.head_width, dtype)


def read_all(
    model: Transformer, sequences: Sequence[Sequence[int]], at_once: int, wanted: Sequence[int] | None = None
) -> Iterator[Part]:
    """Compute sequences of at least one token each, sorted so that every common prefix is computed once.

    A part has at most `at_once` new tokens, or one sequence; the cache has room for these and one sequence. `wanted`:
    for each sequence the position from which on its features are wanted, by default all; the last layer is computed at
    these positions alone. Raises ChainruleError for a sequence longer than the context.
    """
    if not sequences:
        return
    texts = [np.array(sequence, np.int32) for sequence in sequences]
    order = sorted(range(len(texts)), key=lambda sequence: texts[sequence].astype(">i4").tobytes())
    texts = [texts[sequence] for sequence in order]
    shared = [
        0,
        *(common_beginning(one, other) for one, other in pairwise(texts)),
    ]
    needed = _needed([len(text) for text in texts], shared, [wanted[index] for index in order] if wanted else None)
    parts = list(_parts([len(text) - common for text, common in zip(texts, shared, strict=True)], at_once))
    capacity = max(shared[part.start] + size for part, size in parts)
    cache = empty_cache(model, capacity, torch.zeros(1, dtype=torch.long))
    device, columns = cache.padding.device, np.empty(0, np.int64)
    features = torch.empty(0, model.config.width, device=device, dtype=cache.keys.dtype)
    for part, size in parts:
        kept = shared[part.start]  # length of the path that goes on
        cache.keep(columns[:kept])
        features = features[torch.from_numpy(columns[:kept]).to(device)]
        columns, paths, end = np.arange(kept), [], kept
        tokens, depths, ends = np.empty(size, np.int64), np.empty(size, np.int64), np.full(kept + size, kept + size)
        chosen = np.empty(size, bool)
        for index in part:
            text, common = texts[index], shared[index]
            start, end = end, end + len(text) - common
            chosen[start - kept : end - kept] = needed[index][common:]
            tokens[start - kept : end - kept] = text[common:]
            depths[start - kept : end - kept] = np.arange(common, len(text))
            ends[columns[common:]] = start
            columns = np.concatenate((columns[:common], np.arange(start, end)))
            paths.append(columns)
        tree, inputs = TreeCache(cache, depths, ends), torch.from_numpy(tokens[None]).to(device)
        if chosen.all():
            new = model.features(inputs, tree)[0]  # (T, D)
        else:
            new, there = features.new_zeros(size, features.shape[1]), torch.from_numpy(np.flatnonzero(chosen))
            new[there.to(device)] = model.features(inputs, tree, output_positions=there[None].to(device))[0]
        features = torch.cat((features, new))  # (S, D)
        yield Part(order[part.start : part.stop], paths, features, cache)


def _needed(lengths: Sequence[int], shared: Sequence[int], wanted: Sequence[int] | None) -> list[NDArray[np.bool_]]:
    """Of each sequence: True for a token whose features it wants itself, or a later one with the same prefix."""
    found = [np.arange(length) >= (0 if wanted is None else wanted[index]) for index, length in enumerate(lengths)]
    for index in range(len(found) - 2, -1, -1):
        common = shared[index + 1]
        found[index][:common] |= found[index + 1][:common]
    return found


def _parts(new: Sequence[int], at_once: int) -> Iterator[tuple[range, int]]:
    """Ranges of sequences with at most `at_once` new tokens in all, or of one sequence, and their numbers of tokens."""
    start, size = 0, 0
    for index, more in enumerate(new):
        if size and more and size + more > at_once:
            yield range(start, index), size
            start, size = index, 0
        size += more
    if size:
        yield range(start, len(new)), size
