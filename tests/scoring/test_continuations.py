"""Many pairs at once score as each alone, and nothing that they share is read twice."""

from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch
from conftest import SHAPES, random_model
from hypothesis import given, settings
from hypothesis import strategies as some

from chainrule.language_model import LanguageModel
from chainrule.model.transformer import Transformer
from chainrule.scoring import token_scores
from chainrule.scoring.continuations import Pair, pair_of, score_continuations
from chainrule.tokens.make import byte_tokenizer, train_bpe

Make = Callable[..., Transformer]
MODELS = {family: random_model(family) for family in SHAPES}
TOKEN = some.integers(0, 2)  # few tokens: much is shared by chance
CONTEXT = some.lists(TOKEN, min_size=1, max_size=25)
PAIR = some.builds(Pair, CONTEXT, some.lists(TOKEN, min_size=1, max_size=8))

DEMONSTRATIONS = [0, 5, 9, 3, 44, 7, 7, 21, 30, 2]
ROWS = [[11, 4], [11, 4, 8, 60, 1], [], [17], [11, 4], [11, 9, 9]]
OPTIONS = [[33], [33, 2, 5], [33, 2], [40], [40]]
PAIRS = [Pair(DEMONSTRATIONS + row, option) for row in ROWS for option in OPTIONS]


@torch.no_grad()
def alone(model: Transformer, pair: Pair) -> tuple[float, bool]:
    """The plain way: log softmax of all logits of the pair."""
    logits = model(torch.tensor([[*pair.context, *pair.continuation[:-1]]]))[0, len(pair.context) - 1 :]
    wanted = torch.tensor(pair.continuation)
    log_probs = logits.double().log_softmax(-1).gather(1, wanted[:, None])
    return log_probs.sum().item(), bool((logits.argmax(-1) == wanted).all())


def check(model: Transformer, pairs: list[Pair], limit: int | None = None) -> None:
    found = score_continuations(model, pairs, tokens_in_memory=limit)
    assert len(found) == len(pairs)
    for pair, scored in zip(pairs, found, strict=True):
        log_prob, greedy = alone(model, pair)
        assert scored.log_prob == pytest.approx(log_prob, abs=1e-4)
        assert (scored.tokens, scored.greedy) == (len(pair.continuation), greedy)


@settings(max_examples=60, deadline=None)
@given(some.sampled_from(list(SHAPES)), some.lists(PAIR, max_size=12), some.none() | some.integers(1, 60))
def test_pairs_together_score_as_each_alone(family: str, pairs: list[Pair], limit: int | None) -> None:
    check(MODELS[family], pairs, limit)


@pytest.mark.parametrize("limit", [1, 3, 16, None])
def test_options_of_rows_after_common_demonstrations_score_as_each_alone(make_model: Make, limit: int | None) -> None:
    check(make_model(), PAIRS, limit)
    check(make_model(), PAIRS[::-1], limit)


def test_different_demonstrations_and_none_score_as_each_alone(make_model: Make) -> None:
    pairs = [Pair([0, start, *row], [33, 2]) for start in (5, 6, 5) for row in ROWS]
    check(make_model(), [*pairs, Pair([0], [33]), Pair([0, 5], [6]), Pair([0], [5, 6])], 8)


@pytest.mark.parametrize("limit", [1, 7, 40, None])
def test_every_common_prefix_is_read_once(make_model: Make, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = make_model(), []
    features = model.features

    def counted(tokens: torch.Tensor, cache: object, **how: object) -> torch.Tensor:
        read.append(tokens.shape)
        return features(tokens, cache, **how)

    monkeypatch.setattr(model, "features", counted)
    score_continuations(model, PAIRS, tokens_in_memory=limit)
    texts = [tuple(pair.context) + tuple(pair.continuation[:-1]) for pair in PAIRS]
    assert sum(B * T for B, T in read) == len({text[:end] for text in texts for end in range(1, len(text) + 1)})
    if limit is not None:
        assert max(T for _, T in read) <= max(limit, max(map(len, texts)))


@pytest.mark.parametrize("limit", [4, None])
def test_a_context_has_one_row_of_logits_for_all_its_options(
    make_model: Make, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_scores, "LOGITS_AT_ONCE", 61 * 3)
    model = make_model()
    logits = Mock(wraps=model.logits)
    monkeypatch.setattr(model, "logits", logits)
    check_pairs = [Pair(DEMONSTRATIONS + row, [option]) for row in ROWS for option in range(61)]
    found = score_continuations(model, check_pairs, tokens_in_memory=limit)
    rows = [len(call.args[0]) for call in logits.call_args_list]
    distinct = len({tuple(row) for row in ROWS})
    assert sum(rows) == distinct
    assert max(rows) <= 3
    assert sum(scored.greedy for scored in found) == len(ROWS)  # one of all tokens is the most probable
    total = torch.tensor([scored.log_prob for scored in found]).view(len(ROWS), 61).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(len(ROWS)), atol=1e-5, rtol=0)


def test_no_pairs_have_no_scores(make_model: Make) -> None:
    assert score_continuations(make_model(), []) == []


@torch.no_grad()
def test_in_bfloat16_the_scores_are_near_those_of_float32(make_model: Make) -> None:
    model = make_model()
    exact = score_continuations(model, PAIRS)
    model.compute_dtype = torch.bfloat16
    for near, scored in zip(score_continuations(model, PAIRS), exact, strict=True):
        assert near.log_prob == pytest.approx(scored.log_prob, abs=0.3 * scored.tokens)


def test_a_pair_fills_the_context_and_no_more(make_model: Make) -> None:
    check(make_model(context=8), [Pair([0] * 8, [1]), Pair([0] * 5, [1, 2, 3, 4])])
    for pair in (Pair([0] * 9, [1]), Pair([0] * 5, [1, 2, 3, 4, 5])):
        with pytest.raises(ValueError, match=r"prompt: wanted at most 8 tokens .* got 9; shorten it"):
            score_continuations(make_model(context=8), [Pair([0], [1]), pair])


@pytest.mark.parametrize("pair", [Pair([], [1]), Pair([0], [])])
def test_an_empty_part_is_one_line(make_model: Make, pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"pair: wanted at least one token of context \(BOS\) and one of continuation"):
        score_continuations(make_model(), [pair])


def test_a_memory_of_nothing_is_one_line(make_model: Make) -> None:
    with pytest.raises(ValueError, match="tokens-in-memory: wanted at least 1, got 0"):
        score_continuations(make_model(), PAIRS, tokens_in_memory=0)


@pytest.mark.parametrize(
    "tokenizer", [byte_tokenizer(), train_bpe(["the cat sat on the mat, the end"] * 20, 300)], ids=["bytes", "bpe"]
)
def test_a_pair_of_texts_scores_as_log_prob_given(tokenizer) -> None:
    lm = LanguageModel(random_model("qwen3", vocabulary_size=tokenizer.vocabulary_size), tokenizer, "qwen3")
    for before, text in [
        ("the cat", " sat"),
        ("the cat ", "sat on"),
        ("", "the"),
        ("the c", "at"),
        ("the cat sat", ""),
    ]:
        if not text:
            with pytest.raises(ValueError, match="continuation: wanted text of at least one token, got ''"):
                pair_of(tokenizer, before, text)
            continue
        pair = pair_of(tokenizer, before, text)
        assert list(pair.context) + list(pair.continuation) == [tokenizer.bos_id, *tokenizer.encode(before + text)]
        (scored,) = score_continuations(lm.model, [pair])
        assert scored.log_prob == pytest.approx(lm.log_prob(text, given=before), abs=1e-4)


def test_a_space_at_the_end_of_the_prompt_belongs_to_the_answer() -> None:
    tokenizer = train_bpe(["the cat sat on the mat, the end"] * 20, 300)
    assert pair_of(tokenizer, "on ", "the mat") == pair_of(tokenizer, "on", " the mat")
