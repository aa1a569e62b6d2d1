"""Finetuning on label words: it begins as zero-shot, learns, is saved and loaded, and goes on where it stopped."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MASKED, SHAPES, random_model

import chainrule
from chainrule.cli import main
from chainrule.finetuning.finetune import FinetuneOptions, finetune, open_finetuning
from chainrule.finetuning.language import LanguageFinetuning
from chainrule.finetuning.recipes import language_recipe
from chainrule.language_model import make_language_model
from chainrule.model.formats.adapter_files import read_adapter
from chainrule.prompting.in_context import zero_shot
from chainrule.prompting.prompted import Prompted
from chainrule.tasks.examples import Task
from chainrule.tokens.make import byte_tokenizer
from chainrule.training.words import LabelWords

WORDS = ("red", "green", "blue sky", "white", "x", "pink", "brown")  # of several tokens, and of one
TEXTS = ["a red thing", "so blue"]


def make_task(folder: Path, count: int = 2, template: str = "{text} is\\n{label}.", rows: int = 12) -> Task:
    lines = [
        {"text": f"{number} a {WORDS[number % count]}", "label": f"c{number % count}"} for number in range(rows * count)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = "\n".join(f'c{number} = "{WORDS[number]}"' for number in range(count))
    (folder / "task.toml").write_text(
        f'train = "rows.jsonl"\ntext = "text"\nlabel = "label"\n[prompt]\ntemplate = "{template}"\n'
        f"[prompt.words]\n{words}\n"
    )
    return Task.load(folder / "task.toml")


def save_base(folder: Path, family: str, seed: int = 0, context: int = 96) -> str:
    tokenizer = byte_tokenizer(mask=family in MASKED)
    model = random_model(family, tokenizer.vocabulary_size, context=context, seed=seed)
    make_language_model(model, tokenizer, family).save(folder / family)
    return str(folder / family)


def started(lm: Any, task: Task, **options: Any) -> LanguageFinetuning:
    finetuning = open_finetuning(lm, task, FinetuneOptions(by="words", dtype="float32", **options))
    assert isinstance(finetuning, LanguageFinetuning)
    return finetuning


@pytest.mark.parametrize("family", [*SHAPES, *MASKED])
@pytest.mark.parametrize("train", ["full", "lora"])
def test_without_a_step_it_is_zero_shot(family: str, train: Any, tmp_path: Path) -> None:
    task = make_task(tmp_path, 3)
    lm = chainrule.load(save_base(tmp_path, family), device="cpu", dtype="float32")
    expected = zero_shot(lm, task).predict_proba(TEXTS)
    np.testing.assert_array_equal(started(lm, task, train=train).current().predict_proba(TEXTS), expected)


@pytest.mark.parametrize("normalise", ["sum", "token", "byte"])
@pytest.mark.parametrize(("family", "count"), [("qwen3", 3), ("gpt2", 7), ("bert", 2), ("modernbert", 7)])
def test_it_learns_the_scores_that_zero_shot_compares(family: str, count: int, normalise: Any, tmp_path: Path) -> None:
    task = make_task(tmp_path, count)
    lm = chainrule.load(save_base(tmp_path, family), device="cpu", dtype="float32")
    finetuning = started(lm, task, train="lora", labels=14, normalise=normalise)
    expected = zero_shot(lm, task, normalise=normalise)
    np.testing.assert_array_equal(finetuning.current().predict_proba(TEXTS), expected.predict_proba(TEXTS))
    objective = finetuning._trainer and finetuning._trainer.objective
    assert isinstance(objective, LabelWords)
    rows = finetuning._examples.rows
    right = np.log(expected.predict_proba(rows))[np.arange(len(rows)), objective.texts.classes]
    with torch.no_grad():  # the loss is that of the predictor, without smoothing
        loss = objective.validate(finetuning._trained.transformer, objective.texts).loss
    assert loss == pytest.approx(-right.mean(), rel=1e-4)
    if normalise != "sum":
        assert np.abs(zero_shot(lm, task).predict_proba(rows) - expected.predict_proba(rows)).max() > 1e-3


def test_a_normalised_predictor_is_saved_loaded_and_told_from_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_task(tmp_path, 3)
    base = save_base(tmp_path, "qwen3")
    monkeypatch.chdir(tmp_path)
    asked = f"finetune {base} task.toml --train lora --labels 6 --epochs 1 --dtype float32 --out out".split()
    main([*asked, "--by", "words", "--normalise", "byte"])
    made = chainrule.load_classifier("out", device="cpu", dtype="float32")
    assert isinstance(made, Prompted) and made.asking.normalise == "byte"
    lm = chainrule.load("out", device="cpu", dtype="float32")
    same = zero_shot(lm, Task.load("task.toml"), normalise="byte")
    np.testing.assert_array_equal(made.predict_proba(TEXTS), same.predict_proba(TEXTS))
    capsys.readouterr()
    for more, message in (
        (["--by", "words", "--normalise", "token"], "normalise"),
        (["--normalise", "byte"], "--normalise: wanted --by words beside it"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*asked, *more])
        error = capsys.readouterr().err.strip()
        assert ended.value.code == 2 and message in error and "\n" not in error


@pytest.mark.parametrize(
    ("family", "count"), [("qwen3", 2), ("gpt2", 3), ("gemma3_text", 7), ("bert", 2), ("modernbert", 3)]
)
@pytest.mark.parametrize("train", ["full", "lora"])
def test_it_learns_and_leaves_the_model_as_it_was(family: str, count: int, train: Any, tmp_path: Path) -> None:
    task = make_task(tmp_path, count)
    lm = chainrule.load(save_base(tmp_path, family), device="cpu", dtype="float32")
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    finetuning = started(lm, task, train=train, epochs=6, labels=2 * count, learning_rate=3e-3)
    losses = [progress.loss for progress in finetuning.advance()]
    assert np.mean(losses[-2:]) < 0.9 * losses[0], losses
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    changed = finetuning.predictor().predict_proba(TEXTS) - zero_shot(lm, task).predict_proba(TEXTS)
    assert np.abs(changed).max() > 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("family", "train"), [("qwen3", "lora"), ("gpt2", "full"), ("bert", "lora"), ("bert", "full")])
def test_the_command_writes_a_predictor_that_is_loaded_predicts_and_is_exported(
    family: str, train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_task(tmp_path, 3)
    base = save_base(tmp_path, family)
    untouched = contents(tmp_path / family)
    monkeypatch.chdir(tmp_path)
    asked = f"finetune {base} task.toml --by words --train {train} --labels 12 --epochs 2 --dtype float32".split()
    main([*asked, "--out", "out", "--show", "2"])
    told = capsys.readouterr().out
    assert told.count("[r]|[e]|[d]") + told.count("[g]|[r]|[e]") + told.count("[b]|[l]|[u]") == 2 and "accuracy" in told
    assert contents(tmp_path / family) == untouched
    before = contents(tmp_path / "out")
    assert ("adapter_model.safetensors" in before) == (train == "lora") != ("model.safetensors" in before)
    made = chainrule.load_classifier("out", device="cpu", dtype="float32")
    assert isinstance(made, Prompted) and made.labels == ("c0", "c1", "c2") and made.columns == ("text",)
    expected = made.predict_proba(TEXTS)
    lm = chainrule.load("out", device="cpu", dtype="float32")  # a language model too
    np.testing.assert_array_equal(zero_shot(lm, Task.load("task.toml")).predict_proba(TEXTS), expected)
    main(["predict", "out", *TEXTS, "--json", "--dtype", "float32"])
    said = json.loads(capsys.readouterr().out)["predictions"]
    np.testing.assert_allclose([list(one["probabilities"].values()) for one in said], expected)
    main(["info", "out", "--json"])
    assert json.loads(capsys.readouterr().out)["finetuned"] == f"{train}, by words"
    made.save("again")
    assert [name for name, data in contents(tmp_path / "again").items() if before[name] != data] == []
    main(["export", "out", "--to", "huggingface", "--out", "merged"])
    merged = chainrule.load_classifier("merged", device="cpu", dtype="float32")
    np.testing.assert_array_equal(merged.predict_proba(TEXTS), expected)
    capsys.readouterr()
    main([*asked, "--out", "out"])
    assert "out is finished" in capsys.readouterr().err and contents(tmp_path / "out") == before

    with monkeypatch.context() as patch:
        advance = LanguageFinetuning.advance

        def stopped(self: LanguageFinetuning) -> Any:
            for progress in advance(self):
                if progress.step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield progress

        patch.setattr(LanguageFinetuning, "advance", stopped)
        with pytest.raises(SystemExit) as end:
            main([*asked, "--out", "stopped"])
    assert end.value.code == 128 + signal.SIGTERM and (tmp_path / "stopped" / "training" / "2").is_dir()
    main([*asked, "--out", "stopped"])
    assert contents(tmp_path / "stopped") == before


def test_from_64_labels_on_the_best_state_on_a_fifth_is_kept(tmp_path: Path) -> None:
    task = make_task(tmp_path, 2, rows=60)
    lm = chainrule.load(save_base(tmp_path, "qwen3"), device="cpu", dtype="float32")
    finetuning = started(lm, task, train="lora", labels=64, epochs=1, learning_rate=100.0)  # it can only get worse
    progress = list(finetuning.advance())
    assert sum(one.validation is not None for one in progress) >= 4
    changed = finetuning.predictor().predict_proba(TEXTS) - zero_shot(lm, task).predict_proba(TEXTS)
    best = finetuning._trainer and finetuning._trainer.best
    assert best is not None and all(not one.validation.better(best) for one in progress if one.validation is not None)
    assert np.isfinite(changed).all()


@pytest.mark.parametrize("train", ["full", "lora"])
def test_the_best_state_so_far_can_be_taken_while_the_training_goes_on(train: Any, tmp_path: Path) -> None:
    task = make_task(tmp_path, 2, rows=60)
    lm = chainrule.load(save_base(tmp_path, "qwen3"), device="cpu", dtype="float32")
    finetuning = started(lm, task, train=train, labels=64, epochs=1, learning_rate=100.0)
    trainer = finetuning._trainer
    assert trainer is not None
    advance = finetuning.advance()
    next(progress for progress in advance if progress.validation not in (None, trainer.best))  # a worse state
    trained = {name: x.clone() for name, x in trainer.model.named_parameters() if x.requires_grad}
    best = finetuning.current()
    probabilities = best.predict_proba(TEXTS)
    assert all(torch.equal(trainer.model.get_parameter(name), x) for name, x in trained.items())
    next(advance)
    np.testing.assert_array_equal(best.predict_proba(TEXTS), probabilities)


def test_the_recipe_is_a_function_of_labels_width_and_method() -> None:
    few, many = (language_recipe(n, 576, lora=True) for n in (16, 1024))
    assert (few.steps, few.batch_size) == (16, 8) and (many.steps, many.batch_size) == (268, 8)
    assert few.rate == many.rate == 10 * language_recipe(16, 576, lora=False).rate
    assert language_recipe(16, 64, lora=False, epochs=0.1, learning_rate=2.0) == language_recipe(
        16, 9, lora=True, epochs=0.1, learning_rate=2.0
    )


def test_a_task_without_prompt_or_words_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_task(tmp_path)
    base = save_base(tmp_path, "qwen3")
    text = (tmp_path / "task.toml").read_text()
    for changed, message in (
        (text.partition("[prompt]")[0], "prompting wants [prompt] and its template"),
        (text.replace('c0 = "red"\n', 'c0 = ""\n'), "wanted a word for 'c0', got ''"),
        (text.replace('c0 = "red"\n', 'c0 = "gre"\n'), "begins 'green'"),
        (text.replace("{text} is", "{text} " + 100 * "long "), "template: wanted at most 96 tokens (the context)"),
    ):
        (tmp_path / "task.toml").write_text(changed)
        with pytest.raises(SystemExit) as end:
            main(["finetune", base, str(tmp_path / "task.toml"), "--by", "words", "--out", str(tmp_path / "out")])
        told = capsys.readouterr()
        assert (end.value.code, told.err.count("\n")) == (2, 1) and message in told.err, told.err
        assert not (tmp_path / "out").exists()


def test_words_that_the_model_does_not_tell_apart_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    from chainrule.tokens.tokenizer import load_tokenizer

    inner = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1, "a": 2, "is": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<s>", "<unk>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "unk_token": "<unk>"}))
    lm = make_language_model(random_model("qwen3", 61), load_tokenizer(tmp_path), "qwen3")
    with pytest.raises(chainrule.ChainruleError, match="wanted words that this model tells apart, got the same tokens"):
        finetune(lm, make_task(tmp_path, template="{text} is {label}"), by="words")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "head", "by": "words"}, "wanted full or lora where the language model itself learns, got head"),
        ({"by": "letters"}, "by: wanted head or words, got 'letters'"),
        ({"chat": True}, "--chat: wanted --by words beside it"),
        ({"by": "words", "chat": True}, "wanted a model with a chat_template"),
        ({"by": "words", "train": "lora", "rank": 1000}, "--rank: wanted at most 32"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    lm = make_language_model(random_model("qwen3", 257, context=96), byte_tokenizer(), "qwen3")
    with pytest.raises(chainrule.ChainruleError, match=message):
        finetune(lm, make_task(tmp_path), **options)


def test_an_adapter_by_words_is_peft_s_and_of_its_base_alone(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    lm = chainrule.load(save_base(tmp_path, "qwen3"), device="cpu", dtype="float32")
    finetune(lm, task, by="words", train="lora", epochs=1, out=tmp_path / "out", dtype="float32")
    assert read_adapter(tmp_path / "out").fields["task_type"] == "CAUSAL_LM"
    save_base(tmp_path, "qwen3", seed=1)
    with pytest.raises(chainrule.ChainruleError, match="wanted the base model that the adapter was trained on"):
        chainrule.load_classifier(tmp_path / "out")
    (tmp_path / "out" / "chainrule.toml").write_text('[prompted]\nkind = "free"\n')
    with pytest.raises(chainrule.ChainruleError, match=r"chainrule.toml: wanted the prompt of a predictor"):
        chainrule.load_classifier(tmp_path / "out")
