"""The task file: what is written reads back, and what cannot be meant is refused by name."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.tasks.prompt import Prompt
from chainrule.tasks.task_file import Settings, read_task_file, task_file

FULL = Settings(
    train=Path("data/train.tsv"),
    text=("premise", "hypothesis"),
    label="verdict",
    test=Path("data/dev.tsv"),
    columns=("premise", "hypothesis", "verdict", "author"),
    group="author",
    prompt=Prompt("{premise} {hypothesis}?\n{label}", "\n---\n", {"0": "no", "1 = x": 'a "yes"'}),
    input="{premise} {hypothesis}",
    encoding="cp1252",
)
LEAST = Settings(train=Path("a.csv"), text=("text",), label="label")


def written(settings: Settings, labels: list[str], folder: Path) -> Settings:
    (folder / "task.toml").write_text(task_file(settings, labels, folder), encoding="utf-8")
    return read_task_file(folder / "task.toml")


def test_a_written_task_file_reads_back_as_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    for told in (FULL, LEAST):
        found = written(told, ["0", "1 = x"], tmp_path / "tasks")
        assert found.train.resolve() == told.train.resolve()
        assert (found.test and found.test.resolve()) == (told.test and told.test.resolve())
        expected = replace(told, prompt=told.prompt or Prompt.default(told.text, told.label))
        assert replace(found, train=told.train, test=told.test) == expected


@settings(max_examples=100, deadline=None)
@given(label=st.text(min_size=1), word=st.text(), separator=st.text())
def test_any_text_may_be_a_label_a_word_a_separator(label: str, word: str, separator: str, tmp_path_factory):
    prompt = Prompt("{text} {label}", separator, {label: word})
    asked = Settings(train=Path("a.csv"), text=("text",), label="label", prompt=prompt)
    assert written(asked, [label], tmp_path_factory.mktemp("task")).prompt == prompt


def test_words_to_fill_in_stand_as_comments():
    lines = task_file(LEAST, ["1", "good film"], Path()).splitlines()
    assert 'template = "Text: {text}\\nLabel: {label}"' in lines
    assert '# 1 = "…"' in lines
    assert '# "good film" = "good film"' in lines
    assert 'kind = "free"' in task_file(Settings(Path("a"), ("text",), "label", kind="free"), [], Path())


REQUIRED = 'train = "a.csv"\ntext = "text"\nlabel = "label"\n'
BAD = [
    ("train = ", r"task\.toml: Invalid value"),
    ('train = "a.csv"\nlabel = "label"', "wanted the key 'text', found none"),
    (REQUIRED + 'colums = ["a"]', "no key is 'colums', there are train, text, label, kind, test, columns, group, "),
    (
        REQUIRED + '[prompt]\ntemplate = "{text} {label}"\nword = 1',
        r"no key of \[prompt\] is 'word', there are template",
    ),
    (REQUIRED + "[prompt]", r"wanted the key 'template' of \[prompt\], found none"),
    (REQUIRED + "[finetune]\nepochs = 3", r"no key of \[finetune\] is 'epochs', there are input"),
    (REQUIRED + 'kind = "ranking"', "kind: wanted classification or multilabel or regression or free, got 'ranking'"),
    (REQUIRED + 'encoding = "klingon"', "encoding: wanted the name of an encoding such as utf-8, got klingon"),
    (REQUIRED + 'columns = ["a", "b", "a"]', "columns: the column 'a' occurs 2 times: rename"),
    (REQUIRED + "test = 3", "test: wanted a text, as in test = "),
    (REQUIRED + "columns = [1]", r"columns: wanted a text or a list of them, .* got \[1\]"),
    (REQUIRED + "prompt = 3", r"prompt: wanted a table, got 3: write \[prompt\]"),
    (REQUIRED + '[prompt]\ntemplate = "{text} {label}"\n[prompt.words]\n0 = 1', "0: wanted a text, .* got 1"),
    (REQUIRED + '[prompt]\ntemplate = "{text}"', r"wanted \{label\} once"),
    (REQUIRED + '[prompt]\ntemplate = "{label}"', r"wanted a text column, \{text\}, got '\{label\}', which names none"),
    (REQUIRED + '[prompt]\ntemplate = "{review} {label}"', r"\{review\} is none of the text columns \{text\}"),
    (REQUIRED + '[finetune]\ninput = "{review}"', r"\[finetune\] input: \{review\} is none of the text columns"),
    (REQUIRED + 'kind = "free"\n[prompt]\ntemplate = "{text} {label}"\n[prompt.words]\n0 = "no"', "wanted none where"),
    ('train = "a.csv"\ntext = []\nlabel = "label"', "wanted text and label"),
    ('train = "a.csv"\ntext = ["a", "b"]\nlabel = "b"', "text: 'b' is the label's column"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_what_a_task_file_cannot_mean_is_refused(content: str, message: str, tmp_path: Path):
    path = tmp_path / "task.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        read_task_file(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_task_file_may_begin_with_the_mark_of_utf8(tmp_path: Path):
    (tmp_path / "task.toml").write_text(REQUIRED, encoding="utf-8-sig")
    assert read_task_file(tmp_path / "task.toml").label == "label"


def test_a_task_file_in_another_encoding_is_refused(tmp_path: Path):
    (tmp_path / "task.toml").write_bytes(b"label = '\xff'")
    with pytest.raises(ValueError, match=r"task\.toml: 'utf-8' codec can't decode"):
        read_task_file(tmp_path / "task.toml")
