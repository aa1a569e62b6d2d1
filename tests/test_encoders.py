"""Every encoder fills blanks, learns from them, and classifies, as transformers does with what we saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MASKED, random_model

import chainrule
from chainrule.cli import main
from chainrule.finetuning.classifier import Classifier, Form, load_classifier
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.model.formats.families import FAMILIES
from chainrule.scoring.features import Features
from chainrule.tokens.make import byte_tokenizer

TEXTS = ["the cat sat", "the dog sat on a great big mat", "no", "A fine Day, really great!"]
LABELS = ("bad", "good", "neither")


@pytest.fixture(params=[*(family for family in MASKED if family != "bert"), "modernbert mean"])
def lm(request: pytest.FixtureRequest) -> MaskedLanguageModel:
    """Of a tokenizer without a padding token: the padding's id in config.json is that of a byte, which no text has."""
    tokenizer = byte_tokenizer(mask=True)
    family, *mean = request.param.split()
    model = random_model(family, vocabulary_size=tokenizer.vocabulary_size, context=64)
    if mean:  # what a linear head reads of the hidden states
        model.config = replace(model.config, summary="mean")
    return MaskedLanguageModel(model, tokenizer, family)


def test_blanks_are_filled_as_transformers_fills_them(lm: MaskedLanguageModel, tmp_path: Path) -> None:
    import transformers

    lm.save(tmp_path / "model")
    again = chainrule.load(tmp_path / "model", dtype="float32")
    pipeline = transformers.pipeline("fill-mask", str(tmp_path / "model"))
    for text in ("the [MASK] sat", "[MASK] dog sat on a mat"):
        (ours,), theirs = again.fill(text, top=4), pipeline(text, top_k=4)
        np.testing.assert_allclose([p for _, p in ours], [found["score"] for found in theirs], atol=1e-5)
    assert again.pseudo_log_prob("a fine day") == pytest.approx(lm.pseudo_log_prob("a fine day"), abs=1e-4)


def test_a_classifier_of_ours_has_the_same_probabilities_in_transformers(
    lm: MaskedLanguageModel, tmp_path: Path
) -> None:
    import transformers

    w = torch.randn(len(LABELS), lm.model.config.width, generator=torch.Generator().manual_seed(1)) / 4
    classifier = Classifier(Features(lm.model, lm.tokenizer), w, LABELS, Form(("text",)), lm.family)
    with torch.no_grad():  # a pooler that was trained
        generator = torch.Generator().manual_seed(2)
        for parameter in classifier.features.model.pooler.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    classifier.save(tmp_path / "classifier")
    expected = classifier.predict_proba(TEXTS)
    np.testing.assert_array_equal(load_classifier(tmp_path / "classifier").predict_proba(TEXTS), expected)
    pipeline: Any = transformers.pipeline("text-classification", str(tmp_path / "classifier"), top_k=None)
    assert type(pipeline.model).__name__ == FAMILIES[lm.family].classifier
    for batch_size in (1, 4):
        found = [{answer["label"]: answer["score"] for answer in row} for row in pipeline(TEXTS, batch_size=batch_size)]
        np.testing.assert_allclose([[row[name] for name in LABELS] for row in found], expected, atol=1e-5)


@torch.no_grad()
def test_one_saved_without_its_head_has_the_hidden_states_of_transformers(
    lm: MaskedLanguageModel, tmp_path: Path
) -> None:
    import transformers

    lm.save(tmp_path / "model")
    peer = transformers.AutoModel.from_pretrained(tmp_path / "model").eval()
    peer.save_pretrained(tmp_path / "bare")
    lm.tokenizer.save(tmp_path / "bare")
    bare = chainrule.load(tmp_path / "bare", dtype="float32")
    assert not bare.model.config.language_head
    for text in TEXTS:
        tokens = torch.tensor([[lm.tokenizer.bos_id, *lm.tokenizer.encode(text), *lm.tokenizer.closing]])
        np.testing.assert_allclose(bare.features(text), peer(tokens).last_hidden_state[0], atol=1e-4)


def test_the_masked_objective_goes_on_from_it(lm: MaskedLanguageModel, tmp_path: Path) -> None:
    lm.save(tmp_path / "model")
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog sat on the cat. " * 60)
    words = f"pretrain {tmp_path}/text.txt --from {tmp_path}/model --out {tmp_path}/run --objective masked --steps 20"
    main([*words.split(), "--batch-tokens", "256", "--compile", "off"])
    after = chainrule.load(tmp_path / "run", dtype="float32")
    assert after.family == lm.family
    assert after.model.config == lm.model.config
    text = "the cat sat on the mat"
    assert after.pseudo_log_prob(text) > chainrule.load(tmp_path / "model").pseudo_log_prob(text)
