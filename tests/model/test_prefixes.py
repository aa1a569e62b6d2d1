"""Sequences read as a trie have the features, the keys and the values that each has alone."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import SHAPES, random_model
from hypothesis import given, settings
from hypothesis import strategies as some

from chainrule.model.kernels import masked_attention
from chainrule.model.prefixes import read_all
from chainrule.model.transformer import Transformer

Make = Callable[..., Transformer]
MODELS = {family: random_model(family) for family in SHAPES}
SEQUENCE = some.lists(some.integers(0, 2), min_size=1, max_size=32)


@settings(max_examples=60, deadline=None)
@given(some.sampled_from(list(SHAPES)), some.lists(SEQUENCE, max_size=10), some.integers(1, 80))
@torch.no_grad()
def test_every_token_has_the_features_it_has_alone(family: str, sequences: list[list[int]], at_once: int) -> None:
    model, seen = MODELS[family], []
    for part in read_all(model, sequences, at_once):
        seen += part.sequences
        for sequence, columns in zip(part.sequences, part.columns, strict=True):
            wanted = model.features(torch.tensor([sequences[sequence]]))[0]
            torch.testing.assert_close(part.features[columns], wanted, atol=1e-5, rtol=0)
    assert sorted(seen) == list(range(len(sequences)))


@settings(max_examples=60, deadline=None)
@given(some.sampled_from(list(SHAPES)), some.lists(SEQUENCE, max_size=10), some.integers(1, 80), some.data())
@torch.no_grad()
def test_where_features_are_wanted_they_are_the_same_and_the_cache_too(
    family: str, sequences: list[list[int]], at_once: int, data: some.DataObject
) -> None:
    model = MODELS[family]
    wanted = [data.draw(some.integers(0, len(sequence) - 1)) for sequence in sequences]
    for part, all_of_it in zip(
        read_all(model, sequences, at_once, wanted), read_all(model, sequences, at_once), strict=True
    ):
        difference = part.cache.length + len(part.features) - all_of_it.cache.length - len(all_of_it.features)
        assert difference == 0 and part.sequences == all_of_it.sequences
        for sequence, columns in zip(part.sequences, part.columns, strict=True):
            some_of_it = columns[wanted[sequence] :]
            torch.testing.assert_close(part.features[some_of_it], all_of_it.features[some_of_it], atol=1e-5, rtol=0)
            for one, other in ((part.cache.keys, all_of_it.cache.keys), (part.cache.values, all_of_it.cache.values)):
                torch.testing.assert_close(one[:, 0][:, :, columns], other[:, 0][:, :, columns], atol=1e-5, rtol=0)


def test_a_sequence_longer_than_the_context_is_an_error(make_model: Make) -> None:
    with pytest.raises(ValueError, match="wanted at most 8 tokens"):
        list(read_all(make_model(context=8), [[0], [0] * 9], at_once=100))
    assert len(list(read_all(make_model(context=8), [[0, t, *range(6)] for t in range(60)], at_once=1000))) == 1


@pytest.mark.parametrize(("B", "T", "S"), [(1, 5, 12), (3, 200, 300), (2, 128, 128), (1, 1, 9)])
def test_masked_attention_is_pytorchs_and_so_is_its_gradient(B: int, T: int, S: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(B, 4, length, 8, generator=generator, dtype=torch.double).requires_grad_() for length in (T, S, S)
    )
    mask = torch.rand(B, 1, T, S, generator=generator) < 0.5
    mask = (mask & torch.ones(T, S, dtype=torch.bool).tril(S - T)) | torch.eye(S, dtype=torch.bool)[S - T :]
    ours = masked_attention(query, key, value, mask)
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, generator=generator, dtype=torch.double)
    mine, wanted = (torch.autograd.grad((x * weights).sum(), (query, key, value)) for x in (ours, theirs))
    torch.testing.assert_close(mine, wanted)
