"""Two texts as a pair: encoded as transformers encodes it, and classified as transformers classifies it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from conftest import random_model
from tokenizers import models, pre_tokenizers, processors

import chainrule
from chainrule.finetuning.classifier import Form, load_classifier
from chainrule.language_model import make_language_model
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.scoring.features import Features, reads_pairs
from chainrule.tokens.make import byte_tokenizer
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer

PAIR = {  # the pair's template, and what a family calls its marks
    "bert": ("[CLS]", "[SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "distilbert": ("[CLS]", "[SEP]", "[CLS] $A [SEP] $B [SEP]"),
    "roberta": ("<s>", "</s>", "<s> $A </s> </s> $B </s>"),
    "modernbert": ("[CLS]", "[SEP]", "[CLS] $A [SEP] $B [SEP]"),
}
WORDS = "a the owl sees hears mouse night day quiet loud . ?".split()
ROWS = [
    {"premise": "the owl sees a mouse .", "hypothesis": "a mouse ."},
    {"premise": "a loud night", "hypothesis": "the day ? the quiet day ? a day ?"},
    {"premise": "day", "hypothesis": ""},
    {"premise": " ".join(WORDS * 3), "hypothesis": " ".join(WORDS * 2)},
    {"premise": "a", "hypothesis": " ".join(WORDS * 4)},
    {"premise": " ".join(WORDS[:9] * 4), "hypothesis": "loud day"},
]
PAIRS = [(row["premise"], row["hypothesis"]) for row in ROWS]


def tokenizer_of(family: str, folder: Path) -> Tokenizer:
    first, end, pair = PAIR[family]
    vocabulary = {token: id for id, token in enumerate([first, "<pad>", end, "<mask>", "<unk>", *WORDS])}
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<pad>", first, end, "<mask>", "<unk>"])
    inner.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {end}", pair=pair, special_tokens=[(first, 0), (end, 2)]
    )
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    named = {"cls_token": first, "sep_token": end, "pad_token": "<pad>", "mask_token": "<mask>", "bos_token": first}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}))
    return load_tokenizer(folder)


def write_task(folder: Path) -> chainrule.Task:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        premise, hypothesis = (" ".join(rng.choice(WORDS, 5)) for _ in range(2))
        rows.append({"premise": f"{premise} {number}", "hypothesis": hypothesis, "label": "ab"[number % 2]})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content = 'train = "rows.jsonl"\ntext = ["premise", "hypothesis"]\nlabel = "label"\n'
    (folder / "task.toml").write_text(content)
    return chainrule.Task.load(folder / "task.toml")


@pytest.mark.parametrize("family", PAIR)
def test_a_pair_has_the_tokens_that_transformers_gives_it(family: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = tokenizer_of(family, tmp_path / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", model_max_length=32, truncation_side="left")
    features = Features(random_model(family, vocabulary_size=61, context=32), tokenizer, pairs=True)
    expected = theirs([one for one, _ in PAIRS], [other for _, other in PAIRS], truncation=True)
    assert [tokens.tolist() for tokens in features.tokens(PAIRS)] == expected["input_ids"]
    assert features.cut == 3 and features.segments == (family == "bert")


@pytest.mark.parametrize("train", ["head", "full"])
@pytest.mark.parametrize("family", PAIR)
def test_transformers_finds_the_same_probabilities_of_a_pair(family: str, train: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    lm = make_language_model(
        random_model(family, vocabulary_size=61, context=32), tokenizer_of(family, tmp_path / "tokenizer"), family
    )
    classifier = chainrule.finetune(lm, write_task(tmp_path), train=train, epochs=2, dtype="float32")
    assert classifier.form == Form(("premise", "hypothesis"), None, pair=True)
    classifier.save(tmp_path / "saved")
    expected = classifier.predict_proba(ROWS)
    again = load_classifier(tmp_path / "saved", device="cpu")
    assert again.form == classifier.form
    np.testing.assert_array_equal(again.predict_proba(ROWS), expected)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    given = theirs(*map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, return_tensors="pt")
    assert ("token_type_ids" in given) == (family == "bert")
    with torch.no_grad():
        np.testing.assert_allclose(model(**given).logits.softmax(-1), expected, atol=1e-5)


def test_the_second_segment_matters_where_there_is_one(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("bert", tmp_path / "tokenizer")
    model = random_model("bert", vocabulary_size=61, context=32)
    paired = Features(model, tokenizer, pairs=True)(PAIRS[:3])
    with torch.no_grad():
        model.segment_embedding.weight[1] = model.segment_embedding.weight[0]
    assert np.abs(paired - Features(model, tokenizer, pairs=True)(PAIRS[:3])).max() > 1e-3
    assert model.segment_separator is None  # the caller's model stays as it is


def test_where_a_tokenizer_or_a_model_reads_no_pairs_columns_are_joined(tmp_path: Path) -> None:
    masked = byte_tokenizer(mask=True)
    model = random_model("bert", masked.vocabulary_size)
    assert not reads_pairs(model, masked)  # ours gives documents one after the other
    assert not reads_pairs(random_model("gpt2"), tokenizer_of("bert", tmp_path / "tokenizer"))
    lm = make_language_model(model, masked, "bert")
    assert isinstance(lm, MaskedLanguageModel)
    classifier = chainrule.finetune(lm, write_task(tmp_path), train="head")
    assert not classifier.form.pair and classifier.form(ROWS[0]) == "the owl sees a mouse .\na mouse ."


def test_a_comparison_reads_pairs_and_says_so(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("bert", tmp_path / "tokenizer")
    lm = make_language_model(random_model("bert", vocabulary_size=61, context=32), tokenizer, "bert")
    methods = ["centroid", "head", "bag-of-words"]
    found = chainrule.compare(lm, write_task(tmp_path), sizes=[8], seeds=1, methods=methods, out=tmp_path / "out")
    assert {row["method"] for row in found.rows} == {*methods}
    assert "pairs = " in (tmp_path / "out/compare.toml").read_text()
