"""Tab-separated files: where a quotation mark is text, and where it quotes."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.storage.delimited import is_quoted
from chainrule.storage.records import read_records

CELL = st.text(st.sampled_from(["a", "b", '"', "\t", "\n", "\r", "\\", "'", " ", "\u2028", "\x85", "ä", "漢", "\0"]))


def cells(path: Path, content: bytes) -> list[list[str]]:
    path.write_bytes(content)
    return [list(record.strings.values()) for record in read_records(str(path))]


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b'it "is" so\t1', ['it "is" so', "1"]),
        (b'"a quote\t1', ['"a quote', "1"]),
        (b'"he" said\t1', ['"he" said', "1"]),
        (b'a"\t1', ['a"', "1"]),
        (b'"whole"\t1', ["whole", "1"]),
        (b'"a ""b"""\t1', ['a "b"', "1"]),
        (b'""\t1', ["", "1"]),
        (b'"a\nb\tc"\t1', ["a\nb\tc", "1"]),
        (b'1\t"a\nb\tc"', ["1", "a\nb\tc"]),
    ],
)
def test_a_mark_quotes_where_all_marks_of_the_file_do(line: bytes, read: list[str], tmp_path: Path):
    assert cells(tmp_path / "a.tsv", b"text\tlabel\n" + line + b"\n") == [read]
    assert cells(tmp_path / "b.tsv", b"text\tlabel\r\n" + line.replace(b"\n", b"\r\n") + b"\r\n") == [
        [cell.replace("\n", "\r\n") for cell in read]
    ]


def test_one_mark_that_is_text_makes_all_of_them_text(tmp_path: Path):
    content = b'text\tlabel\n"whole"\t1\nit "is" so\t0\n'
    assert cells(tmp_path / "a.tsv", content) == [['"whole"', "1"], ['it "is" so', "0"]]


def test_lines_are_not_joined_by_marks_that_quote_no_row(tmp_path: Path):
    content = b'text\tlabel\n"a quote\t1\nits end"\n'
    assert not is_quoted(content.splitlines(keepends=True)), "the row would have one column"
    assert not is_quoted([b"text\tlabel\n", b'"never closed\t1\n', b"b\t0\n"])


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1), end=st.sampled_from(["\n", "\r\n"]))
def test_what_csv_writes_with_tabs_is_read_back(rows: list[tuple[str, str]], end: str, tmp_path_factory):
    path = tmp_path_factory.mktemp("tabs") / "a.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        quoting = csv.QUOTE_ALL if any("\r" in cell for row in rows for cell in row) else csv.QUOTE_MINIMAL
        csv.writer(file, delimiter="\t", lineterminator=end, quoting=quoting).writerows([("text", "label"), *rows])
    assert [tuple(record.strings.values()) for record in read_records(str(path))] == rows
