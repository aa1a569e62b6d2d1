"""Sequences longer than a LongRope's original context: transformers' logits, however they are computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_model
from torch import Tensor

from chainrule.generation.engine import Engine
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel
from chainrule.model.config import LayerKind
from chainrule.model.formats.checkpoint import load_model
from chainrule.model.native import products
from chainrule.model.prefix_cache import PrefixCache
from chainrule.model.prefixes import read_all
from chainrule.model.rotary import LongRope, Rope
from chainrule.model.transformer import Transformer
from chainrule.scoring.documents import score_documents
from chainrule.tokens.make import byte_tokenizer
from chainrule.training.spans import Span, SpanBatch

ORIGINAL, CONTEXT = 24, 96
SLOWED = LongRope((1.0, 1.3, 2.5), (2.0, 6.0, 9.0), 1.2, ORIGINAL, CONTEXT)
CPU = torch.device("cpu")


def long_model(window: int | None = None) -> Transformer:
    kinds = (LayerKind(window, Rope(scaling=SLOWED, width=6)),)
    return random_model("phi3", 257, CONTEXT, layer_kinds=kinds)


def texts(*lengths: int) -> list[list[int]]:
    """With a beginning in common."""
    generator = np.random.default_rng(3)
    begin = generator.integers(0, 256, max(lengths)).tolist()
    return [[*begin[: length - 3], *generator.integers(0, 256, 3).tolist()] for length in lengths]


def alone(model: Transformer, text: list[int]) -> Tensor:
    with torch.no_grad():
        return model.features(torch.tensor([text]))[0]


@pytest.fixture(params=["compiled", "torch"])
def computed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(products, "library", lambda: None)
    return str(request.param)


@pytest.mark.parametrize("window", [None, 7])
def test_logits_are_transformers_on_both_sides_of_the_original_context(window: int | None, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = long_model(window)
    LanguageModel(model, byte_tokenizer(), "phi3").save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    again, _ = load_model(tmp_path, CPU)
    assert again.config == model.config
    for text in texts(ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, CONTEXT):
        with torch.no_grad():
            wanted = theirs(torch.tensor([text])).logits[0]
            found = again.logits(alone(again, text))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_scores_are_those_of_transformers_logits_on_both_sides_of_the_original_context(tmp_path: Path) -> None:
    """The last token is only predicted, but counts: with it a text may be longer than the original context."""
    transformers = pytest.importorskip("transformers")
    model = long_model()
    LanguageModel(model, byte_tokenizer(), "phi3").save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    some = texts(ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, ORIGINAL + 2)
    for text, scores in zip(some, score_documents(model, some), strict=True):
        with torch.no_grad():
            logits = theirs(torch.tensor([text])).logits[0, :-1]
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(text[1:])[:, None])[:, 0]
        torch.testing.assert_close(scores.log_probs, wanted, atol=1e-4, rtol=1e-4)


def test_the_factors_make_a_difference_from_the_first_token_on() -> None:
    model, (text,) = long_model(), texts(ORIGINAL + 1)
    assert (alone(model, text)[1:-1] - alone(model, text[:-1])[1:]).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("prompt", [4, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, ORIGINAL + 9])
def test_greedy_text_that_passes_the_original_context_is_transformers(
    prompt: int, computed_by: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model, (text,) = long_model(), texts(prompt)
    LanguageModel(model, byte_tokenizer(), "phi3").save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    made = theirs.generate(torch.tensor([text]), max_new_tokens=40, do_sample=False, pad_token_id=0, eos_token_id=None)[
        0, prompt:
    ]
    assert greedy(model, [text], 40) == [made.tolist()]


def greedy(model: Transformer, prompts: list[list[int]], count: int, **options: Any) -> list[list[int]]:
    engine = Engine(model, **options)
    made: list[list[int]] = [[] for _ in prompts]
    for prompt in prompts:
        engine.add(prompt, Sampling(0.0), max_tokens=count)
    while engine:
        for new in engine.step():
            made[new.id].append(new.token)
    return made


@pytest.mark.parametrize("options", [{}, {"prefill_chunk": 5}, {"batch_size": 2}, {"cache_tokens": 100}])
def test_a_sequence_is_the_same_alone_and_in_a_batch(options: dict[str, Any], computed_by: str) -> None:
    model, prompts = long_model(), texts(5, 20, ORIGINAL, ORIGINAL + 1, 60)
    wanted = [greedy(model, [prompt], 30)[0] for prompt in prompts]
    assert greedy(model, prompts, 30, **options) == wanted


def test_known_prefixes_are_of_sequences_of_one_kind() -> None:
    model = long_model()
    config = model.config
    known = PrefixCache(4096, config.layers, config.key_value_heads, config.head_width, torch.float32, CPU)
    (long,) = texts(80)
    for prompt in (long, long[:70], long[:20]):
        for _ in range(2):
            assert greedy(model, [prompt], 25, known=known) == greedy(model, [prompt], 25)
    assert known.found > 0


def test_common_prefixes_are_computed_once_for_each_kind() -> None:
    model, sequences = long_model(), texts(10, 20, 22, ORIGINAL, ORIGINAL + 2, 40, 90)
    with torch.inference_mode():
        for at_once in (16, 512):
            for part in read_all(model, sequences, at_once):
                for index, columns in zip(part.sequences, part.columns, strict=True):
                    found = part.features[torch.from_numpy(columns)]
                    torch.testing.assert_close(found, alone(model, sequences[index]), atol=2e-5, rtol=2e-5)


def test_padded_batches_have_each_sequences_own_factors() -> None:
    model, (short, long) = long_model(), texts(20, 50)
    lm = LanguageModel(model, byte_tokenizer(), "phi3")
    strings = [bytes(each % 128 for each in text).decode() for text in (short, long)]
    together = [score for score, _ in lm.log_probs(strings)]
    assert together == pytest.approx([lm.log_prob(text) for text in strings], abs=1e-3)


def test_packed_rows_have_each_sequences_own_factors() -> None:
    model, sequences = long_model(), texts(15, ORIGINAL, 30, 50)
    spans = [Span(text, [len(text) - 1], [7]) for text in sequences]
    batch = SpanBatch(spans, True, CPU, model.config.original_context)
    with torch.no_grad():
        found = batch.features(model)[batch.states]
        wanted = torch.stack([alone(model, text)[-1] for text in sequences])
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)
