"""Rows and documents of every kind of file, and what is said of those that cannot be read."""

import csv
import datetime
import gzip
import io
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chainrule.corpus.read import Piece, read_documents
from chainrule.errors import DataError
from chainrule.storage import lines
from chainrule.storage.columns import Record
from chainrule.storage.inputs import find_files
from chainrule.storage.records import Skipped, read_records

ROWS = [
    {"text": "one", "label": "1"},
    {"text": 'two, "quoted"\nover lines', "label": "0"},
    {"text": "drei ä", "label": ""},
]


def write(path: Path, content: str | bytes) -> str:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CSV = 'text,label\r\none,1\r\n"two, ""quoted""\nover lines",0\r\n\r\ndrei ä,\r\n'


def texts(pieces) -> list[str]:
    return [piece.text for piece in pieces]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.ndjson", "a.parquet"])
def test_each_kind_gives_the_same_rows(name: str, tmp_path: Path):
    path = tmp_path / name
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        write(path, CSV if "csv" in name else jsonl(ROWS))
    found = list(read_records(str(path)))
    assert [record.strings for record in found] == ROWS
    assert {record.source for record in found} == {str(path)}
    assert [record.line for record in found] == ([2, 3, 6] if "csv" in name else [1, 2, 3])
    assert texts(read_documents(str(path))) == [row["text"] for row in ROWS]
    assert texts(read_documents(str(path), field="label")) == ["1", "0"], "a row without text is no document"


def test_a_tsv_has_no_quoting(tmp_path: Path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"a quote\t1\nit "is" so\t0\n')
    assert texts(read_documents(path)) == ['"a quote', 'it "is" so']


def test_a_table_without_a_header_is_given_its_columns(tmp_path: Path):
    path = write(tmp_path / "a.tsv", "a film\t1\nanother\t0\n")
    assert list(read_records(path, columns=["text", "label"])) == [
        Record({"text": "a film", "label": "1"}, path, 1),
        Record({"text": "another", "label": "0"}, path, 2),
    ]


def test_values_that_are_no_strings_become_json_and_nulls_are_left_out(tmp_path: Path):
    rows = [{"a": 1, "b": None, "c": True, "d": 0.5, "e": ["x", None]}]
    path = write(tmp_path / "a.jsonl", jsonl(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    wanted = {"a": "1", "c": "true", "d": "0.5", "e": '["x", null]'}
    assert [record.strings for record in read_records(path)] == [wanted]
    assert [record.strings for record in read_records(str(tmp_path / "a.parquet"))] == [wanted]


def test_a_text_file_is_one_document_and_its_lines_are_rows(tmp_path: Path):
    path = write(tmp_path / "a.txt", "one\r\n\ntwo")
    assert list(read_documents(path)) == [Piece("one\r\n\ntwo", True, path, 1)]
    assert [(record.strings["text"], record.line) for record in read_records(path)] == [
        ("one", 1),
        ("", 2),
        ("two", 3),
    ], "one row a line, so that what is made of them stands beside them"


@settings(max_examples=50, deadline=None)
@given(text=st.text(min_size=1), block=st.integers(1, 7), encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-le"]))
def test_a_text_file_read_in_pieces_is_whole(text: str, block: int, encoding: str, tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "a.txt"
    path.write_bytes(text.encode(encoding))
    if encoding == "utf-16-le":  # what begins as a byte-order mark is one, whatever the encoding asked for
        text = text.removeprefix("\ufeff")
        assume(text and not path.read_bytes().startswith((b"\xef\xbb\xbf", b"\xfe\xff")))
    if encoding == "utf-8":  # what is a quarter zeros is refused, as UTF-16
        assume(4 * text.count("\0") <= len(path.read_bytes()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        pieces = list(read_documents(str(path), encoding=encoding))
    assert "".join(texts(pieces)) == text.removeprefix("\ufeff" if encoding == "utf-8" else "")
    assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    for number, piece in enumerate(pieces):
        assert piece.line == 1 + "".join(texts(pieces[:number])).count("\n")


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_the_mark_of_utf8_is_no_text(name: str, tmp_path: Path):
    content = {"a.txt": "é", "a.csv": "text\né\n", "a.jsonl": '{"text": "é"}\n'}[name]
    path = write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())
    for encoding in ("utf-8", "UTF8", "utf-8-sig"):
        assert texts(read_documents(path, encoding=encoding)) == ["é"]


def test_a_document_may_be_longer_than_the_csv_module_likes(tmp_path: Path):
    path = write(tmp_path / "a.csv", "text\n" + "x" * 200_000 + "\n")
    assert [len(text) for text in texts(read_documents(path))] == [200_000]


BAD = [
    ("a.txt", b"abc\xff", r"a\.txt: byte 3 is not utf-8"),
    ("a.txt", b"abc\xe2\x82", r"a\.txt: byte 3 is not utf-8"),
    ("a.txt", b"\xef\xbb\xbfab\xff", r"a\.txt: byte 5 is not utf-8"),
    ("a.txt", b"", r"a\.txt: .*empty"),
    ("a.txt.gz", b"", r"a\.txt\.gz: .*empty"),
    ("a.jsonl", b"", r"a\.jsonl: .*empty"),
    ("a.csv", b"", r"a\.csv: .*empty"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"a\.jsonl: byte 24 is not utf-8"),
    ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
    ("a.jsonl", b'{"text": "a"}\n\n{"body": "b"}\n', r"a\.jsonl:3: no column 'text', only 'body'"),
    ("a.jsonl", b'{"text": null}\n', r"a\.jsonl:1: 'text' is null: write one, or skip such rows with --on-error skip"),
    ("a.jsonl", b'{"text": NaN}\n', r"a\.jsonl:1: 'text' is null"),
    ("a.jsonl", b'{"text": "a"}\n{"text": ["b"]}\n', r"a\.jsonl:2: wanted text in 'text', got a list"),
    ("a.jsonl", b'{"text": {"b": 1}}\n', r"a\.jsonl:1: wanted text in 'text', got an object"),
    ("a.csv", b"text,label,text\na,1,b\n", r"a\.csv:1: the column 'text' occurs 2 times: rename"),
    ("a.csv", b"\n\ntext,label\na,1\nb\n", r"a\.csv:5: wanted 2 columns, got 1"),
    ("a.tsv", b"text\ttext\na\t1\n", r"a\.tsv:1: the column 'text' occurs 2 times"),
    (
        "a.txt",
        "a\nb\n".encode("utf-16-le"),
        r"a\.txt: a quarter of its bytes are zero, as in utf-16-le without a byte-",
    ),
    ("a.csv", "text\nb\n".encode("utf-16-be"), r"a\.csv: .* as in --encoding utf-16-be, or leave the file out"),
    ("a.csv", "\ufefftext\nb\n".encode("utf-16-le") + b"\x00\xd8\n\x00", r"a\.csv: byte 16 is not utf-16-le: name"),
    ("a.jsonl", b'["text"]\n', r"a\.jsonl:1: wanted a JSON object"),
    ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: .*surrogate"),
    ("a.csv", b"text\nb\xff\n", r"a\.csv: byte 6 is not utf-8"),
    ("a.csv", b"body,label\na,1\n", r"a\.csv: no column 'text', only 'body', 'label'"),
    ("a.csv", b"text,label\na,1\nb\n", r"a\.csv:3: wanted 2 columns, got 1"),
    ("a.csv", b'text\n"never closed\n', r"a\.csv:2: not a row"),
    ("a.parquet", b"PAR1 no more", r"a\.parquet: not a whole parquet file"),
    ("a.txt", b"GGUF\x03\x00\x00\x00", r"a\.txt: wanted text, got a model \(GGUF\)"),
    ("a.csv", b"PK\x03\x04\x14", r"a\.csv: wanted text, got an archive .*save its text as \.txt or \.csv"),
    ("a.txt", b"%PDF-1.7\n", r"a\.txt: wanted text, got a PDF"),
    ("a.txt", b"PAR1\x15\x00", r"a\.txt: wanted text, got a table \(parquet\); name it \.parquet"),
    ("a.json", b"[]", r"a\.json: wanted one JSON value a line"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_what_cannot_be_read_is_said_with_its_place(name: str, content: bytes, message: str, tmp_path: Path):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as raised:
        list(read_documents(path))
    assert "\n" not in str(raised.value)


def test_a_parquet_without_the_column_names_those_it_has(tmp_path: Path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"a": "1", "b": "2"}]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column 'text', only 'a', 'b'"):
        list(read_documents(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"x" * 9999, mtime=0)[:-9]])
def test_a_broken_gzip_file_is_said(content: bytes, tmp_path: Path):
    (tmp_path / "a.txt.gz").write_bytes(content)
    with pytest.raises(ValueError, match="not a whole gzip file"):
        list(read_documents(str(tmp_path / "a.txt.gz")))


@pytest.mark.parametrize(
    ("name", "content", "left"),
    [
        ("a.txt", b"a" * 3_000_000 + b"\xff", []),
        ("a.txt", b"", []),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n{"body": 1}\n{"te\n[1]\n{"text": "b"}', ["a", "b"]),
        ("a.csv", b'text,label\na,1\nb\xff,1\n"x\n\xff",1\nc\nd,1\n', ["a", "d"]),
    ],
)
def test_what_is_skipped_is_reported_and_the_rest_is_read(name: str, content: bytes, left: list[str], tmp_path: Path):
    skipped = Skipped()
    path = write(tmp_path / name, content)
    assert texts(read_documents(path, skipped=skipped)) == left
    assert skipped.count == {"a.jsonl": 4, "a.csv": 3}.get(name, 1)


def test_other_encodings_are_read_by_name(tmp_path: Path):
    path = write(tmp_path / "a.csv", "text\nGrüße\n".encode("latin-1"))
    assert texts(read_documents(path, encoding="latin-1")) == ["Grüße"]
    for encoding in ("klingon", "base64"):
        with pytest.raises(ValueError, match=f"name of an encoding such as utf-8, got {encoding}"):
            list(read_documents(path, encoding=encoding))
    with pytest.raises(
        ValueError, match=r"byte 10 is not utf-16-le: name the file's encoding, as in --encoding cp1252"
    ):
        list(read_documents(path, encoding="utf-16"))


MARKED = ["utf-8-sig", "utf-16", "utf-32"]  # as Python writes them: with a byte-order mark


@pytest.mark.parametrize("kind", ["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.csv.gz"])
@pytest.mark.parametrize("mark", [*MARKED, "utf-16-be"])
def test_a_byte_order_mark_is_obeyed_whatever_encoding_is_asked_for(mark: str, kind: str, tmp_path: Path):
    content = {"c": "text\r\nGrüße 漢\r\n", "t": "text\nGrüße 漢\n", "j": '{"text": "Grüße 漢"}\n'}[kind[2]]
    content = "Grüße 漢" if kind == "a.txt" else content
    path = write(tmp_path / kind, ("\ufeff" * (mark == "utf-16-be") + content).encode(mark))
    for encoding in ("utf-8", "latin-1", "utf-16", "utf-16-le", "cp1252"):
        if not (mark == "utf-32" and "16" in encoding):  # whose mark begins as that of UTF-16
            assert texts(read_documents(path, encoding=encoding)) == ["Grüße 漢"]
            assert [record.strings["text"] for record in read_records(path, encoding=encoding)] == ["Grüße 漢"]


@settings(max_examples=60, deadline=None)
@given(cells=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), block=st.integers(1, 9))
def test_rows_of_any_text_are_read_in_an_encoding_of_two_bytes(cells: list[str], block: int, tmp_path_factory):
    path = tmp_path_factory.mktemp("wide") / "a.csv"
    with path.open("w", encoding="utf-16", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((cell, "1") for cell in cells)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        assert [record.strings["text"] for record in read_records(str(path))] == cells


def test_a_row_of_two_bytes_a_character_that_does_not_decode_is_skipped_alone(tmp_path: Path):
    wide = "text,label\na,1\nb?,0\nc,1\n".encode("utf-16")
    broken = wide.replace("?".encode("utf-16-le"), b"\x00\xdc")
    found = list(read_records(write(tmp_path / "a.csv", broken)))
    assert [record.strings["text"] for record in found if isinstance(record, Record)] == ["a", "c"]
    assert [str(error).split(": ")[1] for error in found if isinstance(error, DataError)] == [
        f"byte {wide.index(b'?')} is not utf-16-le"
    ]


def test_a_table_whose_lines_end_with_carriage_returns_is_read(tmp_path: Path):
    path = write(tmp_path / "a.csv", 'text,label\ra,1\r"b\rc",0\rd,1')
    assert [(record.strings["text"], record.line) for record in read_records(path)] == [("a", 2), ("b\rc", 3), ("d", 5)]
    mixed = write(tmp_path / "b.csv", "text,label\na,1\rb,0\r\nc,1\n")
    assert [record.strings["text"] for record in read_records(mixed)] == ["a", "b", "c"]
    lined = write(tmp_path / "a.jsonl", '{"text": "a"}\r{"text": "b"}\r')
    assert texts(read_documents(lined)) == ["a", "b"]


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_the_separator_of_a_csv_is_found_and_said(separator: str, name: str, tmp_path: Path):
    rows = [("text", "label, or none"), ("a, b", "1"), ("c", "0"), ('d "e", f', "1")]
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    said: list[str] = []
    assert [tuple(record.strings.values()) for record in read_records(str(path), log=said.append)] == rows[1:]
    assert said == [f"{path}: its columns are separated by {name}"]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows[1:])
    assert [record.strings["x"] for record in read_records(str(path), columns=["x", "y"])] == ["a, b", "c", 'd "e", f']


@pytest.mark.parametrize(
    "content",
    ["text,label\na; b,1\nc; d,0\n", "text\na; b\nc; d\n", "text,label\n", "text\n", "text,a;b\nx;y,1;2\n"],
)
def test_a_comma_stays_the_separator_where_it_gives_rows_alike(content: str, tmp_path: Path):
    said: list[str] = []
    found = list(read_records(write(tmp_path / "a.csv", content), log=said.append))
    assert [list(record.strings.values()) for record in found] == [row.split(",") for row in content.splitlines()[1:]]
    assert said == []


def test_blank_lines_before_the_header_are_no_header(tmp_path: Path):
    for name, content in (("a.csv", "\n  \r\ntext,label\na,1\n"), ("a.tsv", "\n\ntext\tlabel\na\t1\n")):
        found = list(read_records(write(tmp_path / name, content)))
        assert [(record.strings, record.line) for record in found] == [({"text": "a", "label": "1"}, 4)]


def test_a_name_that_stands_twice_is_refused_in_every_kind_of_table(tmp_path: Path):
    path = write(tmp_path / "a.csv", "a,1\n")
    with pytest.raises(ValueError, match="the column 'x' occurs 2 times"):
        list(read_records(path, columns=["x", "x"]))
    twice = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: the column 'text' occurs 2 times"):
        list(read_records(str(tmp_path / "a.parquet")))


def parquet(path: Path, **columns: Any) -> str:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def test_bytes_in_a_parquet_are_decoded_or_refused(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", text=[b"bad film", "Grüße".encode("latin-1")])
    assert texts(read_documents(path, encoding="latin-1")) == ["bad film", "Grüße"]
    assert [record.text("text") for record in read_records(path, encoding="latin-1")] == ["bad film", "Grüße"]
    with pytest.raises(ValueError, match=r"a\.parquet:2: 'text': byte 2 is not utf-8: name the file's encoding"):
        list(read_documents(path))
    skipped = Skipped()
    assert texts(read_documents(path, skipped=skipped)) == ["bad film"]
    assert skipped.count == 1


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ([["a"]], "a list"),
        ([{"a": 1}], "an object"),
        ([datetime.date(2026, 1, 1)], "date"),
        ([None], "null"),
        (pyarrow.array([float("nan")]), "null"),
    ],
)
def test_what_is_no_text_in_a_parquet_is_refused_by_type(values: Any, got: str, tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", text=values)
    with pytest.raises(ValueError, match=rf"a\.parquet:1: .*'text'.* {got}"):
        list(read_documents(path))
    (record,) = read_records(path)
    with pytest.raises(ValueError, match=rf"a\.parquet:1: .*'text'.* {got}"):
        record.text("text")


def test_numbers_and_booleans_are_text_as_json_writes_them(tmp_path: Path):
    values = [1, 2.5, True]
    path = write(tmp_path / "a.jsonl", jsonl([{"text": value} for value in values]))
    assert texts(read_documents(path)) == [record.text("text") for record in read_records(path)] == ["1", "2.5", "true"]
    stored = parquet(tmp_path / "a.parquet", text=[Decimal("1.50")])
    assert texts(read_documents(stored)) == ["1.50"]


def test_standard_input_is_a_document(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\nb".encode())))
    assert list(read_documents("-")) == [Piece("é\nb", True, "-", 1)]


def test_hidden_files_are_left_out_of_folders_and_patterns_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/a.txt", "b/._a.txt", "b/.ipynb_checkpoints/a.txt", "b/.git/x.png", ".c/d/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    said: list[str] = []
    for asked in ("b", "b/**/*.txt"):
        assert find_files([asked], said.append) == ["b/a.txt"]
        assert said.pop() == f"{asked}: 2 hidden files left out (b/._a.txt, b/.ipynb_checkpoints/a.txt)"
    assert find_files(["b/*.txt"], said.append) == ["b/a.txt"]
    assert said.pop() == "b/*.txt: 1 hidden files left out (b/._a.txt)"
    for asked, found in (("b/._a.txt", "b/._a.txt"), (".c", ".c/d/a.txt"), ("b/.ipynb_checkpoints/*", "")):
        assert find_files([asked], said.append) == [found or "b/.ipynb_checkpoints/a.txt"], "what is named is read"
    assert said == []
    with pytest.raises(ValueError, match=r"found none but 1 hidden files left out .*: name them one by one if meant"):
        (tmp_path / "b" / "a.txt").unlink()
        (tmp_path / "b" / "._a.txt").unlink()
        find_files(["b"])


def test_files_folders_and_patterns_are_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/z.txt", "b/c/y.jsonl.gz", "b/a.CSV", "b/image.png", "one.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert find_files(["one.md", "b", "-"]) == ["one.md", "b/a.CSV", "b/c/y.jsonl.gz", "b/z.txt", "-"]
    assert find_files(["b/*.txt"]) == ["b/z.txt"]
    assert find_files(["b/**/*.gz"]) == ["b/c/y.jsonl.gz"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: wanted text in this folder"):
        find_files(["empty"])
    for missing in ("nowhere.txt", "b/*.pdf"):
        with pytest.raises(ValueError, match="no such file, folder or pattern"):
            find_files([missing])
    with pytest.raises(ValueError, match="got none"):
        find_files([])
