"""What the verb `task` shows of the data."""

import json
from pathlib import Path

import pytest

from chainrule.tasks.examples import Task
from chainrule.tasks.inspect_task import inspect_task, print_task
from chainrule.tokens.make import byte_tokenizer, character_tokenizer

TRAIN = [("fine", "good"), ("dull", "bad"), ("fine", "bad"), ("fine", "good"), ("odd", "bad"), ("seen", "good")]
TEST = [("seen", "good"), ("a longer film", "bad")]
PROMPT = '[prompt]\ntemplate = "Film: {text}\\nIt is {label}."'


@pytest.fixture
def task(tmp_path: Path) -> Task:
    for name, rows in (("train", TRAIN), ("test", TEST)):
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    head = 'train = "train.jsonl"\ntest = "test.jsonl"\ntext = "text"\nlabel = "label"\n'
    (tmp_path / "task.toml").write_text(head + PROMPT)
    return Task.load(tmp_path / "task.toml")


def test_classes_duplicates_and_overlap_are_counted(task: Task):
    found = inspect_task(task)
    assert (found["train"], found["test"], found["overlap"]) == (5, 2, 1)
    assert found["classes"] == [{"label": "bad", "train": 3, "test": 1}, {"label": "good", "train": 2, "test": 1}]
    assert found["duplicates"] == {"train": {"rows": 2, "otherwise": 1}, "test": {"rows": 0, "otherwise": 0}}
    assert found["prompt"] == "Film: seen\nIt is‖ good."
    assert not {"lengths", "no_prompting"} & set(found)


def test_labels_that_are_perhaps_one_class_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    labels = ["Pos", "pos", "1", "1.0", "1.5", "very good", "verygood", "10", "bad"] * 9
    rows = [{"text": f"film {place}", "label": label} for place, label in enumerate(labels)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = inspect_task(Task.load(tmp_path / "a.jsonl", text="text", label="label"))
    assert found["twins"] == [["1", "1.0"], ["Pos", "pos"], ["very good", "verygood"]]
    print_task(found)
    assert "Warning: the labels '1', '1.0' differ only by case, space or .0" in capsys.readouterr().out


def test_lengths_are_held_against_the_context(task: Task):
    found = inspect_task(task, byte_tokenizer(), context=14)
    assert found["lengths"]["context"] == 14
    assert found["lengths"]["texts"] == {"half": 5, "nine_tenths": 14, "longest": 14, "too_long": 0}
    longest = len("Film: a longer film\nIt is bad.")  # ⊥ is read, the last byte is not
    assert found["lengths"]["prompts"]["longest"] == longest
    assert found["lengths"]["prompts"]["too_long"] == 7
    assert inspect_task(task, byte_tokenizer(), context=13)["lengths"]["texts"]["too_long"] == 1


def test_the_borders_of_tokens_are_seen(task: Task):
    shown = inspect_task(task, byte_tokenizer(), context=99)["prompt"]
    assert shown == "|".join("⊥Film: seen↵").replace("↵", "↵\n") + "|I|t| |i|s‖ |g|o|o|d|."


def test_a_text_that_the_tokenizer_cannot_encode_is_named_with_its_line(task: Task):
    known = character_tokenizer(["Film: \nIt is .", *(text + label for text, label in TEST), "fine bad"])
    with pytest.raises(ValueError, match=r"train\.jsonl:2: character 1 .* 'u'"):
        inspect_task(task, known, context=99)


def test_why_a_task_cannot_be_prompted_is_said(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "task.toml"
    path.write_text(path.read_text().removesuffix(PROMPT))
    found = inspect_task(Task.load(path))
    assert "prompt" not in found
    assert "prompting wants [prompt]" in found["no_prompting"]
    print_task(found)
    assert found["no_prompting"] in capsys.readouterr().out


def test_what_is_found_is_shown_and_is_json(task: Task, capsys: pytest.CaptureFixture[str]):
    found = inspect_task(task, byte_tokenizer(), context=14)
    assert json.loads(json.dumps(found)) == found
    print_task(found)
    shown = capsys.readouterr().out
    for line in ("bad", "good", "duplicates", "1 training rows are in test too", "7 do not fit", found["prompt"]):
        assert line in shown
