"""Rows and documents of every kind of file, and what is said of those that cannot be read."""

import gzip
import io
import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.text import records
from chainrule.text.records import Piece, Record, find_files, read_documents, read_records

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
    assert [record.fields for record in found] == ROWS
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
    assert [record.fields for record in read_records(path)] == [wanted]
    assert [record.fields for record in read_records(str(tmp_path / "a.parquet"))] == [wanted]


def test_a_text_file_is_one_document_and_its_lines_are_rows(tmp_path: Path):
    path = write(tmp_path / "a.txt", "one\r\n\ntwo")
    assert list(read_documents(path)) == [Piece("one\r\n\ntwo", True, path, 1)]
    assert [(record.fields["text"], record.line) for record in read_records(path)] == [("one", 1), ("two", 3)]


@settings(max_examples=50, deadline=None)
@given(text=st.text(min_size=1), block=st.integers(1, 7), encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-le"]))
def test_a_text_file_read_in_pieces_is_whole(text: str, block: int, encoding: str, tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "a.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK", block)
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
    ("a.jsonl", b'{"text": "a"}\n\n{"body": "b"}\n', r"a\.jsonl:3: no 'text' there, only 'body'"),
    ("a.jsonl", b'{"text": null}\n', r"a\.jsonl:1: no 'text'"),
    ("a.jsonl", b'["text"]\n', r"a\.jsonl:1: wanted a JSON object"),
    ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: .*surrogate"),
    ("a.csv", b"text\nb\xff\n", r"a\.csv: byte 6 is not utf-8"),
    ("a.csv", b"body,label\na,1\n", r"a\.csv: no 'text' there, only 'body', 'label'"),
    ("a.csv", b"text,label\na,1\nb\n", r"a\.csv:3: wanted 2 columns, got 1"),
    ("a.csv", b'text\n"never closed\n', r"a\.csv:2: not a row"),
    ("a.parquet", b"PAR1 no more", r"a\.parquet: not a whole parquet file"),
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
    with pytest.raises(ValueError, match="no 'text' there, only 'a', 'b'"):
        list(read_documents(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"x" * 9999)[:-9]])
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
    skipped: list[ValueError] = []
    path = write(tmp_path / name, content)
    assert texts(read_documents(path, on_skip=skipped.append)) == left
    assert len(skipped) == {"a.jsonl": 4, "a.csv": 3}.get(name, 1)


def test_other_encodings_are_read_by_name(tmp_path: Path):
    path = write(tmp_path / "a.csv", "text\nGrüße\n".encode("latin-1"))
    assert texts(read_documents(path, encoding="latin-1")) == ["Grüße"]
    for encoding in ("klingon", "base64"):
        with pytest.raises(ValueError, match=f"name of an encoding such as utf-8, got {encoding}"):
            list(read_documents(path, encoding=encoding))
    with pytest.raises(ValueError, match="convert the file to utf-8"):
        list(read_documents(path, encoding="utf-16"))


def test_standard_input_is_a_document(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\nb".encode())))
    assert list(read_documents("-")) == [Piece("é\nb", True, "-", 1)]


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
