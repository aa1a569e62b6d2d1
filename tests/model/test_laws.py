"""What holds for a causal Transformer whatever its weights are, in every family."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import random_model

from chainrule.model.config import LayerKind
from chainrule.model.prefixes import empty_cache
from chainrule.model.rotary import Rope
from chainrule.model.transformer import Transformer, initialise

Make = Callable[..., Transformer]
TOKENS = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(1))


def close(ours: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(ours, other, atol=2e-5, rtol=0)  # logits spread by 2: ten times the rounding error


@torch.no_grad()
def test_a_later_token_never_changes_an_earlier_logit(make_model: Make) -> None:
    model = make_model()
    logits = model(TOKENS)
    for t in (1, 7, 19):
        changed = TOKENS.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 61
        other = model(changed)
        close(other[:, :t], logits[:, :t])
        assert (other[:, t] - logits[:, t]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(20,), (1,) * 20, (7, 1, 1, 11), (13, 7)])
def test_with_and_without_a_cache_the_logits_agree(make_model: Make, chunks: tuple[int, ...]) -> None:
    model = make_model()
    cache = empty_cache(model, 20, len(TOKENS))
    logits = torch.cat([model(chunk, cache=cache) for chunk in TOKENS.split(chunks, dim=1)], dim=1)
    close(logits, model(TOKENS))


@torch.no_grad()
def test_at_the_start_the_loss_is_the_log_of_the_vocabulary_size(make_model: Make) -> None:
    for tied in (False, True):
        model = Transformer(replace(make_model().config, tied=tied))
        initialise(model, seed=3)
        log_probs = model(TOKENS[:, :-1]).log_softmax(-1).gather(-1, TOKENS[:, 1:, None])
        # An untied output starts at 0; a tied one is small but not 0.
        assert -log_probs.mean().item() == pytest.approx(math.log(61), abs=0.05 if tied else 1e-5)


@torch.no_grad()
def test_more_tokens_than_the_context_are_an_error_with_and_without_a_cache(make_model: Make) -> None:
    model = make_model(context=20)
    cache = empty_cache(model, 32, len(TOKENS))
    model(TOKENS, cache=cache)
    for tokens, each in ((TOKENS[:, :1], cache), (torch.zeros(1, 21, dtype=torch.long), None)):
        with pytest.raises(ValueError, match="wanted at most 20 tokens"):
            model(tokens, cache=each)


@torch.no_grad()
def test_a_window_hides_what_lies_before_it_and_nothing_else() -> None:
    model = random_model("mistral")  # two layers with a window of 7: 2 * 6 positions back at most
    logits = model(TOKENS)
    changed = TOKENS.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 61
    difference = (model(changed) - logits).abs().amax(dim=(0, 2))
    assert (difference[3:16] > 1e-3).all()
    close(difference[:3], torch.zeros(3))
    close(difference[16:], torch.zeros(4))


@torch.no_grad()
def test_a_masked_model_breaks_the_law_of_causality_and_reads_both_ways() -> None:
    model = random_model("bert")
    changed = TOKENS.clone()
    changed[:, 19] = (changed[:, 19] + 1) % 61
    assert ((model(changed) - model(TOKENS)).abs().amax(dim=(0, 2)) > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "mistral"])
def test_padding_changes_nothing(family: str) -> None:
    model, lengths = random_model(family), [20, 17, 9]
    logits = model(TOKENS, last=torch.tensor(lengths) - 1)
    for row, length in enumerate(lengths):
        close(logits[row, :length], model(TOKENS[row : row + 1, :length])[0])


def test_a_masked_model_goes_on_from_no_text() -> None:
    model = random_model("bert")
    with pytest.raises(ValueError, match="wanted a causal model, got one in which every token sees those after it"):
        model(TOKENS, cache=empty_cache(model, 32, len(TOKENS)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 0, "wanted width of at least 1, got 0"),
        ("layers", 2.5, "wanted layers of at least 1, got 2.5"),
        ("layer_kinds", (LayerKind(window=0),), "wanted window of at least 1, got 0"),
        ("key_value_heads", 3, "wanted heads that key_value_heads divides, got 4 and 3"),
        (
            "layer_kinds",
            (LayerKind(rope=Rope(width=3)),),
            "wanted an even width of at most 8 for rotary positions, got 3",
        ),
        (
            "layer_kinds",
            (LayerKind(rope=Rope(width=10)),),
            "wanted an even width of at most 8 for rotary positions, got 10",
        ),
        ("head_width", 7, "wanted an even width of at most 7 for rotary positions, got 7"),
    ],
)
def test_a_shape_that_cannot_be_is_one_line(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^model: {message}$"):
        replace(random_model("qwen3").config, **{field: value})
