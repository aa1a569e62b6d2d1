"""What an earlier version wrote is read, and gone on with: tests/data/earlier/README.md tells how it was made."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule
from chainrule.cli import main

EARLIER = Path(__file__).parent / "data" / "earlier"
EXPECTED: dict[str, Any] = json.loads((EARLIER / "expected.json").read_text(encoding="utf-8"))

TINY = "--depth 1 --width 16 --heads 2 --batch-tokens 2048 --compile off --dtype float32"
RUN = f"pretrain - --out run --vocabulary-size 280 --tied --context 32 --steps 60 --validate-every 30 {TINY}"
CHARACTERS = f"pretrain - --out characters --tokenizer char --context 128 --steps 60 --validate-every 20 {TINY}"
INTERRUPTED = "finetune characters moods.toml --train full --seed 1 --dtype float32 --out interrupted"
METHODS = "--methods zero-shot in-context head bag-of-words"
COMPARE = f"compare characters moods.toml --out compared --sizes 4 16 {METHODS}"

Answer = Callable[..., Any]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was written, in which the commands are run; the text is on standard input, as it was."""
    copied = Path(shutil.copytree(EARLIER, tmp_path / "earlier"))
    monkeypatch.chdir(copied)
    text = io.TextIOWrapper(io.BytesIO((copied / "text.txt").read_bytes()), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", text)
    return copied


@pytest.fixture
def answer(capsys: Capture) -> Answer:
    """Run a command with --json: the one JSON document on standard output."""

    def ask(command: str, *arguments: str) -> Any:
        capsys.readouterr()
        main([*command.split(), *arguments, "--json"])
        return json.loads(capsys.readouterr().out)

    return ask


def told(command: str, capsys: Capture) -> str:
    """Run a command: what it tells on standard error."""
    capsys.readouterr()
    main(command.split())
    return capsys.readouterr().err


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def accuracies(rows: list[dict[str, Any]]) -> dict[tuple[str, int, int], float]:
    return {(row["method"], row["labels"], row["seed"]): row["accuracy"] for row in rows}


def results(folder: Path) -> dict[tuple[str, int, int], float]:
    """The accuracies in the results.json of a comparison."""
    return accuracies(json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"])


def of_seeds(seeds: int) -> dict[tuple[str, int, int], float]:
    """The accuracies that the earlier version came to with so many seeds."""
    return {key: value for key, value in accuracies(EXPECTED["compared"]).items() if key[2] < seeds}


def same_predictions(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    for one, before in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(before["probabilities"], abs=1e-4)


@pytest.mark.parametrize("name", ["run", "characters"])
def test_a_run_scores_and_continues_a_text_as_before(name: str, answer: Answer) -> None:
    expected, prompt = EXPECTED["models"][name], EXPECTED["prompt"]
    assert answer("score", name, EXPECTED["text"])["log_prob"] == pytest.approx(expected["log_prob"], abs=1e-4)
    made = answer("generate --temperature 0 --max-tokens 20", name, prompt)
    assert made["completions"][0]["text"] == expected["greedy"]
    lm = chainrule.load(name)
    assert lm.log_prob(EXPECTED["text"]) == pytest.approx(expected["log_prob"], abs=1e-4)
    assert lm.generate(prompt, temperature=0, max_tokens=20) == expected["greedy"]


def test_an_interrupted_run_goes_on_where_it_stopped(folder: Path, answer: Answer, capsys: Capture) -> None:
    expected, before = EXPECTED["gone on with"]["run"], (folder / "run" / "log.jsonl").read_bytes()
    assert "going on from step 30 of 60\n" in told(RUN, capsys)
    assert (folder / "run" / "log.jsonl").read_bytes().startswith(before)
    assert losses(folder / "run") == pytest.approx(expected["losses"], abs=1e-3)
    assert answer("score run", EXPECTED["text"])["log_prob"] == pytest.approx(expected["log_prob"], abs=1e-2)


def test_a_finished_run_is_finished(folder: Path, capsys: Capture) -> None:
    files = [folder / "characters" / name for name in ("log.jsonl", "model.safetensors", "run.toml")]
    before = [file.read_bytes() for file in files]
    assert "characters is finished (60 steps)" in told(CHARACTERS, capsys)
    assert [file.read_bytes() for file in files] == before


def test_a_run_is_where_another_starts_from(folder: Path, answer: Answer) -> None:
    more = answer("pretrain - --from characters --out more --steps 1 --batch-tokens 2048 --compile off --dtype float32")
    assert more["train_loss"] == pytest.approx(losses(folder / "characters")[-1], abs=0.1)


def test_shards_are_trained_on(folder: Path, answer: Answer) -> None:
    expected = EXPECTED["trained on shards"]
    answer(f"pretrain shards --out new --context 32 --steps 8 {TINY}")
    assert losses(folder / "new") == pytest.approx(expected["losses"], abs=1e-3)
    assert answer("score new", EXPECTED["text"])["log_prob"] == pytest.approx(expected["log_prob"], abs=1e-2)


def test_shards_of_the_same_text_are_not_made_again(folder: Path, answer: Answer) -> None:
    manifest = folder / "shards" / "manifest.json"
    fields = json.loads(manifest.read_text())
    (source,) = fields["sources"]
    source["path"] = str(folder / "text.txt")
    os.utime(folder / "text.txt", ns=(source["modified"], source["modified"]))
    manifest.write_text(json.dumps(fields))
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in manifest.parent.iterdir()}
    made = answer("tokenize text.txt --out shards --vocabulary-size 270")
    assert (made["documents"], made["tokens"]) == (fields["documents"], fields["tokens"])
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in manifest.parent.iterdir()} == before


@pytest.mark.parametrize("name", ["moods.toml", "colours.toml"])
def test_a_task_has_the_same_rows_and_labels(name: str) -> None:
    expected, task = EXPECTED["tasks"][name], chainrule.Task.load(name)
    assert list(task.labels) == expected["labels"]
    for part, examples in (("train", task.train), ("test", task.test)):
        rows = [[row[task.text[0]], label] for row, label in zip(examples.rows, examples.labels, strict=True)]
        assert rows == expected[part]


@pytest.mark.parametrize("name", ["head", "full", "colours"])
def test_a_classifier_predicts_as_before(name: str, answer: Answer) -> None:
    expected = EXPECTED["classifiers"][name]
    same_predictions(answer("predict", name, *EXPECTED["texts"])["predictions"], expected)
    classifier = chainrule.load_classifier(name)
    assert classifier.predict(EXPECTED["texts"]) == [one["label"] for one in expected]
    wanted = [[one["probabilities"][label] for label in classifier.labels] for one in expected]
    np.testing.assert_allclose(classifier.predict_proba(EXPECTED["texts"]), wanted, atol=1e-4)


@pytest.mark.parametrize("command", ["moods.toml --train head", "moods.toml --train full", "colours.toml --train head"])
def test_a_finished_finetuning_is_finished(command: str, folder: Path, capsys: Capture) -> None:
    name = "colours" if command.startswith("colours") else command.split()[-1]
    model = folder / name / "model.safetensors"
    before = (model.read_bytes(), model.stat().st_mtime_ns)
    assert f"{name} is finished" in told(f"finetune characters {command} --dtype float32 --out {name}", capsys)
    assert (model.read_bytes(), model.stat().st_mtime_ns) == before


def test_an_interrupted_finetuning_goes_on(answer: Answer) -> None:
    answer(INTERRUPTED)
    found = answer("predict interrupted", *EXPECTED["texts"])["predictions"]
    same_predictions(found, EXPECTED["gone on with"]["interrupted"])


def test_an_interrupted_finetuning_does_not_start_over(folder: Path, capsys: Capture) -> None:
    """The state that it goes on from is read: one that was altered is refused."""
    state = folder / "interrupted" / "training" / "30" / "optimizer.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(SystemExit):
        main(INTERRUPTED.split())
    assert "30/optimizer.safetensors: wanted the file that was saved" in capsys.readouterr().err


def test_a_finished_comparison_runs_no_row_again(folder: Path, answer: Answer) -> None:
    rows = folder / "compared" / "rows.jsonl"
    before = (rows.read_bytes(), rows.stat().st_mtime_ns)
    assert accuracies(answer(f"{COMPARE} --seeds 2")["rows"]) == of_seeds(2)
    assert (rows.read_bytes(), rows.stat().st_mtime_ns) == before
    assert results(folder / "compared") == of_seeds(2)


def test_a_comparison_goes_on_with_another_seed(folder: Path, answer: Answer) -> None:
    rows = folder / "compared" / "rows.jsonl"
    before = rows.read_bytes()
    answer(f"{COMPARE} --seeds 3")
    assert rows.read_bytes().startswith(before)
    assert rows.read_bytes().count(b"\n") == len(of_seeds(3)) > before.count(b"\n")
    assert results(folder / "compared") == of_seeds(3)


def test_a_row_of_a_comparison_that_a_kill_cut_short_is_run_again(folder: Path, answer: Answer) -> None:
    rows = folder / "compared" / "rows.jsonl"
    before = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join(before)[:-100])
    answer(f"{COMPARE} --seeds 2")
    after = rows.read_bytes().splitlines(keepends=True)
    assert after[:-1] == before[:-1]
    assert accuracies([json.loads(after[-1])]) == accuracies([json.loads(before[-1])])
    assert results(folder / "compared") == of_seeds(2)
