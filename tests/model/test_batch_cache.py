"""Sequences that join and leave a cache of a batch have the logits that they have alone."""

from collections.abc import Callable

import torch

from chainrule.model.batch_cache import BatchCache
from chainrule.model.prefixes import read_all
from chainrule.model.transformer import Transformer

Make = Callable[..., Transformer]
PROMPTS = [[0, 5, 9, 3], [0, 5, 9], [0, 5, 9, 3, 8, 8, 2, 11, 40], [0, 7]]


def batch(model: Transformer, rows: int, columns: int) -> BatchCache:
    config = model.config
    cache = BatchCache(config.layers, config.key_value_heads, config.head_width, model.dtype, model.device)
    cache.reserve(rows, columns)
    return cache


def join(model: Transformer, cache: BatchCache, prompt: list[int], count: int = 1) -> list[list[int]]:
    """The sequences that joined."""
    (part,) = read_all(model, [prompt], at_once=100)
    cache.join(count, part.cache, torch.from_numpy(part.columns[0]))
    return [list(prompt) for _ in range(count)]


def check_next(model: Transformer, cache: BatchCache, sequences: list[list[int]], token: int) -> None:
    """Give each sequence another token."""
    for row, sequence in enumerate(sequences):
        sequence.append((token + row) % 61)
    logits = model(torch.tensor([sequence[-1:] for sequence in sequences]), cache=cache)
    for row, sequence in zip(logits, sequences, strict=True):
        torch.testing.assert_close(row[-1], model(torch.tensor([sequence]))[0, -1], atol=2e-5, rtol=0)
    assert cache.lengths == [len(sequence) for sequence in sequences]


@torch.no_grad()
def test_sequences_that_join_and_leave_have_the_logits_they_have_alone(make_model: Make) -> None:
    model = make_model()
    cache, sequences = batch(model, 5, 20), []
    for token, prompt in enumerate(PROMPTS):
        sequences += join(model, cache, prompt)
        check_next(model, cache, sequences, token)
    cache.leave(2)  # the longest; the last one moves into its row
    sequences[2] = sequences.pop()
    check_next(model, cache, sequences, 7)
    sequences += join(model, cache, PROMPTS[2], count=2)  # over what the others left
    check_next(model, cache, sequences, 9)
    cache.reserve(7, 30)
    check_next(model, cache, sequences, 11)
    for _ in range(5):
        cache.leave(0)
    assert len(cache) == cache.length == 0


@torch.no_grad()
def test_equally_long_sequences_need_no_mask_but_a_windows(make_model: Make) -> None:
    model = make_model()
    cache, sequences = batch(model, 3, 20), []
    sequences += join(model, cache, PROMPTS[2], count=3)
    assert cache.mask(1) is None and cache.mask(1, window=20) is None
    assert cache.mask(1, window=4).sum() == 4
    for token in range(5):
        check_next(model, cache, sequences, token)
    cache.leave(1)
    assert cache.mask(1) is None
