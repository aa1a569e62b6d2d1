"""The chain rule over whole documents: every token once, whatever the window, the batch or the split."""

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM

from chainrule import machine
from chainrule.model.formats.checkpoint import save_model
from chainrule.model.transformer import Transformer
from chainrule.scoring import documents, token_scores
from chainrule.scoring.documents import Evaluation, given_tokens, score_documents, windows
from chainrule.tokens.make import byte_tokenizer, train_bpe
from chainrule.tokens.tokenizer import load_tokenizer

Make = Callable[..., Transformer]
BYTES = byte_tokenizer()
BPE = train_bpe(["the cat sat on the mat, the end; né né 😀😀 日本語 日本"] * 20, 310)
TEXT = some.text(some.sampled_from("athe cn.;né😀日本 "), max_size=15)


def random_document(T: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 61, (T + 1,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def directly(model: Transformer, document: list[int], top: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain way: log softmax of all logits of a document that fits into the context."""
    log_probs = model(torch.tensor([document[:-1]]))[0].log_softmax(-1)
    return log_probs.gather(-1, torch.tensor(document[1:])[:, None])[:, 0], log_probs.topk(top).values


def test_the_probabilities_of_all_documents_of_a_length_sum_to_one(make_model: Make) -> None:
    model = make_model(vocabulary_size=4, context=3)
    for T in (1, 2, 3, 5):  # the last one is longer than the context: two windows
        every = [[0, *tokens] for tokens in itertools.product(range(4), repeat=T)]
        total = sum(math.exp(scores.log_probs.double().sum()) for scores in score_documents(model, every))
        assert total == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_log_probs_are_those_of_transformers_logits(make_model: Make, family: str, tmp_path: Path) -> None:
    model, document = make_model(), random_document(30)
    save_model(model, family, tmp_path, bos_id=0)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs = (
        peer(torch.tensor([document[:-1]])).logits[0].log_softmax(-1).gather(-1, torch.tensor(document[1:])[:, None])
    )
    (ours,) = score_documents(model, [document])
    torch.testing.assert_close(ours.log_probs, theirs[:, 0], atol=1e-4, rtol=0)
    assert ours.log_probs.double().sum().item() == pytest.approx(theirs.double().sum().item(), abs=1e-3)


def test_a_document_alone_or_among_others_has_the_same_scores(
    make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(machine.TOKENS_AT_ONCE["scoring"], "cpu", 64)
    monkeypatch.setattr(documents, "_TOKENS_IN_MEMORY", 200)
    monkeypatch.setattr(token_scores, "LOGITS_AT_ONCE", 61 * 7)
    model = make_model()
    every = [random_document(T, seed=T) for T in (5, 0, 32, 1, 90, 31, 17, 0, 33, 64, 2)]
    together = list(score_documents(model, iter(every), top=3))
    assert [len(scores.log_probs) for scores in together] == [len(document) - 1 for document in every]
    for document, scores in zip(every, together, strict=True):
        (alone,) = score_documents(model, [document], top=3)
        torch.testing.assert_close(scores.log_probs, alone.log_probs, atol=1e-5, rtol=0)
        torch.testing.assert_close(scores.best_log_probs, alone.best_log_probs, atol=1e-5, rtol=0)
        if 1 < len(document) <= 33:
            log_probs, best = directly(model, document, top=3)
            torch.testing.assert_close(scores.log_probs, log_probs, atol=1e-5, rtol=0)
            torch.testing.assert_close(scores.best_log_probs, best, atol=1e-5, rtol=0)


@given(some.integers(0, 200), some.integers(1, 40), some.data())
def test_windows_score_every_token_once_and_fit_into_the_context(T: int, context: int, data: some.DataObject) -> None:
    stride = data.draw(some.none() | some.integers(1, context))
    found = list(windows(T, context, stride))
    scored = [t for window in found for t in range(window.first, window.end + 1)]
    assert scored == list(range(1, T + 1))
    assert all(window.start < window.first and window.length <= context for window in found)
    assert [window.start for window in found[:2]] == [0, stride or max(1, context // 2)][: len(found)]


def test_a_long_document_is_scored_by_windows_that_overlap_by_half_the_context(make_model: Make) -> None:
    model, document = make_model(context=8), random_document(20)
    (scores,) = score_documents(model, [document])
    first, _ = directly(model, document[:9])
    second, _ = directly(model, document[4:13])
    last, _ = directly(model, document[12:21])
    torch.testing.assert_close(scores.log_probs[:8], first, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.log_probs[8:12], second[4:], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.log_probs[16:], last[4:], atol=1e-5, rtol=0)


def test_a_stride_of_one_gives_every_token_all_the_context_there_is(make_model: Make) -> None:
    model, document = make_model(context=8), random_document(14)
    (scores,) = score_documents(model, [document], stride=1)
    for t in range(1, 15):
        log_probs, _ = directly(model, document[max(0, t - 8) : t + 1])
        assert scores.log_probs[t - 1].item() == pytest.approx(log_probs[-1].item(), abs=1e-5)


@pytest.mark.parametrize("stride", [0, -3, 33])
def test_a_stride_out_of_range_is_one_line(make_model: Make, stride: int) -> None:
    with pytest.raises(ValueError, match=rf"stride: wanted from 1 to 32 tokens \(the context\), got {stride}"):
        list(score_documents(make_model(), [random_document(5)], stride))


def test_perplexity_and_bits_per_byte_of_a_fair_coin() -> None:
    evaluation = Evaluation(tokens=80, bytes=10, loss=math.log(2))
    assert evaluation.perplexity == pytest.approx(2)
    assert evaluation.bits_per_byte == pytest.approx(8)


@given(TEXT, TEXT)
def test_tokens_wholly_inside_the_given_text_are_given_and_one_that_crosses_is_not(prompt: str, text: str) -> None:
    for tokenizer in (BYTES, BPE):
        tokens = tokenizer.encode(prompt + text)
        # Counted in bytes: what each token stands for is known only from all those up to it.
        ends = list(itertools.accumulate(len(content(tokenizer, token)) for token in tokens))
        assert ends[-1:] == [len((prompt + text).encode())][: len(tokens)]
        assert given_tokens(tokenizer, prompt, tokens) == sum(end <= len(prompt.encode()) for end in ends)


def content(tokenizer, token: int) -> bytes:
    """The bytes of a token of a byte-level tokenizer."""
    (piece,) = tokenizer.token_texts([token])
    return re.sub(rb"\\x(..)", lambda found: bytes.fromhex(found[1].decode()), piece.encode())


def test_a_merge_across_the_border_belongs_to_the_answer() -> None:
    tokens = BPE.encode("sat on the")
    assert BPE.token_texts(tokens)[-1] == " the"
    assert given_tokens(BPE, "sat on ", tokens) == len(tokens) - 1
    assert given_tokens(BPE, "sat on", tokens) == len(tokens) - 1
    assert given_tokens(BPE, "sat on the", tokens) == len(tokens)
    assert given_tokens(BPE, "", tokens) == 0


def test_a_tokenizer_that_changes_the_text_still_finds_the_border(tmp_path: Path) -> None:
    words = {"⊥": 0, "the": 1, "cat": 2, "sat": 3}
    inner = Inner(models.WordLevel(words, unk_token="⊥"))
    inner.normalizer, inner.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    inner.add_special_tokens(["⊥"])
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert given_tokens(tokenizer, "The  Cat", tokenizer.encode("The  Cat SAT")) == 2


def test_a_first_token_that_spells_nothing_is_not_given(tmp_path: Path) -> None:
    inner = Inner(models.BPE({name: id for id, name in enumerate("⊥▁cat")}, []))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    inner.add_special_tokens(["⊥"])
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    tokens = tokenizer.encode("cat cat")
    assert tokenizer.decode(tokens[:1]) == ""
    assert given_tokens(tokenizer, "", tokens) == 0
    assert given_tokens(tokenizer, "cat", tokens) == 4  # ▁, c, a, t
