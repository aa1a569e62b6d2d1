"""`pretrain --from BASE --train lora`: an adapter beside a model that stays as it is, which all commands take."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MASKED, random_model

import chainrule
from chainrule.cli import main
from chainrule.language_model import make_language_model
from chainrule.pretraining.run import Run
from chainrule.tokens.make import byte_tokenizer

TEXT = "the cat sat on the mat, and the dog sat on the cat. " * 40


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_base(folder: Path, family: str, seed: int = 0) -> None:
    tokenizer = byte_tokenizer(mask=family in MASKED)
    model = random_model(family, tokenizer.vocabulary_size, context=32, seed=seed)
    make_language_model(model, tokenizer, family).save(folder / family)


def command(family: str, out: str = "run", more: str = "") -> list[str]:
    objective = "masked" if family in MASKED else "next"
    asked = f"pretrain text.txt --from {family} --train lora --rank 4 --objective {objective} --out {out} --steps 6"
    return f"{asked} --batch-tokens 128 --compile off --dtype float32 --validate-every 2 {more}".split()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma3_text", "gpt_neox", "bert"])
def test_the_adapter_of_each_family_is_loaded_evaluated_and_exported(
    family: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(folder, family)
    before = contents(folder / family)
    main([*command(family), "--learning-rate", "0.01", "--json"])
    assert json.loads(capsys.readouterr().out)["steps"] == 6
    assert contents(folder / family) == before
    there = contents(folder / "run")
    assert "adapter_model.safetensors" in there and not {"model.safetensors", "config.json"} & set(there)
    base, lm = (chainrule.load(name, device="cpu", dtype="float32") for name in (family, "run"))
    assert lm.family == family and lm.model.config == base.model.config
    tokens = torch.tensor([[lm.tokenizer.bos_id, *lm.tokenizer.encode("the dog sat")]])
    with torch.no_grad():
        assert not torch.equal(lm.model(tokens), base.model(tokens))
    main(["evaluate", "run", "text.txt", "--json", "--dtype", "float32"])
    told = json.loads(capsys.readouterr().out)
    main(["evaluate", family, "text.txt", "--json", "--dtype", "float32"])
    key = "loss" if base.model.config.causal else "masked_loss"
    assert told[key] < json.loads(capsys.readouterr().out)[key]
    main(["export", "run", "--to", "huggingface", "--out", "merged"])
    merged = chainrule.load("merged", device="cpu", dtype="float32")
    with torch.no_grad():
        assert torch.equal(merged.model(tokens), lm.model(tokens))
    capsys.readouterr()
    if base.model.config.causal:
        main(["generate", "run", "the cat", "--max-tokens", "4", "--json"])
        assert len(json.loads(capsys.readouterr().out)["completions"]) == 1
    main(["info", "run", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["adapter_rank"], found["trained_for"]) == (4, "6 steps of 128 tokens")


@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_stopped_and_gone_on_with_it_ends_as_if_it_had_never_stopped(
    family: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_base(folder, family)
    main(command(family))
    with monkeypatch.context() as patch:
        advance = Run.advance

        def stopped(self: Run) -> Any:
            for progress in advance(self):
                if progress.step == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield progress

        patch.setattr(Run, "advance", stopped)
        with pytest.raises(SystemExit) as end:
            main(command(family, "stopped"))
    assert end.value.code == 128 + signal.SIGTERM
    chainrule.load("stopped")  # what was reached is an adapter already
    main(command(family, "stopped"))
    for name in ("adapter_model.safetensors", "adapter_config.json", "chainrule_adapter.json"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "run" / name).read_bytes()
    main(command(family, "stopped"))  # finished: nothing changes


def test_another_base_is_refused_when_it_is_loaded_and_when_it_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(folder, "qwen3")
    main(command("qwen3"))
    save_base(folder, "qwen3", seed=1)
    with pytest.raises(chainrule.ChainruleError, match="wanted the base model that the adapter was trained on"):
        chainrule.load("run")
    with pytest.raises(SystemExit) as end:
        main(command("qwen3"))
    assert end.value.code == 2 and "the weights of --from qwen3: wanted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("--train lora", "--train lora: wanted --from beside it"),
        ("--from qwen3 --rank 4", "--rank: wanted --train lora beside it, got full"),
        ("--from qwen3 --train lora --rank 0", "--rank: wanted a number above 0, got 0"),
        ("--from qwen3 --train lora --rank 99", "--rank: wanted at most 32 (the model's width), got 99"),
        ("--from qwen3 --train lora --optimizer muon", "--optimizer: wanted adamw with --train lora, got muon"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    asked: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(folder, "qwen3")
    with pytest.raises(SystemExit) as end:
        main(["pretrain", "text.txt", "--out", "run", "--steps", "1", *asked.split()])
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not (folder / "run").exists()
