"""A folder of --out is new, continued, or refused by a message that names what differs."""

from pathlib import Path

import pytest

from chainrule.errors import FolderError
from chainrule.storage.run_folder import find_record, read_record, require_same


def test_a_new_or_empty_folder_has_no_record_and_one_that_was_begun_has(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert find_record(out, ["run.toml"], "a run") is None
    out.mkdir()
    (out / ".model.safetensors.1.partial").touch()  # of a command that was killed
    (out / "data").mkdir()
    assert find_record(out, ["run.toml"], "a run", before=["data"]) is None
    (out / "run.toml").write_text("steps = 3\n")
    (out / "notes.txt").touch()
    path = find_record(out, ["run.toml"], "a run")
    assert path == out / "run.toml" and read_record(path, "a run", wanted=["steps"]) == {"steps": 3}


def test_what_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FolderError, match=r"wanted a new folder or a run, got one that .*\(thesis\.tex\); choose"):
        find_record(tmp_path, ["run.toml"], "a run", before=["data"])
    with pytest.raises(FolderError, match="wanted a folder, got a file; choose another"):
        find_record(tmp_path / "thesis.tex", ["run.toml"], "a run")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.toml", b"steps = ", "cannot be read as the record of a run"),
        ("run.toml", b"\xff", "cannot be read"),
        ("state.json", b"{", "cannot be read"),
        ("state.json", b"[]", "one without steps"),
        ("run.toml", b"width = 3", "one without steps"),
    ],
)
def test_a_damaged_record_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FolderError, match=message) as error:
        read_record(tmp_path / name, "a run", wanted=["steps"])
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"batch_tokens": 64}, {"batch_tokens": 32}, "--batch-tokens: wanted 64, as when out was begun, got 32"),
        ({"steps": 3}, {}, "--steps: wanted 3, as when out was begun, got none; use the same, or another --out"),
        ({}, {"steps": 3}, "--steps: wanted none, as when out was begun, got 3; use the same, or another --out"),
        ({"model": "ab" * 32}, {"model": "cd" * 32}, "the model: wanted abababababab…, as .*, got cdcdcdcdcdcd…;"),
    ],
)
def test_the_refusal_names_the_option_what_it_was_and_what_it_is_now(before: dict, now: dict, message: str) -> None:
    with pytest.raises(FolderError, match=message):
        require_same(Path("out"), before, now, called={"model": "the model"})
    require_same(Path("out"), before, {**before, "minutes": None})
