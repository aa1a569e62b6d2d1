"""Every command that learns or uses classes, with 2, 3 and 7 of them, in every family: what it writes is read again, by
us and by transformers, and gone on with."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MASKED, SHAPES, random_model
from safetensors.torch import load_file

import chainrule
from chainrule.cli import main
from chainrule.finetuning.finetune import Finetuning
from chainrule.finetuning.head import solve_head
from chainrule.language_model import make_language_model
from chainrule.model.formats.checkpoint import save_weights
from chainrule.model.formats.classifier import Head
from chainrule.model.formats.families import FAMILIES as WRITTEN
from chainrule.tokens.make import byte_tokenizer

COLOURS = ("red", "green", "blue", "white", "black", "pink", "brown")
COUNTS = (2, 3, 7)
FAMILIES = (*SHAPES, *MASKED)
TEXTS = ["a red thing", "so blue"]
Ask = Callable[[str], Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of each family, and a task of each number of classes."""
    folder = tmp_path_factory.mktemp("classes")
    for family in FAMILIES:
        tokenizer = byte_tokenizer(mask=family in MASKED)
        model = random_model(family, tokenizer.vocabulary_size, context=64)
        make_language_model(model, tokenizer, family).save(folder / family)
    for count in COUNTS:
        rows = [(f"{number} a {COLOURS[number % count]} thing", COLOURS[number % count]) for number in range(6 * count)]
        for name, part in (("train", rows[: 4 * count]), ("test", rows[4 * count :])):
            with (folder / f"{name}{count}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("text", "colour"), *part])
        named = f'train = "train{count}.csv"\ntest = "test{count}.csv"\ntext = "text"\nlabel = "colour"\n'
        prompt = '[prompt]\ntemplate = "{text}: {label}"\n'
        (folder / f"task{count}.toml").write_text(named + prompt)
    return folder


@pytest.fixture
def answer(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Run a command among the files with --json: the one JSON document on standard output."""
    monkeypatch.chdir(files)

    def ask(command: str) -> Any:
        capsys.readouterr()
        main([*command.split(), "--json"])
        return json.loads(capsys.readouterr().out)

    return ask


def finetune(family: str, train: str, count: int, out: str) -> str:
    epochs = "" if train == "head" else "--epochs 4"
    return f"finetune {family} task{count}.toml --train {train} {epochs} --dtype float32 --out {out}"


@pytest.fixture(scope="module")
def classifier(files: Path) -> Callable[[str, str, int], str]:
    """The directory of a finetuned classifier, made at the first call."""

    @cache
    def made(family: str, train: str, count: int) -> str:
        out = f"{family}-{train}-{count}"
        here = Path.cwd()
        os.chdir(files)
        try:
            main(finetune(family, train, count, out).split())
        finally:
            os.chdir(here)
        return out

    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("train", ["head", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_of_any_family_and_number_of_classes_is_written_read_and_found_finished(
    family: str,
    train: str,
    count: int,
    classifier: Callable[[str, str, int], str],
    answer: Ask,
    files: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import transformers

    out = classifier(family, train, count)
    assert not (files / out / "training").exists()
    before = contents(files / out)
    labels = sorted(COLOURS[:count])

    told = answer(f"info {out}")
    assert (told["classes"], told["finetuned"]) == (", ".join(labels), train)
    main(finetune(family, train, count, out).split())
    assert f"{out} is finished" in capsys.readouterr().err
    assert contents(files / out) == before

    expected = chainrule.load_classifier(files / out, device="cpu", dtype="float32").predict_proba(TEXTS)
    assert expected.shape == (2, count)
    if not hasattr(transformers, WRITTEN[family].classifier):
        return  # transformers has no class that reads it
    pipeline: Any = transformers.pipeline("text-classification", str(files / out), top_k=None)
    theirs = [{each["label"]: each["score"] for each in row} for row in pipeline(TEXTS)]
    np.testing.assert_allclose([[row[label] for label in labels] for row in theirs], expected, atol=1e-5)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("train", ["head", "full", "lora"])
@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_predict_says_the_same_of_texts_and_of_files_of_every_kind(
    family: str, train: str, count: int, classifier: Callable[[str, str, int], str], answer: Ask, files: Path
) -> None:
    out = classifier(family, train, count)
    with (files / f"test{count}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    made = chainrule.load_classifier(files / out, device="cpu", dtype="float32")
    labels, expected = made.predict(rows), made.predict_proba(rows)
    (said,) = answer(f"predict {out} red --dtype float32")["predictions"]
    assert said["label"] == made.predict(["red"])[0]
    np.testing.assert_allclose([said["probabilities"][label] for label in made.labels], made.predict_proba(["red"])[0])
    for kind in ("csv", "tsv", "jsonl"):
        assert answer(f"predict {out} --dtype float32 --input test{count}.csv --out {out}.{kind}")["rows"] == len(rows)
        with (files / f"{out}.{kind}").open(newline="") as file:
            if kind == "jsonl":
                written: list[dict[str, Any]] = [json.loads(line) for line in file]
            else:
                written = list(csv.DictReader(file, delimiter="\t" if kind == "tsv" else ","))
        assert [row["prediction"] for row in written] == labels
        found = np.array([[float(row[f"probability of {label}"]) for label in made.labels] for row in written])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def stop_at_the_second_step(patch: pytest.MonkeyPatch) -> None:
    """Finetunings get SIGTERM there, as a user's `kill` sends it."""
    advance = Finetuning.advance

    def stopped(self: Finetuning) -> Any:
        for progress in advance(self):
            if progress.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield progress

    patch.setattr(Finetuning, "advance", stopped)


@pytest.mark.parametrize(
    ("family", "count"), [*((family, 7) for family in FAMILIES), ("qwen3", 2), ("qwen3", 3), ("bert", 3)]
)
def test_a_finetuning_that_was_stopped_ends_with_the_bits_of_one_that_was_not(
    family: str,
    count: int,
    classifier: Callable[[str, str, int], str],
    answer: Ask,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = classifier(family, "full", count)
    command = finetune(family, "full", count, f"{whole}-stopped")
    with monkeypatch.context() as patch:
        stop_at_the_second_step(patch)
        with pytest.raises(SystemExit) as end:
            main(command.split())
    assert end.value.code == 128 + signal.SIGTERM
    assert (files / f"{whole}-stopped" / "training" / "2").is_dir()
    assert not (files / f"{whole}-stopped" / "model.safetensors").exists()
    answer(command)
    assert contents(files / f"{whole}-stopped") == contents(files / whole)


def test_one_that_validates_and_was_stopped_ends_alike_too(
    answer: Ask, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"{number} a {COLOURS[number % 3]} thing", COLOURS[number % 3]) for number in range(84)]
    with (files / "many.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "colour"), *rows])
    command = "finetune gpt2 many.csv --text text --label colour --epochs 2 --dtype float32 --class-weights --out"
    answer(f"{command} many-whole")
    with monkeypatch.context() as patch:
        stop_at_the_second_step(patch)
        with pytest.raises(SystemExit):
            main(f"{command} many-stopped".split())
    assert list((files / "many-stopped" / "training" / "2").glob("best.safetensors"))
    answer(f"{command} many-stopped")
    assert contents(files / "many-stopped") == contents(files / "many-whole")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_prompting_and_the_task_file_know_all_classes(family: str, count: int, answer: Ask, files: Path) -> None:
    found = answer(f"task train{count}.csv --text text --label colour --model {family} --out written{count}.toml")
    assert [entry["label"] for entry in found["classes"]] == sorted(COLOURS[:count])
    for asked in (f"zero-shot {family} written{count}.toml", f"in-context {family} task{count}.toml --shots 2"):
        shown = answer(f"{asked} --show 1")
        assert shown["shown"][0]["probabilities"].keys() == set(COLOURS[:count])
        assert sum(shown["shown"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    (said,) = answer(f"predict {family} pinkish --task task{count}.toml --shots 1")["predictions"]
    assert said["probabilities"].keys() == set(COLOURS[:count])
    (files / f"written{count}.toml").unlink()


@pytest.mark.parametrize(("family", "count"), [("gpt2", 3), ("gpt2", 7), ("bert", 3)])
def test_compare_runs_every_kind_of_method_and_goes_on_from_its_rows(
    family: str, count: int, answer: Ask, files: Path
) -> None:
    methods = ["head", "full", "zero-shot", "in-context", "bag-of-words"]
    out = f"compared-{family}-{count}"
    command = f"compare {family} task{count}.toml --out {out} --seeds 1 --sizes {count} --methods"
    assert {row["method"] for row in answer(f"{command} head")["rows"]} == {"head"}
    found = answer(f"{command} {' '.join(methods)}")
    assert {row["method"] for row in found["rows"]} == set(methods)
    assert all(0 <= row["accuracy"] <= 1 for row in found["rows"])
    kept = contents(files / out)
    assert answer(f"{command} {' '.join(methods)}")["rows"] == found["rows"]
    assert contents(files / out)["rows.jsonl"] == kept["rows.jsonl"]
    shutil.rmtree(files / out)


def test_what_scikit_learn_solved_lies_in_memory_as_our_own_tensors_do() -> None:
    rng = np.random.default_rng(0)
    for count in COUNTS:
        classes = np.arange(6 * count) % count
        w = solve_head(rng.normal(size=(6 * count, 5)).astype(np.float32), classes, balanced=False, seed=0)
        assert w.shape == (count, 5)
        assert w.is_contiguous()


def test_a_head_owns_its_memory_layout_as_fused_optimizers_read_memory_as_it_lies() -> None:
    w = torch.arange(12.0).view(4, 3).T  # (3, 4), column after column
    head = Head(w)
    assert head.w.is_contiguous()
    assert torch.equal(head.w, w)


def test_tensors_of_any_memory_layout_are_saved_as_what_they_hold(tmp_path: Path) -> None:
    columns = torch.arange(12.0).view(4, 3).T
    save_weights({"w": columns, "part": torch.arange(12.0).view(3, 4)[:, 1:3]}, tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert torch.equal(found["w"], columns)
    assert found["part"].tolist() == [[1, 2], [5, 6], [9, 10]]


def test_a_model_whose_weights_lie_column_after_column_is_finetuned_alike(files: Path) -> None:
    task = chainrule.Task.load(files / "task3.toml")
    made = []
    for laid in (lambda weight: weight, lambda weight: weight.T.contiguous().T):
        lm = chainrule.load(files / "qwen3", device="cpu", dtype="float32")
        for parameter in lm.model.parameters():
            if parameter.ndim == 2:
                parameter.data = laid(parameter.data)
        made.append(chainrule.finetune(lm, task, epochs=3, dtype="float32"))
    for one, other in zip(made[0].features.model.parameters(), made[1].features.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(made[0].predict_proba(TEXTS), made[1].predict_proba(TEXTS), atol=1e-4)
