"""Packed sequences: each is what it is alone, in its value and in its gradient."""

import numpy as np
import pytest
import torch
from conftest import MASKED, SHAPES, random_model

from chainrule.model.forest import Forest
from chainrule.model.transformer import Transformer
from chainrule.scoring.blanks import score_blanks
from chainrule.scoring.continuations import Pair, score_continuations
from chainrule.training.answers import Answers
from chainrule.training.epochs import Epochs
from chainrule.training.spans import LONGEST_ROW, Span, SpanBatch, in_rows
from chainrule.training.words import LabelWords, WordTexts

CPU = torch.device("cpu")
PAIRS = [
    Pair([0, 5, 6, 7], [9, 4]), Pair([0, 5, 6, 7], [9]), Pair([0, 5, 6, 7], [11, 3, 2]), Pair([0, 8], [9, 4, 1, 1]),
    Pair([0, 5, 6, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 3]), Pair([0], [4, 5, 6]),
]  # fmt: skip


def span_of(pair: Pair) -> Span:
    context, continuation = pair
    first = len(context) - 1
    return Span([*context, *continuation[:-1]], range(first, first + len(continuation)), continuation)


@pytest.mark.parametrize("family", SHAPES)
def test_packed_spans_have_the_log_probs_that_scoring_gives(family: str) -> None:
    model = random_model(family)
    batch = SpanBatch([span_of(pair) for pair in PAIRS], True, CPU)
    assert batch.forest is not None and batch.forest.tokens.shape[1] < sum(len(pair.context) for pair in PAIRS) + 8
    for _ in range(2):  # a batch may be used again
        with torch.no_grad():
            found = torch.zeros(len(PAIRS)).index_add(0, batch.spans, batch.log_probs(model))
    expected = [scored.log_prob for scored in score_continuations(model, PAIRS)]
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("family", MASKED)
def test_blanks_have_the_log_probs_that_scoring_gives(family: str) -> None:
    model = random_model(family)
    blanks = [
        Span([0, 5, 3, 6, 2], [2], [9]),
        Span([0, 5, 3, 3, 6, 2], [2, 3], [9, 4]),
        Span([0, 3, 2], [1], [7]),
        Span([0, 5, 3, 6, 2], [2], [8]),
    ]
    batch = SpanBatch(blanks, False, CPU)
    with torch.no_grad():
        found = torch.zeros(4).index_add(0, batch.spans, batch.log_probs(model))
    expected = [scored.log_prob for scored in score_blanks(model, blanks)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=2e-4, rtol=2e-4)


def gradients(model: Transformer) -> list[torch.Tensor]:
    found = [torch.zeros(1) if each.grad is None else each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    return found


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma3_text", "mistral"])
def test_a_packed_loss_and_its_gradient_are_those_of_the_texts_one_by_one(family: str) -> None:
    model, texts = random_model(family), [span_of(pair) for pair in PAIRS]
    packed = Answers(texts, Epochs(len(texts), 2**10, CPU, 3))
    alone = Answers(texts, Epochs(len(texts), 1, CPU, 3))
    assert len(packed.batches(0)) == 1 and len(alone.batches(0)) == len(texts)
    totals = []
    for objective in (packed, alone):
        parts = [objective.loss(model, batch) for batch in objective.batches(0)]
        torch.stack([part for part, _ in parts]).sum().backward()
        totals.append((sum(part.item() for part, _ in parts), sum(float(size) for _, size in parts), gradients(model)))
    assert totals[0][1] == totals[1][1] == sum(len(pair.continuation) for pair in PAIRS)
    assert totals[0][0] == pytest.approx(totals[1][0], rel=1e-5)
    for one, other in zip(totals[0][2], totals[1][2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max() + 1), rtol=1e-3)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_label_words_are_learned_by_the_cross_entropy_among_them(count: int) -> None:
    model = random_model("qwen3")
    words = [[9, 4], [9, 5], [3], [4, 4, 4], [5], [6], [7, 1]][:count]
    contexts = [[0, 5, 6], [0, 5, 6, 1], [0, 2], [0, 5, 6, 1, 1, 1]]
    classes = np.arange(4) % count
    texts = WordTexts([[span_of(Pair(context, word)) for word in words] for context in contexts], classes)
    weights = np.arange(1, count + 1).astype(np.float32)
    scores = score_continuations(model, [Pair(context, word) for context in contexts for word in words])
    expected = torch.nn.functional.cross_entropy(
        torch.tensor([score.log_prob for score in scores], dtype=torch.float64).view(4, count),
        torch.from_numpy(classes),
        weight=torch.from_numpy(weights).double(), reduction="sum",
    )  # fmt: skip
    for at_once in (1, 2**10):
        objective = LabelWords(texts, weights, Epochs(4, at_once, CPU, 0), True)
        with torch.no_grad():
            parts = [objective.loss(model, batch) for batch in objective.batches(0)]
        assert float(sum(part for part, _ in parts)) == pytest.approx(float(expected), rel=1e-4)
        assert float(sum(size for _, size in parts)) == weights[classes].sum()


def test_processes_share_a_step_without_remainder() -> None:
    texts = [span_of(pair) for pair in PAIRS]
    objective = Answers(texts, Epochs(4, 2**10, CPU, 0))
    whole = sorted(int(token) for batch in objective.batches(5) for token in batch.targets)
    shared = [int(token) for rank in range(3) for batch in objective.batches(5, rank, 3) for token in batch.targets]
    assert sorted(shared) == whole


def test_a_row_has_a_common_beginning_once_and_no_more_tokens_than_it_may() -> None:
    forest = Forest([[0, 1, 2], [0, 1, 3, 4], [0, 1, 2], [5]], CPU)
    assert forest.tokens.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert [columns.tolist() for columns in forest.columns] == [[0, 1, 2], [0, 1, 3, 4], [0, 1, 2], [5]]
    mask = forest.mask(6)
    assert mask is not None and mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1],
    ]  # fmt: skip
    assert list(in_rows([400, 400, 400, 2000, 3], LONGEST_ROW)) == [[0, 1], [2], [3], [4]]
