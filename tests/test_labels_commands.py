"""The commands of who has labels: what they answer, and one line for what they cannot use."""

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chainrule.cli import main

Capture = pytest.CaptureFixture[str]
TINY = "--depth 1 --width 16 --heads 2 --context 64 --batch-tokens 64 --compile off --dtype float32".split()
WORDS = {"good": ("fine", "warm"), "bad": ("grim", "dull")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and labelled rows under columns that a task names."""
    folder = tmp_path_factory.mktemp("labels")
    rows = [(f"a {WORDS[label][index % 2]} day {index}", label) for index in range(40) for label in WORDS]
    with (folder / "days.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("day", "mood"), *rows])
    (folder / "text.txt").write_text(" ".join(f"{text} {label}" for text, label in rows))
    out = ["--out", str(folder / "run"), "--tokenizer", "byte", "--steps", "4", *TINY]
    main(["pretrain", str(folder / "text.txt"), *out])
    return folder


@pytest.fixture
def answer(files: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Run a command among the files with --json: the one JSON document on standard output."""
    monkeypatch.chdir(files)

    def ask(command: str) -> Any:
        capsys.readouterr()
        main([*command.split(), "--json"])
        return json.loads(capsys.readouterr().out)

    return ask


@pytest.fixture
def mistake(files: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Run a command that must end with exit status 2 and one line: that line."""
    monkeypatch.chdir(files)

    def ask(command: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(command.split())
        told = capsys.readouterr()
        assert end.value.code == 2
        assert told.out == ""
        assert told.err.count("\n") == 1
        return told.err

    return ask


DAYS = "days.csv --text day --label mood"


def test_task_writes_a_file_that_the_other_commands_read(answer: Callable[[str], Any], files: Path) -> None:
    found = answer(f"task {DAYS} --out days.toml --model run")
    assert [entry["label"] for entry in found["classes"]] == ["bad", "good"]
    assert found["train"] + found["test"] == 80
    assert found["prompt"].startswith("⊥|")
    assert answer("zero-shot run days.toml --limit 8")["n"] == 8
    (files / "days.toml").unlink()


@pytest.mark.parametrize("verb", ["zero-shot run", "in-context run --shots 2", "in-context run --shots 1 --seeds 2"])
def test_prompting_answers_with_accuracy_interval_n_and_chance(verb: str, answer: Callable[[str], Any]) -> None:
    name, model, *options = verb.split()
    found = answer(f"{name} {model} {DAYS} --limit 10 {' '.join(options)}")
    assert found.keys() >= {"accuracy", "interval", "n", "chance", "seconds"}
    low, high = found["interval"]
    assert 0 <= low <= found["accuracy"] <= high <= 1
    assert found["n"] == 10


def test_zero_shot_is_in_context_with_no_demonstrations(answer: Callable[[str], Any]) -> None:
    zero, none = answer(f"zero-shot run {DAYS} --limit 12"), answer(f"in-context run {DAYS} --shots 0 --limit 12")
    assert (zero["accuracy"], zero["interval"]) == (none["accuracy"], none["interval"])


def test_the_words_that_were_said_are_told(answer: Callable[[str], Any]) -> None:
    found = answer(f"zero-shot run {DAYS} --answer vocabulary --limit 6")
    assert sum(found["answers"].values()) == 6


def test_show_prints_exact_prompts(answer: Callable[[str], Any]) -> None:
    shown = answer(f"zero-shot run {DAYS} --limit 6 --show 2")["shown"]
    assert len(shown) == 2
    assert all("a " in one["prompt"] and one["probabilities"].keys() == set(WORDS) for one in shown)


@pytest.mark.parametrize("train", ["head", "full"])
def test_finetune_writes_a_classifier_that_predict_reads(train: str, answer: Callable[[str], Any], files: Path) -> None:
    epochs = "" if train == "head" else "--epochs 2"
    command = f"finetune run {DAYS} --train {train} {epochs} --out {train}"
    found = answer(command)
    assert found["n"] == 16
    assert found["training_seconds"] > 0
    again = answer(command)  # nothing is trained again
    assert again.keys() == found.keys() - {"training_seconds"}
    made = answer(f"predict {train} fine grim")["predictions"]
    assert [set(one["probabilities"]) for one in made] == [set(WORDS)] * 2
    for kind in ("csv", "jsonl"):
        assert answer(f"predict {train} --input days.csv --out {train}.{kind}")["rows"] == 80
    with (files / f"{train}.csv").open() as file:
        tabled = list(csv.DictReader(file))
    lined = [json.loads(line) for line in (files / f"{train}.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in tabled] == [row["prediction"] for row in lined]
    assert [row["mood"] for row in tabled] == [*WORDS] * 40
    for row in lined:
        assert row["probability of good"] + row["probability of bad"] == pytest.approx(1, abs=1e-5)


def test_seconds_say_what_they_were_spent_on(files: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    main(f"zero-shot run {DAYS} --limit 4".split())
    assert re.search(r"\), tested in \d+\.\d s$", capsys.readouterr().out.strip())
    main(f"finetune run {DAYS} --train head --limit 4 --out timed".split())
    assert re.search(r"\), trained in \d+\.\d s, tested in \d+\.\d s$", capsys.readouterr().out, re.MULTILINE)


def test_finetune_names_a_command_that_takes_rows_where_these_have_several_columns(
    files: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    Path("two.csv").write_text("a,b,same\n" + "".join(f"x{row},y{row},{row % 2}\n" for row in range(20)))
    main([*"finetune run two.csv --text a b --label same --train head --out".split(), "my two"])
    told = capsys.readouterr().out.strip()
    assert told.endswith("Use it: chainrule predict 'my two' --input rows.csv --out labelled.csv")
    with pytest.raises(SystemExit):
        main(["predict", "my two", "fine"])
    assert "wanted rows with the columns 'a', 'b', got a text alone; give a file" in capsys.readouterr().err
    main(f"finetune run {DAYS} --train head --out one".split())
    assert capsys.readouterr().out.strip().endswith('Use it: chainrule predict one "some text"')


def test_the_spread_is_printed_in_points_of_accuracy(answer: Callable[[str], Any], capsys: Capture) -> None:
    command = f"in-context run {DAYS} --shots 2 --limit 12 --spread"
    spread = answer(command)["spread"]
    main(command.split())
    told = "  ".join(f"{name} {100 * deviation:.1f}" for name, deviation in spread.items())
    assert f"Standard deviation in points of accuracy due to: {told}\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def classifier(files: Path) -> str:
    task = [str(files / "days.csv"), "--text", "day", "--label", "mood"]
    main(["finetune", str(files / "run"), *task, "--train", "head", "--out", str(files / "moods")])
    return "moods"


def test_info_tells_of_a_classifier(classifier: str, answer: Callable[[str], Any]) -> None:
    found = answer(f"info {classifier}")
    assert (found["classes"], found["finetuned"], found["labels"]) == ("bad, good", "head", "all")


def test_info_of_a_classifier_that_names_no_classes_is_one_line(
    classifier: str, mistake: Callable[[str], str], files: Path
) -> None:
    shutil.copytree(files / classifier, files / "nameless")
    path = files / "nameless" / "config.json"
    fields = json.loads(path.read_text())
    del fields["id2label"]
    path.write_text(json.dumps(fields))
    assert "wanted id2label to name the classes" in mistake("info nameless")
    shutil.rmtree(files / "nameless")


def test_a_jsonl_keeps_its_values_as_they_are(classifier: str, answer: Callable[[str], Any], files: Path) -> None:
    rows = [{"day": "a fine day", "stars": 4, "tags": ["x", None]}, {"day": "a grim day", "stars": 1.5, "seen": None}]
    (files / "values.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer(f"predict {classifier} --input values.jsonl --out valued.jsonl")
    made = [json.loads(line) for line in (files / "valued.jsonl").read_text().splitlines()]
    for row, came in zip(made, rows, strict=True):
        assert {name: value for name, value in row.items() if name in came} == came
        assert row["prediction"] in WORDS


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("half.jsonl", '{"day": "fine"}\n\n{"day": "gr', "half.jsonl:3: not JSON"),
        ("empty.csv", "day,stars\nfine,3\n ,2\n", "empty.csv:3: wanted a text, 'day' is empty"),
        ("other.csv", "date,stars\nfine,3\n", "other.csv:2: no column 'day', only 'date', 'stars'"),
        ("null.jsonl", '{"day": "fine"}\n{"day": null}\n', "null.jsonl:2: 'day' is null"),
        ("list.jsonl", '{"day": ["fine"]}\n', "list.jsonl:1: wanted text in 'day', got a list"),
        ("short.csv", "day,stars\nfine,3\ngrim\n", "short.csv:3: wanted 2 columns, got 1"),
        ("taken.csv", "day,prediction\nfine,3\n", "taken.csv:2: wanted rows without a column 'prediction'"),
    ],
)
def test_a_row_that_cannot_be_labelled_is_named_by_file_and_line_and_nothing_is_written(
    name: str, content: str, told: str, classifier: str, mistake: Callable[[str], str], files: Path
) -> None:
    (files / name).write_text(content)
    assert told in mistake(f"predict {classifier} --input {name} --out never.csv")
    assert not list(files.glob("*never*"))


def test_with_on_error_skip_a_row_without_text_keeps_its_place(
    classifier: str, answer: Callable[[str], Any], files: Path, capsys: Capture
) -> None:
    (files / "gaps.csv").write_text("day,stars\nfine,3\n ,2\ngrim\nwarm,1\n")
    found = answer(f"predict {classifier} --input gaps.csv --out gapped.tsv --on-error skip")
    assert (found["rows"], found["empty"]) == (4, 2)
    with (files / "gapped.tsv").open() as file:
        made = list(csv.DictReader(file, delimiter="\t"))
    assert [row["prediction"] in WORDS for row in made] == [True, False, False, True]
    assert [row["stars"] for row in made] == ["3", "2", "", "1"]
    main(["predict", classifier, "--input", "gaps.csv", "--out", "gapped.csv", "--on-error", "skip"])
    assert "rows without a prediction: 2, the first because of gaps.csv:3: wanted a text" in capsys.readouterr().err


def test_each_line_of_standard_input_has_its_answer(
    classifier: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, files: Path
) -> None:
    monkeypatch.chdir(files)
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("fine\n\ngrím\u2028day\n".encode("utf-16"))))
    main(["predict", classifier, "-"])
    told = capsys.readouterr()
    labels = [json.loads(line)["label"] for line in told.out.splitlines()]
    assert [label in WORDS for label in labels] == [True, False, True] and labels[1] is None
    assert "rows without a prediction: 1, the first because of -:2: wanted a text" in told.err


def test_the_encoding_of_rows_is_an_option_and_goes_into_the_task_file(
    classifier: str, answer: Callable[[str], Any], mistake: Callable[[str], str], files: Path
) -> None:
    (files / "latin.csv").write_bytes((files / "days.csv").read_bytes().replace(b" day ", b" d\xe4y "))
    latin = "latin.csv --text day --label mood"
    told = mistake(f"zero-shot run {latin} --limit 4")
    assert "latin.csv: byte 18 is not utf-8: name the file's encoding, as in --encoding cp1252" in told
    assert answer(f"zero-shot run {latin} --limit 4 --encoding latin-1")["n"] == 4
    assert answer(f"predict {classifier} --input latin.csv --out latin.jsonl --encoding latin-1")["rows"] == 80
    assert "a fine däy 0" in (files / "latin.jsonl").read_text()
    answer(f"task {latin} --encoding latin-1 --out latin.toml")
    assert 'encoding = "latin-1"' in (files / "latin.toml").read_text()
    assert answer("predict run fine --task latin.toml --shots 2")["predictions"]
    assert "--encoding: wanted --input, --task or -" in mistake(f"predict {classifier} fine --encoding latin-1")


def test_predict_asks_a_language_model_by_a_task(answer: Callable[[str], Any]) -> None:
    made = answer(f"predict run fine grim --task {DAYS} --shots 2")["predictions"]
    assert all(one["label"] in WORDS for one in made)


def test_compare_goes_on_from_the_rows_it_has_and_writes_its_report(answer: Callable[[str], Any], files: Path) -> None:
    command = f"compare run {DAYS} --out compared --methods majority bag-of-words head --sizes 4 --seeds 2"
    found = answer(command)
    assert {row["method"] for row in found["rows"]} == {"majority", "bag-of-words", "head"}
    assert found["advice"]
    assert "<html" in (files / "compared" / "report.html").read_text()
    rows = (files / "compared" / "rows.jsonl").read_bytes()
    assert answer(command)["rows"] == found["rows"]
    assert (files / "compared" / "rows.jsonl").read_bytes() == rows


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("zero-shot run days.csv", "--text and --label"),
        ("zero-shot run days.csv --text day --label joy", "'joy'"),
        ("zero-shot run nowhere.toml", "no such file"),
        (f"in-context run {DAYS} --shots 1000", ": --shots: wanted from 0 to 64"),
        (f"in-context run {DAYS} --by bm25", ": --by: wanted --select nearest beside it"),
        (f"zero-shot run {DAYS} --answer vocabulary --calibrate train", ": --calibrate: wanted none where answers"),
        (f"zero-shot run {DAYS} --answer vocabulary --normalise token", ": --normalise: wanted sum where answers"),
        (f"zero-shot run {DAYS} --chat", ": --chat: wanted a model with a chat_template"),
        (f"in-context run {DAYS} --seeds 0", "--seeds"),
        (f"finetune run {DAYS} --out new --labels 1", ": --labels: wanted from 2"),
        (f"finetune run {DAYS} --out new --train head --epochs 4", ": --epochs: wanted --train full or lora beside it"),
        (f"finetune run {DAYS} --out new --train head --learning-rate 1", ": --learning-rate: wanted --train full or"),
        (f"finetune run {DAYS} --out new --train head --dtype bfloat16", ": --dtype: wanted --train full or lora"),
        (f"finetune run {DAYS} --out new --rank 2", ": --rank: wanted --train lora beside it, got full; add it"),
        (f"finetune run {DAYS} --out new --learning-rate 0", ": --learning-rate: wanted a positive number"),
        (f"finetune run {DAYS} --out new --chat", ": --chat: wanted --by words beside it"),
        (f"finetune run {DAYS} --out new --by words --train head", ": --train: wanted full or lora where"),
        ("predict run fine", "wanted a classifier"),
        ("predict run", "give one of them"),
        ("predict run fine --shots 2", "--shots"),
        (f"task {DAYS} --none --out new.toml", ": --none: wanted --kind multilabel beside it"),
        (f"task {DAYS} --label-separator ; --out new.toml", ": --label-separator: wanted --kind multilabel beside it"),
        ("predict run fine --longer refuse", "--longer: wanted a --task beside it"),
        ("predict run fine --text day", "--text: wanted a --task beside it"),
        (f"predict run --task {DAYS} --input days.csv --out days.txt", ".csv, .tsv or .jsonl"),
        (f"compare run {DAYS} --out new --methods magic", ": --methods: wanted some of"),
        (f"compare run {DAYS} --out new --sizes 1", ": --sizes: wanted 0, or from 2"),
        (f"compare run {DAYS} --out new --minutes 0", ": --minutes: wanted a time above 0"),
        (f"task {DAYS} --out days.csv", ".toml"),
        ("predict run fine", "finetune it first, or prompt it with predict --task"),
    ],
)
def test_what_cannot_be_used_is_one_line(command: str, told: str, mistake: Callable[[str], str], files: Path) -> None:
    before = sorted(path.name for path in files.iterdir())
    assert told in mistake(command)
    assert sorted(path.name for path in files.iterdir()) == before
