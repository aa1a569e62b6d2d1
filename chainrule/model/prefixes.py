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

from chainrule.model.forest import Tokens, common_beginning
from chainrule.model.kv_cache import KVCache, TreeCache
from chainrule.model.prefix_cache import PrefixCache
from chainrule.model.transformer import Transformer

Columns = NDArray[np.int64]


class Part(NamedTuple):
    """Some of the sequences and their hidden states; valid until the next part is computed."""

    sequences: list[int]  # their indices
    columns: list[Columns]  # of each: the columns of its tokens in `features` and in the cache
    features: Tensor  # φ (S, D) at the tokens for which it is wanted, 0 at others
    cache: KVCache  # of one sequence


def empty_cache(model: Transformer, capacity: int, sequences: int = 1) -> KVCache:
    """A cache for `capacity` positions of so many sequences."""
    config, dtype = model.config, model.compute_dtype or model.dtype
    heads, head_width = config.key_value_heads, config.head_width
    return KVCache(config.layers, sequences, capacity, heads, head_width, dtype, model.device)


def read_all(
    model: Transformer,
    sequences: Sequence[Tokens],
    at_once: int,
    wanted: Sequence[int] | None = None,
    known: PrefixCache | None = None,
    lengths: Sequence[int] | None = None,
) -> Iterator[Part]:
    """Compute sequences of at least one token each, sorted so that every common prefix is computed once.

    A part has at most `at_once` new tokens, or one sequence; the cache has room for these and one sequence. `wanted`:
    for each sequence the position from which on its features are wanted, by default all; the last layer is computed at
    these positions alone. `known`: prefixes computed before, of which positions before the wanted ones are copied; all
    that is computed is added to it. `lengths`: of the texts that they are beginnings of, by default their own: in some
    models (`Config.original_context`) they make a difference, and nothing is shared across it. Raises ChainruleError
    for a sequence longer than the context.
    """
    if not sequences:
        return
    texts = [np.array(sequence, np.int32) for sequence in sequences]
    lengths, most = lengths or [len(text) for text in texts], model.config.original_context
    longer = [most is not None and length > most for length in lengths]
    order = sorted(range(len(texts)), key=lambda sequence: (longer[sequence], texts[sequence].astype(">i4").tobytes()))
    texts, longer = [texts[sequence] for sequence in order], [longer[sequence] for sequence in order]
    shared = [0, *(common_beginning(one, other) for one, other in pairwise(texts))]
    if True in longer:
        shared[longer.index(True)] = 0
    needed = _needed([len(text) for text in texts], shared, [wanted[index] for index in order] if wanted else None)
    # How many tokens may be copied: those before the first of which features are wanted.
    copied = [int(flags.argmax()) if flags.any() else len(flags) - 1 for flags in needed]
    if known is None:
        capacity = _capacity(texts, shared, at_once, longer)
    else:
        capacity = min(sum(map(len, texts)), max(map(len, texts)) + at_once)
    cache = empty_cache(model, capacity)
    device, columns = model.device, np.empty(0, np.int64)
    features = torch.empty(0, model.config.width, device=device, dtype=cache.keys.dtype)
    first = 0
    while first < len(texts):
        kept = shared[first]  # length of the path that goes on
        cache.keep(columns[:kept])
        features = features[torch.from_numpy(columns[:kept]).to(device)]
        if known is not None:
            loaded = known.load(texts[first], kept, copied[first], cache.keys[:, 0], cache.values[:, 0], longer[first])
            features = torch.cat((features, features.new_zeros(loaded - kept, features.shape[1])))
            cache.length = kept = loaded
        part, size = _part(texts, shared, copied, first, kept, at_once, known, longer)
        columns, paths, end = np.arange(kept), [], kept
        tokens, depths, ends = np.empty(size, np.int64), np.empty(size, np.int64), np.full(kept + size, kept + size)
        chosen = np.empty(size, bool)
        for index in part:
            text, common = texts[index], kept if index == first else shared[index]
            start, end = end, end + len(text) - common
            chosen[start - kept : end - kept] = needed[index][common:]
            tokens[start - kept : end - kept] = text[common:]
            depths[start - kept : end - kept] = np.arange(common, len(text))
            ends[columns[common:]] = start
            columns = np.concatenate((columns[:common], np.arange(start, end)))
            paths.append(columns)
        length = lengths[order[first]] if longer[first] else None
        tree, inputs = TreeCache(cache, depths, ends, length), torch.from_numpy(tokens[None]).to(device)
        if chosen.all():
            computed = model.features(inputs, tree)[0]  # (T, D)
        else:
            computed, there = features.new_zeros(size, features.shape[1]), torch.from_numpy(np.flatnonzero(chosen))
            computed[there.to(device)] = model.features(inputs, tree, output_positions=there[None].to(device))[0]
        features = torch.cat((features, computed))  # (S, D)
        if known is not None:
            for index, path in zip(part, paths, strict=True):
                there = torch.from_numpy(path).to(device)
                known.save(texts[index], cache.keys[:, 0], cache.values[:, 0], there, longer[index])
        yield Part(order[part.start : part.stop], paths, features, cache)
        first = part.stop


def _needed(lengths: Sequence[int], shared: Sequence[int], wanted: Sequence[int] | None) -> list[NDArray[np.bool_]]:
    """Of each sequence: True for a token whose features it wants itself, or a later one with the same prefix."""
    found = [np.arange(length) >= (0 if wanted is None else wanted[index]) for index, length in enumerate(lengths)]
    for index in range(len(found) - 2, -1, -1):
        common = shared[index + 1]
        found[index][:common] |= found[index + 1][:common]
    return found


def _part(
    texts: Sequence[NDArray[np.int32]],
    shared: Sequence[int],
    copied: Sequence[int],
    first: int,
    kept: int,
    at_once: int,
    known: PrefixCache | None,
    longer: Sequence[bool],
) -> tuple[range, int]:
    """The sequences from `first` on that have at most `at_once` tokens to compute, or the first alone, and their number
    of tokens; `kept` of the first are computed. One of which more is known than the path begins another part, and so
    does the first that is longer than the original context."""
    size, end = len(texts[first]) - kept, first + 1
    while end < len(texts) and longer[end] == longer[first]:
        more = len(texts[end]) - shared[end]
        if more and size + more > at_once:
            break
        if more and known is not None and known.match(texts[end], copied[end], longer[end]) > shared[end]:
            break
        size, end = size + more, end + 1
    return range(first, end), size


def _capacity(texts: Sequence[NDArray[np.int32]], shared: Sequence[int], at_once: int, longer: Sequence[bool]) -> int:
    """The most columns that a part has where no prefix is known."""
    first, most = 0, 0
    while first < len(texts):
        part, size = _part(texts, shared, (), first, shared[first], at_once, None, longer)
        first, most = part.stop, max(most, shared[first] + size)
    return most
