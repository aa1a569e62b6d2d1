"""Labels of a row that are several, or a number: what a file may hold, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chainrule.cli import main
from chainrule.tasks.answers import in_words, rarest_labels
from chainrule.tasks.examples import Task
from chainrule.tasks.task_file import read_task_file, task_file

SETS = [["a"], ["b", "a"], [], ["b"], ["c", "a"], []] * 5


def write_jsonl(path: Path, labels: list[object]) -> Path:
    path.write_text("".join(json.dumps({"text": f"row {n}", "label": one}) + "\n" for n, one in enumerate(labels)))
    return path


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def task_of(folder: Path, data: str, more: str = "", kind: str = "multilabel", label: str = '"label"') -> Task:
    content = f'kind = "{kind}"\ntrain = "{data}"\ntext = "text"\nlabel = {label}\n{more}'
    (folder / "task.toml").write_text(content)
    return Task.load(folder / "task.toml")


def test_lists_joined_labels_and_columns_of_0_and_1_are_the_same_task(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "lists.jsonl", SETS)
    for name, mark in (("bar", "|"), ("semicolon", "; ")):
        write_csv(tmp_path / f"{name}.csv", ["text", "label"], [[f"row {n}", mark.join(s)] for n, s in enumerate(SETS)])
    columns = [[f"row {n}", *(str(int(label in s)) for label in "abc")] for n, s in enumerate(SETS)]
    write_csv(tmp_path / "columns.csv", ["text", *"abc"], columns)
    reference = task_of(tmp_path, "lists.jsonl")
    assert reference.labels == ("a", "b", "c")
    others = [
        task_of(tmp_path, "bar.csv", "none = true"),
        task_of(tmp_path, "semicolon.csv", 'none = true\nlabel_separator = ";"'),
        task_of(tmp_path, "columns.csv", label='["a", "b", "c"]'),
    ]
    for other in others:
        assert other.labels == reference.labels and other.train.labels == reference.train.labels
        assert other.test.labels == reference.test.labels
    assert () in reference.train.labels and ("a", "b") in reference.train.labels
    targets = reference.targets(reference.train)
    assert [tuple(np.array(reference.labels)[row > 0]) for row in targets] == list(reference.train.labels)


def test_a_label_that_only_held_out_rows_would_have_stays_in_training(tmp_path: Path) -> None:
    labels: list[Any] = [["a"]] * 20 + [["a", "b", "x"], ["b"], ["b", "x", "c"], ["c"]]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(labels))
        write_jsonl(tmp_path / "rows.jsonl", [labels[index] for index in order])
        task = task_of(tmp_path, "rows.jsonl")
        assert task.labels == ("a", "b", "c", "x")


def test_strata_are_the_rarest_labels() -> None:
    assert rarest_labels([("a", "b"), ("a",), ("a",), ()]) == ["b", "a", "a", ""]


def test_subsets_of_any_size_can_be_learned_from(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", SETS)
    task = task_of(tmp_path, "rows.jsonl")
    assert [len(task.subset(n, 0)) for n in (1, 2, 9)] == [1, 2, 9]
    assert set(task.subset(4, 0).labels) <= set(task.subset(8, 0).labels)


BAD_SETS = [
    ([["a"], ["a", "a"]], "'label' has the label 'a' twice: remove one"),
    ([["a"], ["a", None]], r"wanted a list of labels in 'label', got None in it"),
    ([["a"], ["a", ""]], "wanted labels in 'label', got an empty one among them"),
    ([["a"], None], "wanted labels, 'label' is null: write none = true into the task file"),
    ([["a"], "a||b"], "wanted labels in 'label', got an empty one among them"),
    ([["a"], " "], "wanted labels, 'label' is empty: write none = true into the task file"),
    ([["a"], {"a": 1}], "wanted text in 'label', got an object"),
]


@pytest.mark.parametrize(("labels", "message"), BAD_SETS)
def test_labels_that_cannot_be_are_refused_with_their_row_or_skipped(
    labels: list[object], message: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [["a"], ["b"], *labels, *SETS])
    with pytest.raises(ValueError, match=message) as raised:
        task_of(tmp_path, "rows.jsonl")
    assert str(raised.value).startswith(f"{tmp_path / 'rows.jsonl'}:4: ")
    notes: list[str] = []
    task = Task.load(tmp_path / "task.toml", on_error="skip", log=notes.append)
    assert len(task.train) + len(task.test) == len(SETS) + 3 and "1 skipped" in notes[0].replace("were ", "")


def test_an_unknown_label_among_the_test_rows_is_refused_by_name_and_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", SETS)
    write_jsonl(tmp_path / "test.jsonl", [["a"], ["a", "z"]])
    (tmp_path / "test.jsonl").write_text((tmp_path / "test.jsonl").read_text().replace("row", "other"))
    with pytest.raises(ValueError, match=r"test\.jsonl:2: no training row has the label 'z': correct it"):
        task_of(tmp_path, "rows.jsonl", 'test = "test.jsonl"')


def test_no_labels_at_all_and_columns_that_are_not_0_and_1_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [[]] * 9)
    with pytest.raises(ValueError, match="wanted labels in 'label', found none in any row"):
        task_of(tmp_path, "rows.jsonl")
    rows = [[f"row {n}", str(n % 2), "0"] for n in range(9)]
    write_csv(tmp_path / "rows.csv", ["text", "a", "b"], rows)
    with pytest.raises(ValueError, match="'b' is 0 in each row to learn from: leave the column out"):
        task_of(tmp_path, "rows.csv", label='["a", "b"]')
    write_csv(tmp_path / "rows.csv", ["text", "a", "b"], [*rows, ["row 9", "2", "1"]])
    with pytest.raises(ValueError, match=r"rows\.csv:11: wanted 0 or 1 in 'a', got '2'"):
        task_of(tmp_path, "rows.csv", label='["a", "b"]')


@pytest.mark.parametrize("written", ["three", "nan", "inf", "-Infinity", "1_000", "1,5", "", "0x10", "٣"])
def test_what_is_no_number_is_refused_with_its_row_or_skipped(written: str, tmp_path: Path) -> None:
    rows = [[f"row {n}", str(n / 2)] for n in range(9)]
    write_csv(tmp_path / "rows.csv", ["text", "label"], [*rows, ["row 9", written]])
    with pytest.raises(ValueError, match=r"wanted a (number|label)") as raised:
        task_of(tmp_path, "rows.csv", kind="regression")
    assert str(raised.value).startswith(f"{tmp_path / 'rows.csv'}:11: ")
    notes: list[str] = []
    task = Task.load(tmp_path / "task.toml", on_error="skip", log=notes.append)
    assert len(task.train) + len(task.test) == 9 and notes
    assert all(isinstance(number, float) for number in task.train.labels) and task.labels == ()


def test_numbers_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", ["text", "label"], [[f"row {n}", "3"] for n in range(9)])
    with pytest.raises(ValueError, match=r"wanted different numbers in 'label', got 3\.0 in each row"):
        task_of(tmp_path, "rows.csv", kind="regression")


BAD_SETTINGS = [
    ('kind = "classification"\nlabel = ["a", "b"]', "label: wanted one column, got 'a', 'b'"),
    ('kind = "regression"\nlabel = "a"\nnone = true', "none: wanted no none where the kind is 'regression'"),
    ('kind = "multilabel"\nlabel = ["a", "a"]', "label: the column 'a' occurs 2 times"),
    ('kind = "multilabel"\nlabel = "a"\nnone = 1', "none: wanted true or false, got 1"),
    ('kind = "multilabel"\nlabel = "a"\nlabel_separator = " "', "label_separator: wanted a mark"),
    ('kind = "multilabel"\nlabel = "a"\n[prompt]\ntemplate = "{text} {label}"', r"\[prompt\]: wanted none where the"),
    ('kind = "multilabel"\nlabel = ["a", "text"]', "text: 'text' is the label's column"),
]


@pytest.mark.parametrize(("content", "message"), BAD_SETTINGS)
def test_settings_that_contradict_the_kind_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(f'train = "a.csv"\ntext = "text"\n{content}\n')
    with pytest.raises(ValueError, match=message):
        read_task_file(tmp_path / "task.toml")


@pytest.mark.parametrize(
    "options",
    ["--label label --kind multilabel --none --label-separator ;", "--label a b --kind multilabel",
     "--label a --kind regression"],
)  # fmt: skip
def test_the_task_command_writes_a_file_that_reads_back(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [[f"row {n}", ";".join(labels), str(n % 2), str(n % 3 % 2)] for n, labels in enumerate(SETS)]
    write_csv(tmp_path / "rows.csv", ["text", "label", "a", "b"], rows)
    main(f"task rows.csv --text text {options} --out task.toml".split())
    settings = read_task_file(tmp_path / "task.toml")
    assert settings == read_task_file(tmp_path / "task.toml")
    written = (tmp_path / "task.toml").read_text()
    assert task_file(settings, (), tmp_path) == written and "[prompt]" not in written
    shown = capsys.readouterr().out
    assert ("mean" in shown) == ("regression" in options) and ("without a label" in shown) == ("multi" in options)


def test_answers_in_words() -> None:
    assert [in_words(one) for one in (("a", "b"), (), 2.0, "x")] == ["a, b", "none", "2", "x"]
