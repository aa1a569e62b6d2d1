"""The masked language model: it fills blanks as transformers' does, scores and finetunes, and refuses to go on."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from conftest import random_model
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

import chainrule
from chainrule.cli import main
from chainrule.finetuning.classifier import Classifier, Form, load_classifier
from chainrule.language_model import require_causal
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.scoring.blanks import fill_blanks, masked_at, score_blanks
from chainrule.scoring.features import Features
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.prompt import Prompt
from chainrule.tokens.make import byte_tokenizer, character_tokenizer, train_bpe
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer

TEXTS = ["the cat sat", "the dog sat on a great big mat", "no", "A fine Day, really great!"]
WORDS = "the cat dog sat on a mat fine day no great terrible really big was it ##s ##ly , . !".split()


def word_pieces(directory: Path) -> Tokenizer:
    """As BERT's files are: lower case, [CLS] in front of a text and [SEP] behind it."""
    directory.mkdir(exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: id for id, token in enumerate([*special, *WORDS])}
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens(special)
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inner.save(str(directory / "tokenizer.json"))
    names = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    settings = {f"{name}_token": special[id] for name, id in names.items()}
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    return load_tokenizer(directory)


TOKENIZERS: dict[str, Callable[[Path], Tokenizer]] = {
    "bytes": lambda _: byte_tokenizer(mask=True),
    "bpe": lambda _: train_bpe([*TEXTS, " great, terrible"] * 9, 290, mask=True),
    "word pieces": word_pieces,
}


@pytest.fixture(params=TOKENIZERS)
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> MaskedLanguageModel:
    tokenizer = TOKENIZERS[request.param](tmp_path / "tokenizer")
    return MaskedLanguageModel(
        random_model("bert", vocabulary_size=tokenizer.vocabulary_size, context=64), tokenizer, "bert"
    )


def alone(lm: MaskedLanguageModel, tokens: list[int], places: list[int]) -> torch.Tensor:
    """log p (M, V) at these places, all masked, by one plain call of the model."""
    read = list(tokens)
    for place in places:
        read[place] = lm.tokenizer.mask.id
    with torch.no_grad():
        return lm.model(torch.tensor([read])).log_softmax(-1)[0, places]


def test_blanks_are_filled_as_transformers_fills_them(lm: MaskedLanguageModel, tmp_path: Path) -> None:
    import transformers

    lm.save(tmp_path / "model")
    pipeline = transformers.pipeline("fill-mask", str(tmp_path / "model"))
    for text in ("the [MASK] sat", "[MASK] dog sat on a mat", "it was really [MASK]"):
        (ours,) = lm.fill(text, top=4)
        theirs = pipeline(text, top_k=4)
        np.testing.assert_allclose([p for _, p in ours], [found["score"] for found in theirs], atol=1e-5)
        pieces = lm.tokenizer.token_texts([found["token"] for found in theirs])
        assert [word for word, _ in ours] == pieces
    assert [len(best) for best in lm.fill("[MASK] cat [MASK] sat", top=3)] == [3, 3]
    with pytest.raises(ValueError, match=r"wanted a text with \[MASK\]"):
        lm.fill("nothing to tell")


def test_pseudo_log_prob_masks_each_token_in_turn(lm: MaskedLanguageModel) -> None:
    for text in TEXTS:
        encoded = lm.tokenizer.encode(text)
        tokens = [lm.tokenizer.bos_id, *encoded, *lm.tokenizer.closing]
        terms = [float(alone(lm, tokens, [place])[0, tokens[place]]) for place in range(1, 1 + len(encoded))]
        assert lm.pseudo_log_prob(text) == pytest.approx(sum(terms), abs=1e-4)
        assert [token.log_prob for token in lm.score(text, top=0)] == pytest.approx(terms, abs=1e-4)
    assert lm.pseudo_log_prob(" sat", given="the cat") < 0
    whole = lm.score("the cat sat")
    assert [token.log_prob for token in lm.score(" sat", given="the cat")] == pytest.approx(
        [token.log_prob for token in whole[-len(lm.score(" sat", given="the cat")) :]], abs=1e-5
    )


def test_a_sequence_in_a_batch_is_scored_as_it_is_alone(lm: MaskedLanguageModel) -> None:
    sequences = [[lm.tokenizer.bos_id, *lm.tokenizer.encode(text), *lm.tokenizer.closing] for text in TEXTS]
    asked = [masked_at(tokens, [place], lm.tokenizer.mask.id) for tokens in sequences for place in (1, len(tokens) - 1)]
    asked.append(masked_at(sequences[1], [2, 4], lm.tokenizer.mask.id))
    together = fill_blanks(lm.model, asked, top=3)
    for one, scores in zip(asked, together, strict=True):
        (single,) = fill_blanks(lm.model, [one], top=3)
        torch.testing.assert_close(scores.log_probs, single.log_probs, atol=1e-5, rtol=0)
        torch.testing.assert_close(scores.best_log_probs, single.best_log_probs, atol=1e-5, rtol=0)
    for one, scored in zip(asked, score_blanks(lm.model, asked), strict=True):
        assert scored.tokens == len(one.positions)
        assert scored.log_prob == pytest.approx(fill_blanks(lm.model, [one])[0].log_probs.sum().item(), abs=1e-4)


def test_a_long_text_is_read_with_a_mask_over_what_is_padding() -> None:
    """Longer than a block of the causal kernels, and beside one much shorter."""
    model = random_model("bert", vocabulary_size=258, context=400)
    lm = MaskedLanguageModel(model, byte_tokenizer(mask=True), "bert")
    long, short = "a long text " * 30, "short"
    both = lm.model, [masked_at([257, *text.encode()], [3], 256) for text in (long, short)]
    for text, scores in zip((long, short), fill_blanks(*both), strict=True):
        tokens = [257, *text.encode()]
        assert float(scores.log_probs[0]) == pytest.approx(float(alone(lm, tokens, [3])[0, tokens[3]]), abs=1e-4)
    features = Features(model, lm.tokenizer)([long, short])
    np.testing.assert_allclose(features[1], Features(model, lm.tokenizer)([short])[0], atol=1e-5)


def test_evaluate_has_a_fixed_mask_and_a_name_of_its_own(
    lm: MaskedLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lm.evaluate([*TEXTS, "the dog sat on a mat " * 30])
    assert found == lm.evaluate([*TEXTS, "the dog sat on a mat " * 30])
    assert 0.1 < found.masked_tokens / found.tokens < 0.25 and found.masked_loss > 0
    with pytest.raises(ValueError, match="windows do not overlap"):
        lm.evaluate(TEXTS, stride=3)
    lm.save(tmp_path / "model")
    (tmp_path / "text.txt").write_text(" ".join(TEXTS))
    main(["evaluate", str(tmp_path / "model"), str(tmp_path / "text.txt"), "--json"])
    assert set(json.loads(capsys.readouterr().out)) == {"tokens", "masked_tokens", "masked_loss"}
    main(["evaluate", str(tmp_path / "model"), str(tmp_path / "text.txt")])
    told = capsys.readouterr().out
    assert "masked loss" in told and "perplexity" not in told
    main(["score", str(tmp_path / "model"), "the [MASK] sat", "--json"])
    assert len(json.loads(capsys.readouterr().out)["blanks"]) == 1
    main(["score", str(tmp_path / "model"), "the cat", "--json"])
    assert "pseudo_log_prob" in json.loads(capsys.readouterr().out)


def test_it_goes_on_from_no_text_and_says_why(
    lm: MaskedLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"every token sees those after it: it fills blanks .*; use a"):
        require_causal(lm, "generate", "use another model")
    for name in ("generate", "stream", "completions", "log_prob", "next_token", "chat"):
        assert not hasattr(lm, name), "only a causal model has it"
    lm.save(tmp_path / "model")
    with pytest.raises(SystemExit, match="2"):
        main(["generate", str(tmp_path / "model"), "the cat"])
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and "fills blanks" in told.err


def examples(rows: list[tuple[str, str]]) -> Examples:
    return Examples([{"text": text} for text, _ in rows], [label for _, label in rows], [""] * len(rows))


TRAIN = [("the cat", "bad"), ("a fine day", "good"), ("no dog", "bad"), ("really great", "good")]
TASK = Task(
    "classification",
    ("text",),
    "label",
    examples(TRAIN),
    examples([("the mat", "bad"), ("a dog", "good")]),
    ("bad", "good"),
    Prompt("{text}, it was {label} really.", separator=" ", words={"bad": "terrible", "good": "great big"}),
)


@pytest.mark.parametrize("shots", [0, 2])
def test_zero_shot_fills_the_blank_and_sees_what_follows_it(lm: MaskedLanguageModel, shots: int) -> None:
    predictor = chainrule.in_context(lm, TASK, shots)
    shown = predictor.show("the big dog").prompt
    before, after = shown.split("[MASK]")
    shots = 0 if lm.tokenizer.is_table else shots  # that many bytes do not fit
    assert after == " really." and before.endswith("the big dog, it was ") and before.count("it was") == shots + 1
    scores = []
    for word in ("terrible", "great big"):
        tokens = lm.tokenizer.encode(before + word + after)
        first, count = (len(lm.tokenizer.encode(text)) for text in (before.rstrip(), after))
        places = list(range(1 + first, 1 + len(tokens) - count))
        tokens = [lm.tokenizer.bos_id, *tokens, *lm.tokenizer.closing]
        log_probs = alone(lm, tokens, places)
        scores.append(sum(float(log_probs[n, tokens[place]]) for n, place in enumerate(places)))
    odds = np.exp(np.array(scores) - max(scores))
    np.testing.assert_allclose(predictor.predict_proba(["the big dog"])[0], odds / odds.sum(), atol=1e-4)


def test_a_masked_model_generates_no_answers(lm: MaskedLanguageModel) -> None:
    with pytest.raises(ValueError, match=r"answer: wanted a causal language model, .* fills blanks"):
        chainrule.zero_shot(lm, TASK, answer="vocabulary")
    with pytest.raises(ValueError, match="cannot go on from a text"):
        chainrule.zero_shot(lm, TASK, chat=True)


@pytest.mark.parametrize("train", ["head", "full"])
def test_finetuning_reads_the_first_token_and_transformers_gives_the_same(
    lm: MaskedLanguageModel, train: str, tmp_path: Path
) -> None:
    import transformers

    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    classifier = chainrule.finetune(lm, TASK, train=train, epochs=2.0, out=tmp_path / "classifier")
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    expected = classifier.predict_proba(TEXTS)
    np.testing.assert_allclose(load_classifier(tmp_path / "classifier").predict_proba(TEXTS), expected, atol=1e-6)
    pipeline: Any = transformers.pipeline("text-classification", str(tmp_path / "classifier"), top_k=None)
    assert type(pipeline.model).__name__ == "BertForSequenceClassification"
    for batch_size in (1, 4):
        found = [{answer["label"]: answer["score"] for answer in row} for row in pipeline(TEXTS, batch_size=batch_size)]
        np.testing.assert_allclose([[row[name] for name in ("bad", "good")] for row in found], expected, atol=1e-5)


def test_a_pretrained_pooler_is_kept_and_a_head_with_a_bias_refused(lm: MaskedLanguageModel, tmp_path: Path) -> None:
    import transformers
    from safetensors.torch import load_file, save_file

    lm.save(tmp_path / "model")
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path / "model")
    theirs.save_pretrained(tmp_path / "model")
    loaded = chainrule.load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.model.get_parameter("pooler.weight").detach(), theirs.bert.pooler.dense.weight.detach()
    )
    inputs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")(TEXTS[1], return_tensors="pt")
    with torch.no_grad():
        wanted = theirs.bert(**inputs).pooler_output[0]
    np.testing.assert_allclose(Features(loaded.model, loaded.tokenizer)([TEXTS[1]])[0], wanted, atol=1e-5)

    Classifier(Features(lm.model, lm.tokenizer), torch.ones(2, 32), ("a", "b"), Form(("text",)), "bert").save(
        tmp_path / "biased"
    )
    tensors = load_file(tmp_path / "biased" / "model.safetensors")
    save_file({**tensors, "classifier.bias": torch.ones(2)}, tmp_path / "biased" / "model.safetensors")
    with pytest.raises(ValueError, match="wanted a linear head without a bias"):
        load_classifier(tmp_path / "biased")


# Pretraining it.

TINY = "--depth 1 --width 16 --heads 2 --context 16 --batch-tokens 64 --compile off --vocabulary-size 280".split()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and the dog sat on the cat. " * 60)
    return path


@pytest.mark.parametrize("tokenizer", ["bpe", "char", "byte"])
def test_pretraining_writes_a_bert_for_masked_lm_whose_tokenizer_has_a_mask(
    text: Path, tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    more = ["--objective", "masked", "--tokenizer", tokenizer, "--steps", "8", "--out", str(tmp_path / "run")]
    main(["pretrain", str(text), *more, *TINY, "--json"])
    told = capsys.readouterr()
    assert json.loads(told.out)["steps"] == 8 and "[" in told.err
    lm, peer = chainrule.load(tmp_path / "run"), transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "run")
    assert isinstance(lm, MaskedLanguageModel) and type(peer).__name__ == "BertForMaskedLM"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    assert theirs.mask_token == "[MASK]" and theirs.mask_token_id == lm.tokenizer.mask.id
    ids = theirs("the [MASK] sat", split_special_tokens=False)["input_ids"]
    assert ids == [lm.tokenizer.bos_id, *lm.tokenizer.encode_blanks("the [MASK] sat")]
    with torch.no_grad():
        torch.testing.assert_close(lm.model(torch.tensor([ids])), peer(torch.tensor([ids])).logits, atol=1e-4, rtol=0)
    main(["info", str(tmp_path / "run"), "--json"])
    assert json.loads(capsys.readouterr().out)["family"] == "bert"


def test_a_masked_run_resumed_equals_one_never_stopped_and_learns(text: Path, tmp_path: Path) -> None:
    from chainrule.corpus.write import CorpusOptions
    from chainrule.pretraining.options import PretrainOptions
    from chainrule.pretraining.start import open_run

    shape = {"depth": 1, "width": 32, "heads": 2, "context": 16, "batch_tokens": 256, "compile": "off"}
    options = PretrainOptions(**shape, steps=60, validate_every=20, objective="masked")
    whole = open_run([str(text)], tmp_path / "whole", options, CorpusOptions(tokenizer="char"))
    losses = [progress.validation_loss for progress in whole.advance() if progress.validation_loss is not None]
    assert losses[-1] < 0.8 * math.log(whole.model.config.vocabulary_size) and losses[-1] < losses[0]
    stopped = open_run([str(text)], tmp_path / "stopped", options, CorpusOptions(tokenizer="char"))
    for progress in stopped.advance():
        if progress.step == 13:
            break
    stopped.save()
    again = open_run([str(text)], tmp_path / "stopped", options, CorpusOptions(tokenizer="char"))
    assert again.step == 13
    for _ in again.advance():
        pass
    weights = "model.safetensors"
    assert (tmp_path / "stopped" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_what_cannot_be_masked_is_refused_in_one_line(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tokenize", str(text), "--out", str(tmp_path / "shards"), "--tokenizer", "char"])
    main(["tokenize", str(text), "--out", str(tmp_path / "masked"), "--tokenizer", "char", "--mask"])
    main(["pretrain", str(text), "--out", str(tmp_path / "next"), "--tokenizer", "char", "--steps", "1", *TINY])
    steps = ["--steps", "1", "--out", str(tmp_path / "run")]
    capsys.readouterr()
    for arguments, message in (
        ([str(tmp_path / "shards"), "--objective", "masked", *TINY], "tokenize with --mask"),
        ([str(text), "--objective", "masked", "--family", "qwen3", *TINY], "wanted bert for --objective masked"),
        ([str(text), "--family", "bert", *TINY], "wanted qwen3 or gpt2 for --objective next"),
        ([str(text), "--objective", "masked", "--tokenizer", str(tmp_path / "next"), *TINY], "one with a mask token"),
        ([str(text), "--objective", "masked", "--from", str(tmp_path / "next")], "wanted next for"),
        ([str(tmp_path / "masked"), "--from", str(tmp_path / "next")], "in this model's tokens"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["pretrain", *arguments, *steps])
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, told
    main(["pretrain", str(tmp_path / "masked"), "--objective", "masked", *steps, *TINY])
    with pytest.raises(SystemExit, match="2"):
        main(["pretrain", str(text), "--from", str(tmp_path / "run"), "--out", str(tmp_path / "on"), "--steps", "1"])
    assert "--objective: wanted masked for" in capsys.readouterr().err


def test_what_closes_a_text_is_found_for_a_vocabulary_without_the_letter_a() -> None:
    tokenizer = character_tokenizer(["привет мир"], mask=True)
    assert tokenizer.closing == byte_tokenizer(mask=True).closing
    lm = MaskedLanguageModel(random_model("bert", vocabulary_size=tokenizer.vocabulary_size), tokenizer, "bert")
    assert len(lm.fill("при[MASK]ет")) == 1
    assert lm.filled(tokenizer.encode("мир")) == "мир"  # too short for a blank


def test_a_text_with_masks_is_scored_whole(
    lm: MaskedLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm.save(tmp_path / "model")
    with pytest.raises(SystemExit, match="2"):
        main(["score", str(tmp_path / "model"), "the [MASK]", "--given", "sat"])
    assert "--given: wanted a text without masks" in capsys.readouterr().err
