"""φ at the last token of many texts is the one each text has alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from chainrule.model.padding import by_length
from chainrule.model.transformer import Transformer
from chainrule.scoring.features import Features, last_features
from chainrule.tokens.make import byte_tokenizer


def documents(count: int, longest: int = 32, vocabulary: int = 61) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, vocabulary, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def alone(model: Transformer, document: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.features(torch.tensor([document]))[0, -1]


@pytest.mark.parametrize("tokens_at_once", [1, 64, 2048])
def test_each_text_has_the_features_it_has_alone(make_model: Callable[..., Any], tokens_at_once: int) -> None:
    model = make_model()
    texts = documents(50)
    found = last_features(model, texts, tokens_at_once)
    expected = torch.stack([alone(model, text) for text in texts])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens_at_once", [1, 2048])
def test_the_beginning_of_a_template_is_computed_once(make_model: Callable[..., Any], tokens_at_once: int) -> None:
    model = make_model()
    template, ends = documents(1, 12)[0] + [3] * 9, documents(20, 8)
    texts = [template + end for end in ends] + [template + ends[0], template]
    read = []
    model.embedding.register_forward_hook(lambda module, given, made: read.append(given[0].numel()))
    found = last_features(model, texts, tokens_at_once)
    assert sum(read) <= len(template) + sum(map(len, ends))
    expected = torch.stack([alone(model, text) for text in texts])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    read.clear()
    last_features(model, texts, 2048, share=False)
    assert sum(read) >= sum(map(len, texts))


def test_gradients_through_the_last_token_alone_are_those_through_all(make_model: Callable[..., Any]) -> None:
    model = make_model()
    tokens, last = torch.tensor(documents(1, 8)[0] * 3).view(3, -1), torch.tensor([0, 1, 2])
    tokens = torch.cat((tokens, tokens), dim=1)
    picked = []
    for features in (
        model.features(tokens, output_positions=last[:, None])[:, 0],
        model.features(tokens)[torch.arange(3), last],
    ):
        gradients = torch.autograd.grad(features.square().sum(), [model.embedding.weight, *model.blocks.parameters()])
        picked.append(gradients)
    for one, other in zip(*picked, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_output_layer_is_never_computed(make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    monkeypatch.setattr(Transformer, "logits", lambda *_: pytest.fail("logits were computed"))
    assert last_features(model, documents(3)).shape == (3, 32)


def test_batches_hold_every_text_once_and_no_more_tokens_than_allowed() -> None:
    lengths = [len(document) for document in documents(200)]
    batches = list(by_length(lengths, 100))
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    assert all(len(batch) * max(lengths[row] for row in batch) <= 100 for batch in batches)
    assert [len(batch) for batch in by_length([500, 3], 100)] == [1, 1]  # one text is always read whole


def test_a_text_longer_than_the_context_keeps_bottom_and_its_end_and_is_counted(
    make_model: Callable[..., Any],
) -> None:
    model, tokenizer = make_model(vocabulary_size=257, context=8), byte_tokenizer()
    features = Features(model, tokenizer)
    assert features.notes == []
    fits, longer = features.tokens(["1234567", "12345678"])
    assert fits.tolist() == [256, *b"1234567"]
    assert longer.tolist() == [256, *b"2345678"]
    assert features.cut == 1
    assert features.notes == ["1 texts longer than the context of 8 tokens lost their beginning"]


def test_a_text_longer_than_the_context_is_refused_if_asked(make_model: Callable[..., Any]) -> None:
    features = Features(make_model(vocabulary_size=257, context=8), byte_tokenizer(), longer="refuse")
    with pytest.raises(ValueError, match=r"text 2: wanted at most 7 tokens .*got 8"):
        features(["1234567", "12345678"])
    with pytest.raises(ValueError, match="wanted cut or refuse, got 'drop'"):
        Features(make_model(), byte_tokenizer(), longer="drop")  # type: ignore[arg-type]


def test_remembered_features_are_those_computed(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(vocabulary_size=257)
    texts = ["a cat", "a dog", "a cat", ""]
    plain, remembering = Features(model, byte_tokenizer()), Features(model, byte_tokenizer(), remember=True)
    first = remembering(texts)
    np.testing.assert_allclose(first, plain(texts), atol=1e-5)
    monkeypatch.setattr(Transformer, "features", lambda *_, **__: pytest.fail("read again"))
    np.testing.assert_array_equal(remembering(texts[::-1]), first[::-1])


def test_no_text_has_no_features(make_model: Callable[..., Any]) -> None:
    for remember in (False, True):
        features = Features(make_model(vocabulary_size=257), byte_tokenizer(), remember=remember)
        assert features([]).shape == (0, 32)
