"""What is saved here works in transformers 4 and 5 with its usual lines; nothing imported is only in one of them.

docs/huggingface.md says how to run it under version 4."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline

from chainrule.finetuning.classifier import Classifier, Form
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.scoring.features import Features
from chainrule.tokens.make import train_bpe

TEXTS = ["the cat sat on the mat", "a good film"]
FAMILIES = ["qwen3", "gpt2", "bert"]


def pretrained(family: str) -> LanguageModel | MaskedLanguageModel:
    tokenizer = train_bpe(TEXTS * 9, 270, mask=family == "bert")
    model = random_model(family, vocabulary_size=tokenizer.vocabulary_size, context=32)
    return (MaskedLanguageModel if family == "bert" else LanguageModel)(model, tokenizer, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_tokenizer_gives_is_what_the_model_takes(family: str, tmp_path: Path) -> None:
    lm = pretrained(family)
    lm.save(tmp_path)
    inputs = AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0], return_tensors="pt")
    segments = ["token_type_ids"] if family == "bert" else []
    assert sorted(inputs) == sorted(["input_ids", "attention_mask", *segments])
    assert inputs["input_ids"][0].tolist() == [lm.tokenizer.bos_id, *lm.tokenizer.encode(TEXTS[0])]
    if isinstance(lm, LanguageModel):
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
        made = model.generate(**inputs, do_sample=False, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
        (ours,) = lm.completions([TEXTS[0]], Sampling(0), max_tokens=5)
        assert [token for token in made.tolist() if token != lm.tokenizer.bos_id] == ours.tokens
        assert pipeline("text-generation", str(tmp_path))("a", do_sample=False, max_new_tokens=2)
    else:
        logits = AutoModelForMaskedLM.from_pretrained(tmp_path)(**inputs).logits
        assert logits.shape == (1, inputs["input_ids"].shape[1], lm.model.config.vocabulary_size)
        (blank,) = lm.fill("the [MASK] sat", top=1)
        (best,) = pipeline("fill-mask", str(tmp_path), top_k=1)("the [MASK] sat")
        assert best["score"] == pytest.approx(blank[0][1], abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifiers_pipeline_gives_our_probabilities(family: str, tmp_path: Path) -> None:
    lm = pretrained(family)
    w = torch.randn(3, lm.model.config.width, generator=torch.Generator().manual_seed(0)) / 4
    classifier = Classifier(Features(lm.model, lm.tokenizer), w, ("a", "b", "c"), Form(("text",)), family)
    classifier.save(tmp_path)
    assert sorted(AutoTokenizer.from_pretrained(tmp_path)("a")) == ["attention_mask", "input_ids"]
    answers: Any = pipeline("text-classification", str(tmp_path), top_k=None)(TEXTS, batch_size=2)
    scores = [{answer["label"]: answer["score"] for answer in row} for row in answers]
    assert [[row[label] for label in "abc"] for row in scores] == [
        pytest.approx(row, abs=1e-5) for row in classifier.predict_proba(TEXTS)
    ]
