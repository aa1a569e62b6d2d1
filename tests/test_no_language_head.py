"""A model that was saved without its language-model head has features and can be finetuned; what needs the head is
refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, GPT2Config, GPT2Model, MistralConfig, MistralModel

import chainrule
from chainrule.cli import main
from chainrule.language_model import LanguageModel
from chainrule.scoring.features import Features
from chainrule.tokens.make import byte_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = {
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "bert without a pooler": lambda: BertModel(BertConfig(**SIZES), add_pooling_layer=False),
    "mistral": lambda: MistralModel(MistralConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=False)),
}
TEXTS = ["a fine day", "the owl sees a mouse and night falls"]
ROWS = [{"text": f"a {word} day {number}", "mood": mood} for number in range(8) for word, mood in
        (("fine", "good"), ("grim", "bad"), ("dull", "so-so"))]  # fmt: skip


@pytest.fixture(params=CONFIGS)
def saved(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What transformers saves of a model without a head: names of tensors without the family's prefix."""
    torch.manual_seed(0)
    peer = CONFIGS[request.param]()
    for parameter in peer.parameters():
        if parameter.ndim > 1:  # texts must differ in φ
            parameter.data.normal_(std=0.3)
    peer.save_pretrained(tmp_path / "model")
    byte_tokenizer(mask=True).save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "text.txt").write_text("the owl sees a mouse. " * 60)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model"


@torch.no_grad()
def test_its_features_are_those_of_transformers(saved: Path) -> None:
    lm, peer = chainrule.load(saved, dtype="float32"), AutoModel.from_pretrained(saved).eval()
    assert not lm.model.config.language_head
    for text in TEXTS:
        tokens = torch.tensor([[lm.tokenizer.bos_id, *lm.tokenizer.encode(text), *lm.tokenizer.closing]])
        wanted = peer(tokens)
        np.testing.assert_allclose(lm.features(text), wanted.last_hidden_state[0], atol=1e-5)
        if lm.model.pooler is not None:
            np.testing.assert_allclose(Features(lm.model, lm.tokenizer)([text])[0], wanted.pooler_output[0], atol=1e-5)


@torch.no_grad()
def test_saved_and_loaded_by_both_it_is_the_same(saved: Path, tmp_path: Path) -> None:
    lm, before = chainrule.load(saved, dtype="float32"), AutoModel.from_pretrained(saved).eval()
    lm.save(tmp_path / "again")
    again = chainrule.load(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["architectures"] == [type(before).__name__]
    assert torch.equal(again.features(TEXTS[0]), lm.features(TEXTS[0]))
    after, loading = AutoModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not loading["missing_keys"] - {"pooler.dense.weight", "pooler.dense.bias"}
    tokens = torch.arange(9)[None]
    assert torch.equal(after.eval()(tokens).last_hidden_state, before(tokens).last_hidden_state)


def test_it_is_finetuned_and_told_of_and_transformers_reads_the_classifier(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    main(["info", str(saved), "--json"])
    assert json.loads(capsys.readouterr().out)["language_model_head"].startswith("none")
    for train, more in (("head", []), ("full", ["--epochs", "2"])):
        task = ["rows.jsonl", "--text", "text", "--label", "mood"]
        main(["finetune", str(saved), *task, "--train", train, "--out", train, "--dtype", "float32", *more])
        expected = chainrule.load_classifier(train, dtype="float32").predict_proba(TEXTS)
        pipeline: Any = transformers.pipeline("text-classification", train, top_k=None)
        found = [{answer["label"]: answer["score"] for answer in row} for row in pipeline(TEXTS)]
        np.testing.assert_allclose(
            [[row[label] for label in ("bad", "good", "so-so")] for row in found], expected, atol=1e-5
        )
    capsys.readouterr()
    methods = ["--methods", "head", "bag-of-words", "--sizes", "4", "--seeds", "1"]
    main(["compare", str(saved), *task, "--out", "compared", *methods, "--json"])
    assert {row["method"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"head", "bag-of-words"}


TASK = "rows.jsonl --text text --label mood"


@pytest.mark.parametrize(
    "command",
    [
        "generate model a",
        "score model a",
        "score model [MASK]",
        "evaluate model text.txt",
        f"zero-shot model {TASK}",
        f"in-context model {TASK} --shots 2",
        f"compare model {TASK} --out compared --methods zero-shot head",
        f"predict model --task {TASK} -- day",
        "pretrain text.txt --from model --out run --steps 1",
        "pretrain text.txt --from model --out run --steps 1 --objective masked",
        "evaluate model --tasks arc_easy",
    ],
)
def test_what_needs_the_head_is_refused_in_one_line(
    command: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(command.split())
    told = capsys.readouterr()
    assert (end.value.code, told.out, told.err.count("\n")) == (2, "", 1)
    masked = "bert" in json.loads((saved / "config.json").read_text())["model_type"]
    refused_as_masked = masked and command.startswith(("generate", "evaluate model --tasks"))
    assert ("a masked one" if refused_as_masked else "saved without one") in told.err


def test_a_tied_model_that_was_saved_bare_has_its_head(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "vocab_size": 257}
    GPT2Model(GPT2Config(**sizes)).save_pretrained(tmp_path)
    byte_tokenizer().save(tmp_path)
    lm = chainrule.load(tmp_path)
    assert isinstance(lm, LanguageModel)
    assert lm.log_prob("a fine day") < 0


def test_a_model_that_says_it_has_a_head_and_lacks_it_is_refused(saved: Path) -> None:
    fields = json.loads((saved / "config.json").read_text())
    architecture = "BertForMaskedLM" if fields["model_type"] == "bert" else "MistralForCausalLM"
    (saved / "config.json").write_text(json.dumps({**fields, "architectures": [architecture]}))
    with pytest.raises(ValueError, match=r"wanted the tensor (cls\.predictions\.\S+|lm_head\.weight), which the files"):
        chainrule.load(saved)
