"""A classifier finetuned further: it starts from its head and weights; other labels, columns and ways are refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_model

import chainrule
from chainrule.cli import main
from chainrule.finetuning.classifier import Classifier
from chainrule.finetuning.finetune import FinetuneOptions, Finetuning, open_finetuning
from chainrule.finetuning.recipes import lora_recipe, recipe
from chainrule.language_model import make_language_model
from chainrule.tasks.examples import Examples, Task
from chainrule.tokens.make import byte_tokenizer

COLOURS = ("red", "green", "blue", "white", "black", "pink", "brown")
ROWS = ["a red thing", "so blue", "green 3"]


def write_rows(path: Path, colours: tuple[str, ...], column: str = "text") -> None:
    with path.open("w", newline="") as file:
        rows = [(f"{i} a {colours[i % len(colours)]} thing", colours[i % len(colours)]) for i in range(28)]
        csv.writer(file).writerows([(column, "colour"), *rows])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for family in ("qwen3", "bert"):
        tokenizer = byte_tokenizer(mask=family == "bert")
        model = random_model(family, tokenizer.vocabulary_size, context=64)
        make_language_model(model, tokenizer, family).save(tmp_path / family)
    for count in (2, 3, 7):
        write_rows(tmp_path / f"rows{count}.csv", COLOURS[:count])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(model: str, rows: str, out: str, more: str = "--train full --epochs 1") -> list[str]:
    return f"finetune {model} {rows} --text text --label colour --dtype float32 --out {out} {more}".split()


@pytest.mark.parametrize(
    ("family", "train", "count"), [("qwen3", "full", 3), ("bert", "lora", 2), ("qwen3", "lora", 7)]
)
def test_it_starts_as_the_classifier_is(family: str, train: str, count: int, folder: Path) -> None:
    main(command(family, f"rows{count}.csv", "first", f"--train {train} --epochs 1"))
    before = {path.name: path.read_bytes() for path in (folder / "first").iterdir()}
    first = chainrule.load_classifier("first", device="cpu", dtype="float32")
    assert isinstance(first, Classifier)
    main(command("first", "rows2.csv", "second"))  # on rows of some of the labels
    second = chainrule.load_classifier("second", device="cpu", dtype="float32")
    assert second.labels == first.labels
    assert np.abs(second.predict_proba(ROWS) - first.predict_proba(ROWS)).max() > 0
    assert {path.name: path.read_bytes() for path in (folder / "first").iterdir()} == before


def test_without_a_step_that_moves_anything_it_is_the_same_classifier(folder: Path) -> None:
    first = chainrule.finetune(
        chainrule.load("qwen3", device="cpu", dtype="float32"),
        chainrule.Task.load("rows3.csv", text="text", label="colour"),
        train="head",
    )
    assert isinstance(first, Classifier)
    task = chainrule.Task.load("rows3.csv", text="text", label="colour")
    finetuning = open_finetuning(first, task, FinetuneOptions("full", epochs=1, dtype="float32"))
    training = finetuning._training  # type: ignore[union-attr]
    assert training is not None
    rows = task.train.rows[:5]  # the embedding has the rows of tokens that occur there alone
    tokens = first.features.tokens([first.form(row) for row in rows])
    with torch.no_grad():
        for text, wanted in zip(tokens, first.predict_proba(rows), strict=True):
            ids = torch.from_numpy(np.asarray(text, np.int64))[None]
            found = training.model(ids, torch.tensor([ids.shape[1] - 1])).softmax(-1)[0].numpy()
            np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_step_on_a_few_rows_does_not_throw_a_finished_classifier_off(seed: int, folder: Path) -> None:
    lm = chainrule.load("qwen3", device="cpu", dtype="float32")
    task = chainrule.Task.load("rows3.csv", text="text", label="colour")
    first = chainrule.finetune(lm, task, train="head")
    assert isinstance(first, Classifier)
    rows, others = task.train.rows, chainrule.finetune(first, task, labels=16, epochs=1, seed=seed, dtype="float32")
    assert isinstance(others, Classifier)
    before, after = first.predict_proba(rows), others.predict_proba(rows)
    assert 0 < np.abs(after - before).max() < 0.2


def test_going_on_takes_a_tenth_of_the_rate_unless_another_is_named(folder: Path) -> None:
    lm = chainrule.load("qwen3", device="cpu", dtype="float32")
    task = chainrule.Task.load("rows3.csv", text="text", label="colour")
    first = chainrule.finetune(lm, task, train="head")
    rates = []
    for start, named in ((lm, None), (first, None), (first, 0.01)):
        finetuning = open_finetuning(start, task, FinetuneOptions("full", learning_rate=named, dtype="float32"))
        assert isinstance(finetuning, Finetuning)
        made = finetuning._recipe(20, 64)
        rates.append((made.rate, made.head_rate))
    assert rates[1] == pytest.approx([0.1 * rate for rate in rates[0]])
    assert rates[2] == pytest.approx((0.01, 0.1))


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_finetuning_of_a_few_steps_takes_none_at_the_peak_rate(train: str) -> None:
    make = lora_recipe if train == "lora" else recipe
    for n, epochs in ((16, 1.0), (4, 1.0), (16, 4.0)):
        made = make(n, 128, epochs=epochs, learning_rate=None, seed=0)
        assert made.schedule(0) <= 1 / 11
        assert max(map(made.schedule, range(made.steps))) < 1
    whole = make(16, 128, epochs=None, learning_rate=None, seed=0)
    assert max(map(whole.schedule, range(whole.steps))) == 1


def test_what_cannot_go_on_is_refused_in_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(command("qwen3", "rows2.csv", "first", "--train head"))
    write_rows(folder / "other.csv", COLOURS[:2], "said")
    capsys.readouterr()
    for asked, message in (
        (command("first", "rows3.csv", "no"), "wanted labels that MODEL has ('green', 'red'), got 'blue' too"),
        (command("first", "rows2.csv", "no", "--train lora"), "wanted --train full where MODEL is a classifier"),
        (command("first", "rows2.csv", "no", "--train head"), "wanted --train full where MODEL is a classifier"),
        ("finetune first other.csv --text said --label colour --out no".split(), "wanted one with the columns text"),
        (command("first", "rows2.csv", "no", "--bos x"), "--bos: wanted none"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(asked)
        error = capsys.readouterr().err.strip()
        assert ended.value.code == 2 and message in error and "\n" not in error
        assert not (folder / "no").exists()


def test_numbers_far_from_0_are_learned_without_losing_the_start() -> None:
    tokenizer, generator = byte_tokenizer(), np.random.default_rng(0)
    lm = make_language_model(random_model("qwen3", tokenizer.vocabulary_size, context=64), tokenizer, "qwen3")
    numbers = [float(20 + generator.normal()) for _ in range(80)]
    rows = [{"text": "a" * int(6 + 3 * (number - 20)) + f" thing {i}"} for i, number in enumerate(numbers)]
    examples = Examples(rows, numbers, [""] * len(rows))
    task = Task("regression", ("text",), "y", examples, examples, ())
    finetuning = open_finetuning(lm, task, FinetuneOptions("full", epochs=6, dtype="float32"))
    losses = [progress.loss for progress in finetuning.advance()]
    assert max(losses) < 2 * losses[0], "no step throws it far off"
    assert losses[-1] < losses[0]
