"""LoRA end to end: finetuned, saved, loaded, used, exported and gone on with; and refused where it does not fit."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHAPES, random_model
from safetensors.torch import load_file

import chainrule
from chainrule.cli import main
from chainrule.finetuning.finetune import FinetuneOptions, Finetuning
from chainrule.finetuning.recipes import lora_recipe, recipe
from chainrule.language_model import make_language_model
from chainrule.tokens.make import byte_tokenizer

ENCODERS = ("bert", "roberta", "distilbert", "modernbert")
COLOURS = ("red", "green", "blue", "white", "black", "pink", "brown")
TEXTS = ["a red thing", "so blue"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for count in (2, 3, 7):
        rows = [(f"{number} a {COLOURS[number % count]} thing", COLOURS[number % count]) for number in range(6 * count)]
        with (tmp_path / f"rows{count}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "colour"), *rows])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_base(folder: Path, family: str, seed: int = 0) -> None:
    tokenizer = byte_tokenizer(mask=family in ENCODERS)
    model = random_model(family, tokenizer.vocabulary_size, context=64, seed=seed)
    make_language_model(model, tokenizer, family).save(folder / family)


def command(family: str, count: int, out: str = "out", more: str = "") -> list[str]:
    given = f"finetune {family} rows{count}.csv --text text --label colour --train lora --rank 4 --epochs 3"
    return f"{given} --dtype float32 --out {out} {more}".split()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def answer(capsys: pytest.CaptureFixture[str], asked: str) -> Any:
    capsys.readouterr()
    main([*asked.split(), "--json"])
    return json.loads(capsys.readouterr().out)


def stop_at_the_second_step(patch: pytest.MonkeyPatch) -> None:
    advance = Finetuning.advance

    def stopped(self: Finetuning) -> Any:
        for progress in advance(self):
            if progress.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield progress

    patch.setattr(Finetuning, "advance", stopped)


CASES = [*((family, 3) for family in (*SHAPES, *ENCODERS)), ("qwen3", 2), ("qwen3", 7), ("bert", 2), ("gpt2", 7)]


@pytest.mark.parametrize(("family", "count"), CASES)
def test_an_adapter_is_written_read_found_finished_and_merged(
    family: str, count: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_base(folder, family)
    base = contents(folder / family)
    main(command(family, count))
    assert contents(folder / family) == base
    assert {"adapter_config.json", "adapter_model.safetensors", "chainrule.toml"} <= set(contents(folder / "out"))
    assert not (folder / "out" / "model.safetensors").exists() and not (folder / "out" / "training").exists()
    before = contents(folder / "out")
    main(command(family, count))
    assert "out is finished" in capsys.readouterr().err and contents(folder / "out") == before

    classifier = chainrule.load_classifier("out", device="cpu", dtype="float32")
    labels, expected = sorted(COLOURS[:count]), classifier.predict_proba(TEXTS)
    assert list(classifier.labels) == labels and expected.shape == (2, count)
    classifier.save(folder / "again")
    assert all(before[name] == data for name, data in contents(folder / "again").items())
    said = answer(capsys, "predict out a --dtype float32")["predictions"][0]
    np.testing.assert_allclose([said["probabilities"][label] for label in labels], classifier.predict_proba(["a"])[0])
    found = answer(capsys, "info out")
    assert (found["classes"], found["finetuned"], found["adapter_rank"]) == (", ".join(labels), "lora", 4)

    assert 0 <= answer(capsys, "export out --to huggingface --out merged")["largest_change_of_a_logit"] < 1e-3
    merged = chainrule.load_classifier("merged", device="cpu", dtype="float32")
    np.testing.assert_array_equal(merged.predict_proba(TEXTS), expected)

    with monkeypatch.context() as patch:
        stop_at_the_second_step(patch)
        with pytest.raises(SystemExit) as end:
            main(command(family, count, "stopped"))
    assert end.value.code == 128 + signal.SIGTERM
    saved = load_file(folder / "stopped" / "training" / "2" / "model.safetensors")
    assert all(".adapters." in name or name == "head.w" for name in saved)
    main(command(family, count, "stopped"))
    assert contents(folder / "stopped") == before


def test_it_learns_and_leaves_the_model_as_it_was(folder: Path) -> None:
    save_base(folder, "qwen3")
    lm, task = chainrule.load("qwen3", device="cpu"), chainrule.Task.load("rows3.csv", text=["text"], label="colour")
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    finetuning = Finetuning(lm, task, FinetuneOptions("lora", dtype="float32"))
    losses = [progress.loss for progress in finetuning.advance()]
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    assert all(parameter.requires_grad for parameter in lm.model.parameters())
    training = finetuning._training
    assert training is not None
    own, theirs = training.model.transformer.embedding.weight, lm.model.embedding.weight
    assert own.data_ptr() == theirs.data_ptr() and not own.requires_grad


def test_the_rate_is_10_times_that_of_full() -> None:
    full, lora = (make(100, 64) for make in (recipe, lora_recipe))
    assert lora.rate == 10 * full.rate and lora.head_rate == full.head_rate


def change_base(folder: Path) -> None:
    save_base(folder, "gpt2", seed=1)


def remove_base(folder: Path) -> None:
    (folder / "gpt2").rename(folder / "elsewhere")


def set_field(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "out" / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_base, "wanted the base model that the adapter was trained on, got other weights"),
        (remove_base, "wanted the adapter's base model"),
        (set_field(r=5), "for transformer.h.0.attn.c_attn and its rank, got"),
        (set_field(use_dora=True), "wanted use_dora False, got True, which is not supported"),
        (set_field(peft_type="IA3"), "wanted peft_type 'LORA', got 'IA3'"),
        (set_field(init_lora_weights="pissa"), "wanted an adapter of an unchanged base model"),
        (set_field(base_model_name_or_path=None), "wanted the description of an adapter and its base model"),
        (set_field(task_type="CAUSAL_LM"), "wanted a classifier, got the adapter of a language model"),
        (lambda folder: (folder / "out/adapter_model.safetensors").write_bytes(b"cut"), "wanted a whole safetensors"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_in_one_line(
    change: Callable[[Path], None], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(folder, "gpt2")
    main(command("gpt2", 2))
    change(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["predict", "out", "a"])
    told = capsys.readouterr()
    assert (end.value.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert message in told.err


def test_what_can_not_be_asked_for_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_base(folder, "gpt2")
    task = chainrule.Task.load("rows2.csv", text=["text"], label="colour")
    made_here = make_language_model(random_model("gpt2", 257, context=64), byte_tokenizer(), "gpt2")
    with pytest.raises(chainrule.ChainruleError, match="--train lora: wanted a model in a file of its own"):
        chainrule.finetune(made_here, task, train="lora", out="made")
    assert not (folder / "made").exists()
    with pytest.raises(chainrule.ChainruleError, match="--rank: wanted --train lora beside it, got head"):
        chainrule.finetune(made_here, task, train="head", rank=3)
    with pytest.raises(chainrule.ChainruleError, match="rank: wanted at least 1, got 0"):
        chainrule.finetune(made_here, task, train="lora", rank=0)
    main(command("gpt2", 2))
    with pytest.raises(chainrule.ChainruleError, match="wanted a language model, got the adapter of a classifier"):
        chainrule.load("out")
