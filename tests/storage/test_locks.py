"""Two commands never write the same files at once: the second is refused in one line, and harms nothing."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chainrule.cli import main
from chainrule.errors import FolderError
from chainrule.storage import locks
from chainrule.storage.files import LOCK, nothing_left_if_refused, sweep
from chainrule.storage.locks import only_writer
from chainrule.storage.run_folder import find_record

HOLD = "import sys, time; from pathlib import Path; from chainrule.storage.locks import only_writer\n"
HOLD += "with only_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@contextmanager
def another_writer(out: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that writes to `out`."""
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        yield other
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_a_second_writer_is_refused_until_the_first_has_ended_however_it_does(tmp_path: Path) -> None:
    out = tmp_path / "deep/run"
    with another_writer(out) as other:
        named = rf"--out .*run: wanted a folder that no other command .* got one that process {other.pid} on .* writes"
        with pytest.raises(FolderError, match=named), only_writer(out):
            pytest.fail("two write at once")
        assert out.is_dir()
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with only_writer(out):
            pass
    assert list(out.iterdir()) == []


def test_nothing_stays_of_a_lock_and_of_the_folders_made_for_it(tmp_path: Path) -> None:
    with only_writer(tmp_path / "deep/run"):
        assert [path.name for path in (tmp_path / "deep/run").iterdir()] == [LOCK]
        sweep(tmp_path / "deep/run")
        assert (tmp_path / "deep/run" / LOCK).exists(), "a sweep leaves the lock"
    assert list(tmp_path.iterdir()) == []
    with only_writer(tmp_path / "run"):
        with pytest.raises(KeyError), nothing_left_if_refused(tmp_path / "run"):
            (tmp_path / "run/half").touch()
            raise KeyError
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK], "locked until all else is removed"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_held_where_the_disk_is_too_full_for_its_owners_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    named = pytest.raises(FolderError, match="one that another process writes")
    with only_writer(tmp_path / "run"), named, only_writer(tmp_path / "run"):
        pytest.fail("two write at once")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_another_host_has_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl, tries = pytest.importorskip("fcntl"), list[int]()
    flock = fcntl.flock

    def removed_by_another(handle: int, operation: int) -> None:
        tries.append(handle)
        if len(tries) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")  # as NFS
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", removed_by_another)
    with only_writer(tmp_path / "run"), pytest.raises(FolderError), only_writer(tmp_path / "run"):
        pytest.fail("two write at once")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_locked_is_left_to_what_is_done_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with only_writer(tmp_path / "file"), only_writer(tmp_path / "file/below"):
        pass

    def refuse(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")  # as a file system without locks

    monkeypatch.setattr("fcntl.flock", refuse)
    with only_writer(tmp_path / "run"), only_writer(tmp_path / "run"):
        pass
    monkeypatch.setattr(locks, "fcntl", None)
    with only_writer(tmp_path / "run"), only_writer(tmp_path / "run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_of_many_that_begin_together_one_writes_at_a_time(tmp_path: Path) -> None:
    """Each adds to a number in a file, in two steps: one that another had read would be lost."""
    code = "import sys; from pathlib import Path; from chainrule.storage.locks import *\n"
    code += "from chainrule.errors import FolderError\nout, made = Path(sys.argv[1]) / 'run', 0\n"
    code += "number = Path(sys.argv[1]) / 'number'\n"
    code += "while made < 150:\n    try:\n        with only_writer(out):\n"
    code += "            number.write_text(str(int(number.read_text()) + 1)); made += 1\n    except FolderError: pass"
    (tmp_path / "number").write_text("0")
    many = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [each.wait(60) for each in many] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "450"


def test_a_folder_that_another_command_removes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, times = os.open, list[Path]()

    def remove_and_open(path: Path, flags: int, mode: int = 0o777) -> int:
        if not times:
            (tmp_path / "deep/run").rmdir()
            (tmp_path / "deep").rmdir()
        times.append(path)
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", remove_and_open)
    with only_writer(tmp_path / "deep/run"):
        assert len(times) == 2 and (tmp_path / "deep/run" / LOCK).is_file()
        with pytest.raises(FolderError), only_writer(tmp_path / "deep/run"):
            pytest.fail("two write at once")
    assert list(tmp_path.iterdir()) == []


def test_processes_of_torchrun_wait_for_those_they_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with another_writer(tmp_path) as other:
        ended = time.monotonic()
        os.kill(other.pid, signal.SIGSTOP)
        subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {other.pid}"])
        with only_writer(tmp_path):
            assert time.monotonic() - ended > 0.2
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "many")
    with only_writer(tmp_path), pytest.raises(FolderError, match="wait until it has ended"), only_writer(tmp_path):
        pass


TINY = "--tokenizer byte --depth 1 --width 16 --heads 2 --context 16 --batch-tokens 64 --steps 1 --compile off"


def test_a_link_to_nothing_is_refused_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owls.txt").write_text("the owl sees a mouse " * 60)
    Path("link").symlink_to("gone/away")
    for out in ("link", "link/under"):
        for command in (f"tokenize owls.txt --out {out} --tokenizer byte", f"pretrain owls.txt --out {out} {TINY}"):
            with pytest.raises(SystemExit) as ended:
                main(command.split())
            said = capsys.readouterr().err
            assert ended.value.code == 2 and said.count("\n") == 1
            assert f"--out {out}: wanted a folder, got a link to nothing (link to gone/away)" in said
    with pytest.raises(FolderError, match="got a link to nothing"):
        find_record(Path("link"), ("run.toml",), "a run")
    assert Path("link").is_symlink() and not Path("gone").exists()


def test_commands_refuse_a_folder_that_another_one_writes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owls.txt").write_text("the owl sees a mouse " * 60)
    days = "".join(f"a fine day {number},good\na grim day {number},bad\n" for number in range(10))
    Path("days.csv").write_text(f"text,label\n{days}")
    main(f"pretrain owls.txt --out run {TINY} --dtype float32".split())
    task = "days.csv --text text --label label"
    commands = [
        "tokenize owls.txt --out busy --tokenizer byte", f"pretrain owls.txt --out busy {TINY}",
        f"finetune run {task} --out busy --train head", f"compare run {task} --out busy --methods majority --seeds 1",
    ]  # fmt: skip
    with only_writer(Path("busy")):
        Path("busy/.training.partial").write_text("what the other command writes")
        for command in commands:
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main(command.split())
            said = capsys.readouterr().err
            assert ended.value.code == 2
            assert said.count("\n") == 1 and "--out busy: wanted a folder that no other command writes to" in said
            assert sorted(path.name for path in Path("busy").iterdir()) == [LOCK, ".training.partial"]
