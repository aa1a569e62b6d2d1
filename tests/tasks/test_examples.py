"""Tasks from files: rows, classes, splits, and subsets of N labels."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.splits import hold_out, stratified_order

SST2 = Path(__file__).parents[3] / "shared" / "data" / "sst2"
LABELS = ["good", "bad", "good", "fair"] * 25


def rows(labels: list[str] = LABELS, **columns: list[Any]) -> list[dict[str, Any]]:
    texts = [f"film {number}" for number in range(len(labels))]
    names = ["text", "label", *columns]
    return [dict(zip(names, row, strict=True)) for row in zip(texts, labels, *columns.values(), strict=True)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        mark = {".csv": ",", ".tsv": "\t"}[path.suffix]
        path.write_text("".join(mark.join(line) + "\n" for line in [list(rows[0]), *(r.values() for r in rows)]))
    return path


def write_task(folder: Path, toml: str, **files: list[dict[str, Any]]) -> Path:
    for name, content in files.items():
        write(folder / f"{name}.jsonl", content)
    path = folder / "task.toml"
    path.write_text('train = "train.jsonl"\ntext = "text"\nlabel = "label"\n' + toml, encoding="utf-8")
    return path


# Files.


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_each_kind_of_file_gives_the_same_task(suffix: str, tmp_path: Path):
    reference = Task.load(write(tmp_path / "a.jsonl", rows()), text="text", label="label")
    task = Task.load(write(tmp_path / f"b.{suffix}", rows()), text=["text"], label="label")
    assert task.labels == ("bad", "fair", "good")
    assert (task.train.rows, task.train.labels) == (reference.train.rows, reference.train.labels)
    assert (task.test.rows, task.test.labels) == (reference.test.rows, reference.test.labels)
    first = task.train.rows[0]
    line = int(first["text"].split()[1]) + (2 if suffix in ("csv", "tsv") else 1)
    assert task.train.sources[0] == f"{tmp_path / f'b.{suffix}'}:{line}"


def test_the_paths_of_a_task_file_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_task(tmp_path, 'test = "test.jsonl"', train=rows(), test=[{"text": "new", "label": "bad"}])
    monkeypatch.chdir("/")
    task = Task.load(path)
    assert (len(task.train), len(task.test), task.prompt, task.path) == (100, 1, None, path)


def test_a_file_without_a_header_is_given_its_columns(tmp_path: Path):
    (tmp_path / "a.tsv").write_text("fine\tgood\ndull\tbad\ngreat\tgood\nsad\tbad\n")
    (tmp_path / "task.toml").write_text('train="a.tsv"\ncolumns=["film","verdict"]\ntext="film"\nlabel="verdict"')
    task = Task.load(tmp_path / "task.toml")
    assert len(task.train) + len(task.test) == 4
    assert set(task.train.rows[0]) == {"film", "verdict"}


def test_labels_compare_as_strings(tmp_path: Path):
    train = [{"text": "a", "label": 1}, {"text": "b", "label": "1"}, {"text": "c", "label": True}]
    path = write_task(tmp_path, 'test = "test.jsonl"', train=train, test=[{"text": "d", "label": "true"}])
    assert Task.load(path).labels == ("1", "true")


def test_of_free_answers_any_may_come(tmp_path: Path):
    test = [{"text": "2 + 2", "label": "4"}]
    path = write_task(tmp_path, 'kind = "free"\ntest = "test.jsonl"', train=rows()[:1], test=test)
    task = Task.load(path)
    assert (task.labels, task.smallest, task.test.labels) == ((), 4, ["4"])
    assert len(task.subset(1, seed=0)) == 1


def test_rows_of_the_test_are_dropped_from_train_and_counted(tmp_path: Path):
    again = [{"text": "film 3", "label": "good"}, {"text": "film 4", "label": "good"}, {"text": "x", "label": "bad"}]
    task = Task.load(write_task(tmp_path, 'test = "test.jsonl"', train=rows(), test=again))
    assert task.dropped == 2
    assert len(task.train) == 98
    assert not {"film 3", "film 4"} & {row["text"] for row in task.train.rows}


def test_overlap_is_of_all_text_columns(tmp_path: Path):
    train = rows(title=["a"] * 100)
    test = [{"text": "film 3", "title": "b", "label": "good"}]
    path = write_task(tmp_path, 'test = "test.jsonl"', train=train, test=test)
    assert Task.load(path).dropped == 1
    path.write_text(path.read_text().replace('text = "text"', 'text = ["text", "title"]'))
    assert Task.load(path).dropped == 0


# Bad input.


def bad(tmp_path: Path, message: str, toml: str = "", **files: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        Task.load(write_task(tmp_path, toml, **files))
    assert "\n" not in str(raised.value)


def test_a_test_label_that_training_never_saw_is_named_with_its_line(tmp_path: Path):
    test = [{"text": "x", "label": "bad"}, {"text": "y", "label": "awful"}]
    bad(
        tmp_path,
        r"test\.jsonl:2: no training row has the label",
        'test = "test.jsonl"',
        train=rows(),
        test=test,
    )


def test_one_class_is_no_task(tmp_path: Path):
    bad(tmp_path, r"train\.jsonl: wanted two classes or more in 'label', found only 'good'", train=rows(["good"] * 9))


def test_an_empty_text_or_label_is_named_with_its_line(tmp_path: Path):
    bad(tmp_path, r"train\.jsonl:2: wanted a text, 'text' is empty", train=[*rows()[:1], {"text": " ", "label": "a"}])
    bad(tmp_path, r"train\.jsonl:1: wanted a label, 'label' is empty", train=[{"text": "a", "label": ""}])
    one = 'text = ["text", "title"]'
    path = write_task(tmp_path, "", train=rows(title=[""] * 100))
    path.write_text(path.read_text().replace('text = "text"', one))
    assert len(Task.load(path).train) == 80, "one of several texts may be empty"


def test_a_null_text_or_label_is_told_as_such(tmp_path: Path):
    three = rows(["good", "bad", "good"])
    for column, value in (("text", None), ("label", None), ("label", float("nan"))):
        bad(
            tmp_path, rf"train\.jsonl:4: '{column}' is null", train=[*three, {"text": "a", "label": "b", column: value}]
        )
    bad(tmp_path, r"train\.jsonl:1: 'author' is null", 'group = "author"', train=rows(["good"], author=[None]))


def test_a_label_or_text_that_is_no_text_is_refused_by_type(tmp_path: Path):
    for column in ("text", "label"):
        row = {"text": "a", "label": "b", column: ["x"]}
        bad(tmp_path, rf"train\.jsonl:1: wanted text in '{column}', got a list", train=[row])
        (tmp_path / "a").mkdir(exist_ok=True)
        path = write(tmp_path / "a" / "a.parquet", [row])
        with pytest.raises(ValueError, match=rf"a\.parquet:1: wanted text in '{column}', got a list"):
            Task.load(path, text="text", label="label")


def test_rows_that_are_wrong_are_skipped_and_counted_when_asked(tmp_path: Path):
    wrong: list[dict[str, Any]] = [
        {"text": None, "label": "bad"},
        {"text": "x", "label": None},
        {"text": "y"},
        {"text": "z", "label": " "},
    ]
    path = write_task(tmp_path, "", train=[*rows(), *wrong])
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("{broken\n")
    said: list[str] = []
    task = Task.load(path, on_error="skip", log=said.append)
    assert len(task.train) + len(task.test) == 100
    train = tmp_path / "train.jsonl"
    told = f"{train}: of 105 rows 5 skipped, the first because of {train}:101: 'text' is null"
    assert said == [told]
    with pytest.raises(ValueError, match=r"101: 'text' is null"):
        Task.load(path)
    with pytest.raises(ValueError, match="--on-error: wanted stop or skip, got 'go'"):
        Task.load(path, on_error="go")


def test_a_column_that_no_row_has_is_no_reason_to_skip_every_row(tmp_path: Path):
    path = write(tmp_path / "a.csv", rows())
    with pytest.raises(ValueError, match="no column 'review', only 'text', 'label'"):
        Task.load(path, text="review", label="label", on_error="skip")
    (tmp_path / "b.jsonl").write_text("{no\n")
    with pytest.raises(
        ValueError, match=r"b\.jsonl: wanted labelled rows, found none \(1 skipped, the first because of"
    ):
        Task.load(tmp_path / "b.jsonl", text="text", label="label", on_error="skip")


def test_space_around_a_label_does_not_count(tmp_path: Path):
    spaced = [" good", "bad ", "good", "bad"] * 25
    words = '[prompt]\ntemplate = "{text} {label}"\n[prompt.words]\n" good" = "great"\n"bad" = "poor"'
    task = Task.load(write_task(tmp_path, words, train=rows(spaced)))
    assert task.labels == ("bad", "good")
    assert Counter([*task.train.labels, *task.test.labels]) == {"good": 50, "bad": 50}
    assert task.checked_prompt().word("good") == "great"
    bad(tmp_path, "'good' has two words, 'great' and 'fine'", words + '\n"good" = "fine"', train=rows(spaced))


def test_the_encoding_of_a_task_is_that_of_its_file_or_the_option(tmp_path: Path):
    table = "text,label\n" + "".join(f"über {place},{'schön' if place % 2 else 'öde'}\n" for place in range(20))
    (tmp_path / "a.csv").write_bytes(table.encode("latin-1"))
    toml = tmp_path / "task.toml"
    toml.write_text('train = "a.csv"\ntext = "text"\nlabel = "label"\n')
    with pytest.raises(ValueError, match=r"a\.csv: byte 11 is not utf-8: .* encoding = \"cp1252\" in .*task\.toml, or"):
        Task.load(toml)
    toml.write_text('encoding = "latin-1"\n' + toml.read_text())
    named = Task.load(tmp_path / "a.csv", text="text", label="label", encoding="latin-1")
    assert Task.load(toml).labels == named.labels == ("schön", "öde")
    with pytest.raises(ValueError, match=r"a\.csv: byte 11 is not utf-8: name the file's encoding, as in --encoding"):
        Task.load(tmp_path / "a.csv", text="text", label="label")
    with pytest.raises(ValueError, match=r"task\.toml: a task file names the encoding of its files itself"):
        Task.load(toml, encoding="latin-1")
    (tmp_path / "a.csv").write_bytes(table.encode("utf-16"))
    assert Task.load(toml).labels == named.labels, "a byte-order mark is believed first"


def test_a_missing_column_is_told_with_those_there_are(tmp_path: Path):
    there = "no column '{}', only 'text', 'label', 'stars'"
    path = write(tmp_path / "a.csv", rows(stars=["5"] * 100))
    for text, label, missing in (("review", "label", "review"), ("text", "verdict", "verdict")):
        with pytest.raises(ValueError, match=there.format(missing)):
            Task.load(path, text=text, label=label)
    bad(tmp_path, there.format("author"), 'group = "author"', train=rows(stars=["5"] * 100))
    bad(tmp_path, r"train\.jsonl:2: no column 'label', only 'text'", train=[*rows()[:1], {"text": "a"}])


def test_a_data_file_needs_the_names_of_its_columns(tmp_path: Path):
    path = write(tmp_path / "a.csv", rows())
    for text, label in (("", ""), ("text", ""), ((), "label")):
        with pytest.raises(ValueError, match=r"wanted --text and --label, .* out of 'text', 'label'"):
            Task.load(path, text=text, label=label)
    path.write_text("text,label\n")
    with pytest.raises(ValueError, match=r"wanted --text and --label, .* of a file with rows"):
        Task.load(path)
    with pytest.raises(ValueError, match="'text' is the label's column, and would give the answer away"):
        Task.load(path, text="text", label="text")


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    for name in ("a.toml", "a.csv"):
        with pytest.raises(ValueError, match=f"{name}: no such file"):
            Task.load(tmp_path / name, text="a", label="b")
    bad(tmp_path, r"train\.jsonl: no such file")
    bad(tmp_path, r"other\.jsonl: no such file", 'test = "other.jsonl"', train=rows())


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path):
    path = write_task(tmp_path, "", train=rows())
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join([*lines[:57], "{broken", *lines[58:]]))
    with pytest.raises(ValueError, match=r"train\.jsonl:58: not JSON"):
        Task.load(path)


def test_a_train_of_nothing_but_test_rows_is_refused(tmp_path: Path):
    bad(tmp_path, "each of them is in test too", 'test = "train.jsonl"', train=rows())


def test_rows_too_few_to_hold_any_out_are_refused(tmp_path: Path):
    bad(tmp_path, "rows that can be held out", train=rows(["good", "bad"]))
    halves = [str(place % 2) for place in range(100)]
    bad(tmp_path, "rows that can be held out", 'group = "author"', train=rows(author=halves))


def test_a_task_file_names_its_own_columns(tmp_path: Path):
    path = write_task(tmp_path, "", train=rows())
    with pytest.raises(ValueError, match="names its own text and label columns"):
        Task.load(path, text="text")


def test_words_of_labels_that_do_not_exist_are_refused(tmp_path: Path):
    prompt = '[prompt]\ntemplate = "{text}: {label}"\n[prompt.words]\ngood = "great"\nawful = "terrible"'
    bad(
        tmp_path,
        r"task\.toml: \[prompt.words\] has 'awful', none of the labels 'bad', 'fair', 'good'",
        prompt,
        train=rows(),
    )


# Prompting.


def test_only_prompting_needs_a_prompt_and_words(tmp_path: Path):
    digits = [str(place % 2) for place in range(100)]
    for toml, message in (
        ("", r"task\.toml: prompting wants \[prompt\]"),
        ('[prompt]\ntemplate = "{text} {label}"', "'0', '1'"),
    ):
        task = Task.load(write_task(tmp_path, toml, train=rows(digits)))
        with pytest.raises(ValueError, match=message):
            task.checked_prompt()
    path = write(tmp_path / "two words.jsonl", rows(digits))
    with pytest.raises(
        ValueError, match=r"\[prompt.words\].* write a task file with: chainrule task '.*/two words\.jsonl' --text"
    ):
        Task.load(path, text="text", label="label").checked_prompt()
    words = '[prompt]\ntemplate = "{text} {label}"\n[prompt.words]\n0 = "bad"\n1 = "good"'
    assert Task.load(write_task(tmp_path, words, train=rows(digits))).checked_prompt().word("1") == "good"


def test_a_data_file_whose_labels_are_words_can_be_asked_at_once(tmp_path: Path):
    task = Task.load(write(tmp_path / "a.csv", rows()), text="text", label="label")
    assert task.checked_prompt().filled({"text": "x"}, "good") == "Text: x\nLabel: good"


def test_a_text_is_a_row_where_there_is_one_column(tmp_path: Path):
    task = Task.load(write(tmp_path / "a.csv", rows(title=["t"] * 100)), text="text", label="label")
    assert task.row("fine") == {"text": "fine"}
    assert task.finetune_text("fine") == task.finetune_text({"text": "fine", "label": "?"}) == "fine"
    both = Task.load(tmp_path / "a.csv", text=("title", "text"), label="label")
    assert both.finetune_text({"text": "fine", "title": "A"}) == "A\nfine"
    for row, message in (
        ("fine", "row: wanted the columns 'title', 'text', got one text"),
        ({"text": "fine"}, "row: no column 'title', only 'text'"),
        ({"text": "", "title": " "}, "row: wanted a text"),
    ):
        with pytest.raises(ValueError, match=message):
            both.row(row)
    with pytest.raises(ValueError, match=r"a\.csv:7: wanted a text"):
        task.row("", "a.csv:7")


def test_finetuning_reads_its_own_template(tmp_path: Path):
    task = Task.load(write_task(tmp_path, '[finetune]\ninput = "<{text}>"', train=rows()))
    assert task.finetune_text("a {b}") == "<a {b}>"


# Subsets and splits.


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task.load(write(tmp_path / "a.csv", rows()), text="text", label="label")


def test_subsets_are_nested_stratified_and_the_same_again(task: Task):
    sizes = [3, 4, 16, 64, None]
    for seed in range(5):
        subsets = [task.subset(n, seed).sources for n in sizes]
        for smaller, larger in pairwise(subsets):
            assert list(smaller) == list(larger)[: len(smaller)]
        assert sorted(subsets[-1]) == sorted(task.train.sources)
        assert Counter(task.subset(16, seed).labels) == {"good": 8, "bad": 4, "fair": 4}
        assert set(task.subset(3, seed).labels) == set(task.labels)
        assert task.subset(16, seed) == task.subset(16, seed)
    assert task.subset(16, 0).sources != task.subset(16, 1).sources


@pytest.mark.parametrize("n", [-1, 0, 2, 81])
def test_a_number_of_labels_out_of_range_is_told_the_range(n: int, task: Task):
    with pytest.raises(ValueError, match=rf"labels: wanted from 3 \(one a class\) to 80 \(all of train\), got {n}"):
        task.subset(n, seed=0)


def test_a_fifth_is_held_out_in_proportion_and_always_the_same(task: Task, tmp_path: Path):
    assert (len(task.train), len(task.test)) == (80, 20)
    assert Counter(task.test.labels) == {"good": 10, "bad": 5, "fair": 5}
    assert Task.load(tmp_path / "a.csv", text="text", label="label").test == task.test


def test_validation_is_a_fifth_of_the_labels_it_is_taken_from(task: Task):
    chosen = task.subset(64, seed=3)
    train, validation = task.split_validation(chosen, seed=3)
    assert sorted([*train.sources, *validation.sources]) == sorted(chosen.sources)
    assert len(validation) == 13
    assert max(Counter(validation.labels).values()) <= 7


def test_no_split_divides_a_group(tmp_path: Path):
    authors = [f"author {place // 5}" for place in range(100)]
    task = Task.load(write_task(tmp_path, 'group = "author"', train=rows(author=authors)))
    assert 15 <= len(task.test) <= 25
    assert not set(task.train.groups) & set(task.test.groups)
    train, validation = task.split_validation(task.subset(64, seed=0), seed=0)
    assert validation.groups
    assert not set(train.groups) & set(validation.groups)


def test_a_group_of_the_test_file_teaches_nothing(tmp_path: Path):
    authors = [f"author {place // 5}" for place in range(100)]
    judged = [{**row, "text": f"another {row['text']}"} for row in rows(author=authors)[:10]]
    settings = 'group = "author"\ntest = "test.jsonl"'
    task = Task.load(write_task(tmp_path, settings, train=rows(author=authors), test=judged))
    assert task.dropped == 10 and len(task.train) == 90
    assert not set(task.train.groups) & set(task.test.groups)


strata = st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(strata=strata, seed=st.integers(0, 99))
def test_every_beginning_of_the_order_is_stratified(strata: list[str], seed: int):
    order = stratified_order(strata, seed)
    assert sorted(order) == list(range(len(strata)))
    sizes = Counter(strata)
    ordered = [strata[place] for place in order]
    assert set(ordered[: len(sizes)]) == set(sizes), "one of each first"
    for n in range(len(sizes), len(strata) + 1):
        for stratum, count in Counter(ordered[:n]).items():
            assert abs(count - n * sizes[stratum] / len(strata)) <= len(sizes)


@settings(max_examples=100, deadline=None)
@given(strata=strata, seed=st.integers(0, 99), grouped=st.booleans(), data=st.data())
def test_what_is_held_out_leaves_one_of_each(strata: list[str], seed: int, grouped: bool, data: st.DataObject):
    n = len(strata)
    groups = data.draw(st.lists(st.sampled_from("uvwxyz"), min_size=n, max_size=n)) if grouped else None
    kept, held = hold_out(strata, groups, seed)
    assert sorted(kept + held) == list(range(n))
    assert {strata[place] for place in kept} == set(strata)
    assert len(held) <= 0.5 * n
    if groups:
        assert not {groups[place] for place in kept} & {groups[place] for place in held}


def test_examples_are_taken_side_by_side():
    examples = Examples([{"a": "x"}, {"a": "y"}], ["0", "1"], ["f:1", "f:2"], ["u", "v"])
    assert examples.take([1]) == Examples([{"a": "y"}], ["1"], ["f:2"], ["v"])


@pytest.mark.skipif(not SST2.is_dir(), reason="needs ../shared/data/sst2")
def test_sst2_is_a_task(tmp_path: Path):
    (tmp_path / "sst2.toml").write_text(
        f'train = "{SST2}/train.tsv"\ntest = "{SST2}/dev.tsv"\ncolumns = ["text", "label"]\ntext = "text"\n'
        'label = "label"\n[prompt]\ntemplate = "Review: {text}\\nSentiment: {label}"\n'
        '[prompt.words]\n0 = "terrible"\n1 = "great"\n'
    )
    task = Task.load(tmp_path / "sst2.toml")
    assert (len(task.train) + task.dropped, len(task.test), task.labels) == (6920, 872, ("0", "1"))
    assert Counter(task.subset(16, 0).labels) == {"0": 8, "1": 8}
    assert task.checked_prompt().word("0") == "terrible"
