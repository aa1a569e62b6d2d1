"""A classifier's directory: ours and transformers' at once, and never taken for a language model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from conftest import random_model
from tokenizers import decoders, models, pre_tokenizers

import chainrule
from chainrule.finetuning.classifier import Classifier, Form, load_classifier
from chainrule.language_model import LanguageModel
from chainrule.model.formats.families import FAMILIES
from chainrule.scoring.features import Features
from chainrule.tokens.make import byte_tokenizer, character_tokenizer, train_bpe
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer

TEXTS = ["a fine day", "no", "the owl sees a mouse", "x y z", "day"]
LABELS = ("bad", "good", "neither")


def their_tokenizer(directory: Path) -> Tokenizer:
    """As GPT-2's files are: nothing in front of a text, no padding, and a class that transformers builds anew."""
    directory.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE(vocab={piece: id for id, piece in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>"])
    inner.save(str(directory / "tokenizer.json"))
    (directory / "vocab.json").write_text(json.dumps(inner.get_vocab()))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "model_max_length": 1024}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(directory)


TOKENIZERS: dict[str, Callable[[Path], Tokenizer]] = {
    "byte": lambda _: byte_tokenizer(),
    "char": lambda _: character_tokenizer(TEXTS),
    "bpe": lambda _: train_bpe(TEXTS * 9, 270),
    "theirs": lambda path: their_tokenizer(path / "theirs"),
}


def make_classifier(model: Any, tokenizer: Tokenizer, family: str, form: Form = Form(("text",))) -> Classifier:
    w = torch.randn(len(LABELS), model.config.width, generator=torch.Generator().manual_seed(1)) / 4
    return Classifier(Features(model, tokenizer), w, LABELS, form, family)


@pytest.mark.parametrize("tokenizer_kind", TOKENIZERS)
def test_transformers_pipeline_gives_the_same_probabilities(
    make_model: Callable[..., Any], family: str, tokenizer_kind: str, tmp_path: Path
) -> None:
    import transformers

    if (family, tokenizer_kind) == ("qwen2", "char"):
        pytest.skip("AutoTokenizer makes Qwen2's own tokenizer of it, whatever tokenizer_class says; we train none")
    if not hasattr(transformers, FAMILIES[family].classifier):
        pytest.skip("transformers has no class that reads it")
    tokenizer = TOKENIZERS[tokenizer_kind](tmp_path)
    classifier = make_classifier(make_model(vocabulary_size=300), tokenizer, family)
    classifier.save(tmp_path / "classifier")
    pipeline: Any = transformers.pipeline("text-classification", str(tmp_path / "classifier"), top_k=None)
    expected = classifier.predict_proba(TEXTS)
    assert pipeline.model.config.problem_type == "single_label_classification"
    for batch_size in (1, 4):
        found = [{answer["label"]: answer["score"] for answer in row} for row in pipeline(TEXTS, batch_size=batch_size)]
        np.testing.assert_allclose([[row[label] for label in LABELS] for row in found], expected, atol=1e-5)


@pytest.mark.parametrize("tokenizer_kind", ["byte", "theirs"])
@pytest.mark.parametrize("family_of_long_texts", ["gpt2", "mistral", "bert"])
def test_a_pipeline_that_truncates_cuts_a_long_text_as_predict_does(
    family_of_long_texts: str, tokenizer_kind: str, tmp_path: Path
) -> None:
    import transformers

    model = random_model(family_of_long_texts, vocabulary_size=300)
    if tokenizer_kind == "byte":
        tokenizer = byte_tokenizer(mask=family_of_long_texts == "bert")
    else:
        tokenizer = their_tokenizer(tmp_path / "theirs")
    classifier = make_classifier(model, tokenizer, family_of_long_texts)
    classifier.save(tmp_path / "classifier")
    settings = json.loads((tmp_path / "classifier/tokenizer_config.json").read_text())
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    context = model.config.context
    texts = ["x" * length + " the end" for length in (1, context - 11, context - 10, context - 9, context - 8, 90)]
    expected = classifier.predict_proba(texts)
    assert 0 < classifier.cut < len(texts)
    pipeline: Any = transformers.pipeline("text-classification", str(tmp_path / "classifier"), top_k=None)
    found = [{answer["label"]: answer["score"] for answer in row} for row in pipeline(texts, truncation=True)]
    np.testing.assert_allclose([[row[label] for label in LABELS] for row in found], expected, atol=1e-5)
    np.testing.assert_array_equal(load_classifier(tmp_path / "classifier", device="cpu").predict_proba(texts), expected)


def test_save_then_load_predicts_the_same(make_model: Callable[..., Any], family: str, tmp_path: Path) -> None:
    form = Form(("premise", "hypothesis"), "{premise} so {hypothesis}")
    classifier = make_classifier(make_model(vocabulary_size=257), byte_tokenizer(), family, form)
    classifier.save(tmp_path / "classifier")
    again = load_classifier(tmp_path / "classifier", device="cpu")
    rows = [{"premise": text, "hypothesis": "it is", "other": "?"} for text in TEXTS]
    assert again.labels == LABELS
    assert again.form == form
    np.testing.assert_array_equal(again.predict_proba(rows), classifier.predict_proba(rows))
    assert again.predict(rows) == classifier.predict(rows)
    again.save(tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chainrule.toml"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "classifier" / name).read_bytes()


def test_probabilities_are_a_softmax_and_the_label_the_most_probable(make_model: Callable[..., Any]) -> None:
    classifier = make_classifier(make_model(vocabulary_size=257), byte_tokenizer(), "qwen3")
    probabilities = classifier.predict_proba(iter(TEXTS))
    logits = classifier.features(TEXTS) @ classifier.w.numpy().T
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(1, keepdims=True), atol=1e-6)
    assert classifier.predict(TEXTS) == [LABELS[row.argmax()] for row in probabilities]
    assert classifier.predict_proba([]).shape == (0, 3)


def test_a_stream_is_endless_and_the_order_of_rows_changes_nothing(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chainrule.finetuning.classifier._ROWS_AT_ONCE", 3)
    classifier = make_classifier(make_model(vocabulary_size=257), byte_tokenizer(), "qwen3")
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield TEXTS[taken % len(TEXTS)]

    stream = classifier.stream(endless())
    for _ in range(4):
        next(stream)
    assert taken == 6  # no row is asked for before its chunk is
    np.testing.assert_allclose(classifier.predict_proba(TEXTS), classifier.predict_proba(TEXTS[::-1])[::-1], atol=1e-6)


def test_one_row_alone_and_a_row_without_its_columns_are_refused(make_model: Callable[..., Any]) -> None:
    classifier = make_classifier(make_model(vocabulary_size=257), byte_tokenizer(), "qwen3")
    for row in ("a text", {"text": "a text"}):
        with pytest.raises(ValueError, match="wanted several rows, got one alone"):
            classifier.predict(row)
    with pytest.raises(ValueError, match="review"):
        classifier.predict([{"review": "a text"}])
    with pytest.raises(ValueError, match="wanted a text"):
        classifier.predict(["  "])


def test_a_classifier_is_no_language_model_and_the_other_way_round(
    make_model: Callable[..., Any], family: str, tmp_path: Path
) -> None:
    model = make_model(vocabulary_size=257)
    make_classifier(model, byte_tokenizer(), family).save(tmp_path / "classifier")
    LanguageModel(model, byte_tokenizer(), family).save(tmp_path / "lm")
    with pytest.raises(ValueError, match=r"wanted a language model, got a classifier \(\w+ForSequenceClassification\)"):
        chainrule.load(tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"wanted a classifier, got a language model \(\w+\)"):
        load_classifier(tmp_path / "lm")
    with pytest.raises(ValueError, match=r"found no config.json, but there is one in .*(classifier|lm); name that"):
        load_classifier(tmp_path)


def test_what_is_missing_or_altered_in_a_directory_is_named(
    make_model: Callable[..., Any], family: str, tmp_path: Path
) -> None:
    directory = tmp_path / "classifier"
    make_classifier(make_model(vocabulary_size=257), byte_tokenizer(), family).save(directory)

    fields = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**fields, "id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(ValueError, match=r"wanted score\.weight of shape \[2, 32\], got \[3, 32\]"):
        load_classifier(directory)
    (directory / "config.json").write_text(json.dumps({**fields, "id2label": {"1": "a", "2": "b"}}))
    with pytest.raises(ValueError, match="wanted id2label to name the classes 0, 1"):
        load_classifier(directory)
    (directory / "config.json").write_text(json.dumps(fields))

    form = (directory / "chainrule.toml").read_text()
    (directory / "chainrule.toml").write_text("[classifier]\n")
    with pytest.raises(ValueError, match="wanted the columns that the classifier reads"):
        load_classifier(directory)
    (directory / "chainrule.toml").unlink()
    with pytest.raises(ValueError, match=r"wanted a classifier saved by chainrule, got one without chainrule\.toml"):
        load_classifier(directory)
    (directory / "chainrule.toml").write_text(form)
    (directory / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match="cut short"):
        load_classifier(directory)


def test_a_text_is_tokenized_in_a_classifiers_files_as_when_it_was_finetuned(tmp_path: Path) -> None:
    their_tokenizer(tmp_path / "theirs")
    path = tmp_path / "theirs" / "tokenizer.json"
    inner = tokenizers.Tokenizer.from_file(str(path))
    inner.add_tokens(["<turn>", "<end>"])  # no special ones but by the other files, which the classifier has not
    inner.save(str(path))
    settings = {"bos_token": "<|endoftext|>", "eos_token": "<end>", "chat_template": "{{ '<turn>' }}"}
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "theirs" / "added_tokens.json").write_text(json.dumps({"<new>": 259}))
    tokenizer = load_tokenizer(tmp_path / "theirs")
    make_classifier(random_model("gpt2", vocabulary_size=300), tokenizer, "gpt2").save(tmp_path / "saved")
    again = load_classifier(tmp_path / "saved", device="cpu").features.tokenizer
    for text in ("a<turn>b", "<end>", "<new>"):
        assert again.encode(text) == tokenizer.encode(text)
    assert again.encode("<new>") == [259] and len(again.encode("<turn>")) == 6
