"""What an error leaves of a folder in the making, and what it must not touch."""

from pathlib import Path

import pytest

from chainrule.errors import ChainruleError
from chainrule.storage.files import nothing_left_if_refused, write_text


def fail(out: Path, error: BaseException, *files: str) -> None:
    """Make a folder with these files, as a command does, and then end with an error."""
    with (
        pytest.raises(type(error)),
        nothing_left_if_refused(out, saved=("training/*/state.json",), underway=("data/*.bin",)),
    ):
        for file in files:
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            write_text(out / file, "made")
        raise error


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("error", [ValueError("refused"), OSError(28, "No space left"), RuntimeError("out of memory")])
def test_an_error_removes_what_was_made_and_the_folders_above_it(error: Exception, tmp_path: Path) -> None:
    fail(tmp_path / "a" / "b" / "run", error, "run.toml", "data/manifest.json")
    assert entries(tmp_path) == set()


def test_a_folder_that_was_there_stays_and_so_does_what_others_put_beside_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fail(tmp_path / "empty", ValueError(), "run.toml")
    assert entries(tmp_path) == {"empty"}
    fail(tmp_path / "a" / "run", ValueError(), "run.toml", "../mine.txt")
    assert entries(tmp_path) == {"empty", "a", "a/mine.txt"}


def test_what_was_begun_before_is_not_touched(tmp_path: Path) -> None:
    write_text(tmp_path / "run.toml", "begun")
    fail(tmp_path, ValueError(), "log.jsonl")
    assert entries(tmp_path) == {"run.toml", "log.jsonl"}
    fail(tmp_path / "run.toml", ValueError())
    assert (tmp_path / "run.toml").read_text() == "begun"


@pytest.mark.parametrize("error", [ValueError("refused"), OSError(28, "No space left")])
def test_a_checkpoint_is_kept_with_all_that_belongs_to_it(error: Exception, tmp_path: Path) -> None:
    fail(tmp_path / "run", error, "run.toml", "training/3/state.json")
    assert {"run/run.toml", "run/training/3/state.json"} <= entries(tmp_path)


def test_shards_are_kept_when_the_disk_is_full_but_not_when_the_command_is_refused(tmp_path: Path) -> None:
    fail(tmp_path / "refused", ChainruleError(), "data/train-00000.bin")
    fail(tmp_path / "full", OSError(28, "No space left"), "data/train-00000.bin")
    assert entries(tmp_path) == {"full", "full/data", "full/data/train-00000.bin"}


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143)])
def test_a_signal_leaves_all_that_there_is(end: BaseException, tmp_path: Path) -> None:
    fail(tmp_path / "run", end, "run.toml")
    assert entries(tmp_path) == {"run", "run/run.toml"}


def test_a_file_in_a_folder_that_is_not_there_is_refused_by_the_folders_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got no folder .*nowhere; make it first"):
        write_text(tmp_path / "nowhere" / "file.txt", "text")
