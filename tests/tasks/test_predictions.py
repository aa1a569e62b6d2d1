"""Rows of files with their predictions: one for one, in order, and read back as they were written."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.storage.records import read_records
from chainrule.tasks import row_file
from chainrule.tasks.examples import Row
from chainrule.tasks.predictions import input_rows, prediction_values, predictions
from chainrule.tasks.predictor import Predictor
from chainrule.tasks.row_file import Written, write_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text('ab"\t\n\r\\\u2028\u2029\x85\x0b\x1c, ;|{}')


class Lengths:
    """Says of a text whether it is long."""

    labels = ("short", "long")

    def __init__(self, *columns: str) -> None:
        self.columns = columns or ("text",)
        self.asked = 0

    def stream(self, rows: Iterable[Row | str]) -> Iterator[tuple[str, np.ndarray]]:
        for row in rows:
            self.asked += 1
            text = row if isinstance(row, str) else row[self.columns[0]]
            long = len(text) > 4
            yield self.labels[long], np.array([1 - long, long], float)


def write(path: Path, content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content.encode())
    return str(path)


def read(path: Path) -> list[dict[str, str]]:
    return [record.strings for record in read_records(str(path))]


def predict_file(predictor: Predictor, source: str, out: Path, **options: Any) -> Written:
    """What the command predict does with a file."""
    rows = input_rows(predictor, source, **options)
    return write_rows(rows, out, lambda pieces: (prediction_values(predictions(predictor, piece)) for piece in pieces))


def predicted(source: str, out: Path, **options: Any) -> Written:
    return predict_file(Lengths(), source, out, **options)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXT.filter(str.strip), min_size=1, max_size=5), suffix=st.sampled_from(["csv", "tsv", "jsonl"]))
def test_what_is_written_is_read_back_whatever_the_texts_are(texts: list[str], suffix: str, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    source = write(folder / "in.jsonl", [{"text": text, "n": "1"} for text in texts])
    out = folder / f"out.{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # which may take a second on a busy disk
        assert predicted(source, out).rows == len(texts)
    found = read(out)
    assert [row["text"] for row in found] == texts
    assert [row["prediction"] for row in found] == ["long" if len(text) > 4 else "short" for text in texts]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_row_without_text_keeps_its_place_when_it_is_skipped(suffix: str, tmp_path: Path):
    rows: list[dict[str, Any]] = [
        {"text": None, "n": 0},
        {"text": "a"},
        {"text": " ", "n": None},
        {"n": 3},
        {"text": ["b"]},
        {"text": "longer"},
    ]
    lines = [json.dumps({"text": None, **row, "n": place}) for place, row in enumerate(rows)]
    source = write(tmp_path / "in.jsonl", "\n".join([*lines[:2], "{broken", *lines[2:]]) + "\n")
    out = tmp_path / f"out.{suffix}"
    written = predicted(source, out, on_error="skip")
    assert (written.rows, written.empty.count) == (7, 5)
    assert "in.jsonl:1: 'text' is null" in written.empty.note
    found = read(out)
    assert [row.get("prediction", "") for row in found] == ["", "short", "", "", "", "", "long"]
    assert [row.get("n", "") for row in found] == ["0", "1", "", "2", "3", "4", "5"]
    assert [row.get("probability of long", "") for row in found] == ["", "0.0", "", "", "", "", "1.0"]


def test_a_wrong_row_is_told_before_anything_is_predicted(tmp_path: Path):
    source = write(tmp_path / "in.csv", "text,n\n" + "fine,1\n" * 50 + ",2\n")
    predictor = Lengths()
    with pytest.raises(ValueError, match=r"in\.csv:52: wanted a text, 'text' is empty: .* with --on-error skip"):
        predict_file(predictor, source, tmp_path / "out.csv")
    assert predictor.asked == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_every_line_of_a_txt_has_its_row(tmp_path: Path):
    source = write(tmp_path / "in.txt", "a\n\nlonger\u2028text\n \n")
    written = predict_file(Lengths("review"), source, tmp_path / "out.jsonl")
    assert (written.rows, written.empty.count) == (4, 2)
    assert "in.txt:2: wanted a text" in written.empty.note
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n")[:-1]]
    assert [row["text"] for row in found] == ["a", "", "longer\u2028text", " "]
    assert [row["prediction"] for row in found] == ["short", None, "long", None]
    with pytest.raises(ValueError, match=r"in\.txt:1: wanted the columns 'a', 'b', got one text"):
        predict_file(Lengths("a", "b"), source, tmp_path / "never.jsonl")


def test_where_there_is_no_row_there_is_no_label(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(row_file, "ROWS_AT_ONCE", 2)
    asked = [None, "a", "longer", None, None, "b"]
    assert [one["label"] for one in predictions(Lengths(), asked)] == [None, "short", "long", None, None, "short"]


def test_a_null_in_the_first_row_is_a_column_nonetheless(tmp_path: Path):
    source = write(
        tmp_path / "in.jsonl", [{"text": "a", "n": None}, {"text": "b", "n": math.nan}, {"text": "c", "n": 2}]
    )
    predicted(source, tmp_path / "out.csv")
    assert [row["n"] for row in read(tmp_path / "out.csv")] == ["", "", "2"]
    predicted(source, tmp_path / "out.jsonl")
    assert "NaN" not in (tmp_path / "out.jsonl").read_text(), "which is no JSON"


def test_bytes_are_written_as_text_or_refused(tmp_path: Path):
    rows = {"text": [b"fine"], "other": [b"\xe9"]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "in.parquet")
    for suffix in ("csv", "jsonl"):
        out = tmp_path / f"out.{suffix}"
        predicted(str(tmp_path / "in.parquet"), out, encoding="latin-1")
        assert [(row["text"], row["other"]) for row in read(out)] == [("fine", "é")]
        with pytest.raises(ValueError, match=r"in\.parquet:1: .*(utf-8|no text)"):
            predicted(str(tmp_path / "in.parquet"), out)


def test_a_file_of_which_no_row_can_be_read_is_refused(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", "{no\n{\n")
    for suffix in ("csv", "jsonl"):
        with pytest.raises(ValueError, match=r"in\.jsonl: wanted rows, and none can be read: 2 skipped, the first "):
            predicted(source, tmp_path / f"out.{suffix}", on_error="skip")
    with pytest.raises(ValueError, match="the file is empty"):
        predicted(write(tmp_path / "in.csv", ""), tmp_path / "out.csv", on_error="skip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "in.jsonl"]
