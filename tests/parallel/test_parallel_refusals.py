"""What several processes cannot do is refused by the first in one line; nothing is left behind, and none hangs."""

import os
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from groups import Group, command

from chainrule.cli import main
from chainrule.errors import ChainruleError
from chainrule.storage.locks import only_writer
from chainrule.training import parallel
from chainrule.training.parallel import LostProcessError, Processes
from chainrule.training.torchrun import _shown_alive, joined

SHAPE = "--tokenizer byte --depth 1 --width 4 --heads 1 --context 16 --steps 2 --compile off --dtype float32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    (folder / "text.txt").write_text("the owl sees a mouse " * 60)
    return folder


def differing(words: str, errors: Path, others: str) -> int:
    """The first process's words, and those of the others."""
    return command(words if os.environ["RANK"] == "0" else others, errors)


def refused(folder: Path, world: int, words: str, others: str | None = None) -> str:
    """What the first process says; all others say nothing, and `new` is not there."""
    errors = folder / "errors"
    shutil.rmtree(errors, ignore_errors=True)
    group = Group(world, differing, words, errors, others or words, seconds=30)
    said = [(errors / str(rank)).read_text() for rank in range(world)]
    assert group.results == [2] * world, said
    assert said[0].startswith("chainrule: ") and said[0].count("\n") == 1
    assert said[1:] == [""] * (world - 1)
    assert not (folder / "new").exists()
    return said[0]


def test_a_batch_that_is_too_small_for_the_processes(folder: Path) -> None:
    words = f"pretrain {folder}/text.txt --out {folder}/new {SHAPE} --batch-tokens 32"
    assert "wanted at least 48, a window of 16 tokens for each of 3 processes, got 32" in refused(folder, 3, words)


def test_processes_that_were_started_with_other_options(folder: Path) -> None:
    words = f"pretrain {folder}/text.txt --out {folder}/new {SHAPE} --batch-tokens 64"
    said = refused(folder, 2, words, f"{words} --seed 1")
    assert "--seed: wanted the same in every process, got 0 in process 0 and 1 in process 1" in said


def test_an_option_that_one_process_alone_was_given_is_named(folder: Path) -> None:
    words = f"pretrain {folder}/text.txt --out {folder}/new {SHAPE} --batch-tokens 64"
    said = refused(folder, 2, words, f"{words} --minutes 1")
    assert "--minutes: wanted the same in every process, got none in process 0 and 1.0 in process 1" in said


def test_several_processes_on_a_device_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of none is refused before the processes look for each other through it."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, said in (("cuda", "wanted one of cpu"), ("mps", "wanted cpu or cuda for several processes, got mps")):
        with pytest.raises(ChainruleError, match=f"--device: {said}"), joined(device):
            raise AssertionError("joined")


def test_processes_that_read_other_data(folder: Path) -> None:
    (folder / "other.txt").write_text("night falls " * 90)
    for name in ("text", "other"):
        main(f"tokenize {folder}/{name}.txt --out {folder}/{name} --tokenizer byte".split())
    # The same name, other shards: as where each host has a disk of its own.
    words = f"pretrain {folder}/text --out {folder}/new {SHAPE} --batch-tokens 64"
    errors = folder / "data-errors"
    group = Group(2, other_data, words, errors, folder, seconds=30)
    assert group.results == [2, 2]
    said = (errors / "0").read_text()
    assert "the shards of DATA: wanted the same in every process" in said and said.count("\n") == 1
    assert not (folder / "new").exists()


def other_data(words: str, errors: Path, folder: Path) -> int:
    from chainrule.pretraining import data

    if os.environ["RANK"] == "1":
        data._directory = lambda data, out: folder / "other"
    return command(words, errors)


def test_a_model_that_cannot_be_cut_by_so_many(folder: Path) -> None:
    words = f"pretrain {folder}/text.txt --out {folder}/new {SHAPE.replace('--width 4', '--width 2')} --batch-tokens 64"
    assert "--shard on: wanted at most 2 processes" in refused(folder, 3, f"{words} --shard on")


def test_sharding_without_others_to_share_with(folder: Path) -> None:
    words = f"pretrain {folder}/text.txt --out {folder}/new {SHAPE} --batch-tokens 64 --shard on"
    assert "--shard on: wanted several processes, got one; start them: torchrun" in refused(folder, 1, words)


def test_a_checkpoint_of_which_a_piece_is_missing(folder: Path) -> None:
    words = f"pretrain {folder}/text.txt --out {folder}/run {SHAPE} --batch-tokens 64"
    assert Group(2, command, f"{words} --shard on", folder / "made").results == [0, 0]
    (folder / "run/training/2/optimizer.safetensors").unlink()
    before = sorted(path for path in (folder / "run").rglob("*"))
    said = refused(folder, 2, words)
    assert "2/optimizer.safetensors: wanted the file that was saved, got one that is missing" in said
    assert sorted(path for path in (folder / "run").rglob("*")) == before


def test_a_message_says_of_a_lost_process_what_is_known_and_no_limit_that_was_not_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed import HashStore

    monkeypatch.setattr(parallel, "GRACE", 0.1)
    processes = Processes()
    processes.rank, processes.world, processes.store = 0, 2, HashStore()
    processes._names = ["process 0", "process 1 (pid 7 on owl)"]
    with pytest.raises(LostProcessError, match=r"process 1 \(pid 7 on owl\) did not answer within 0\.5 s; the same"):
        processes.gather(None, limit=0.5)
    ended = subprocess.Popen(["true"])
    ended.wait()
    processes._found = [(os.getpid(), socket.gethostname()), (ended.pid, socket.gethostname())]
    with pytest.raises(LostProcessError, match=r"process 1 \(pid 7 on owl\) ended; the same command continues"):
        processes.gather(None)
    processes._found = []
    for said, what in (
        ("Connection closed by peer [10.1.0.2]:1", "ended or could not be reached; the same"),
        ("Timed out waiting 9000ms for recv", "ended, could not be reached or did not answer within 600 s (--wait); "),
    ):
        assert what in str(processes.lost(RuntimeError(said)))


def test_a_process_that_works_long_is_waited_for_and_one_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of the steps, in which gloo has a limit: while the first process tokenizes, or all write a checkpoint."""
    from torch.distributed import HashStore

    monkeypatch.setattr(parallel, "LOOK", 0.05)
    processes, store = Processes(), HashStore()
    processes.rank, processes.world, processes.store, processes.wait = 0, 2, store, 0.3
    processes._names = ["process 0", "process 1 (pid 7 on owl)"]

    def works() -> None:
        with _shown_alive(store, 1, processes.wait):
            time.sleep(1.0)
            store.set("main/1/1", '"done"')

    with ThreadPoolExecutor(1) as pool:
        pool.submit(works)
        assert processes.gather("here") == ["here", "done"]
    with pytest.raises(
        LostProcessError, match=r"process 1 \(pid 7 on owl\) hangs.*no sign of life for 0\.3 s \(--wait"
    ):
        processes.gather("here")


def test_a_first_process_that_cannot_be_reached_is_told_after_the_time_limit(folder: Path) -> None:
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        port, errors = taken.getsockname()[1], folder / "unreached"
        words = f"pretrain {folder}/text.txt --out {folder}/new {SHAPE} --batch-tokens 64 --wait 1"
        assert Group(1, unreached, words, errors, port, seconds=30).results == [2]
    said = (errors / "1").read_text().splitlines()[-1]
    assert said.startswith("chainrule: process 1: wanted to reach the other processes, got "), said


def unreached(words: str, errors: Path, port: int) -> int:
    os.environ |= {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    return command(words, errors)


def impatient(words: str, errors: Path) -> int:
    """The command, whose processes do not wait for those that they may replace."""
    from chainrule.storage import locks

    locks._PATIENCE = 0.0
    return command(words, errors)


def test_a_folder_that_another_command_writes_to(folder: Path) -> None:
    words, errors = f"pretrain {folder}/text.txt --out {folder}/busy {SHAPE} --batch-tokens 64", folder / "busy-errors"
    with only_writer(folder / "busy"):
        group = Group(2, impatient, words, errors, seconds=30)
    said = [(errors / str(rank)).read_text() for rank in range(2)]
    assert group.results == [2, 2], said
    assert said[0].startswith("chainrule: --out ") and said[0].count("\n") == 1 and "no other command" in said[0]
    assert said[1] == ""
    assert not (folder / "busy").exists()
