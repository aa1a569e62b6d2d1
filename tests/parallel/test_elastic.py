"""A process that is killed costs the work since the last checkpoint; one that hangs is named. With torchrun itself."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from groups import Group, command
from torch.distributed import HashStore

from chainrule.training.torchrun import _common_start

OPTIONS = (
    "--tokenizer byte --depth 1 --width 16 --heads 2 --context 16 --batch-tokens 64 --steps 150 --validate-every 10"
    " --compile off --dtype float32"
)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def write_text(folder: Path) -> None:
    rng = random.Random(0)
    (folder / "text.txt").write_text(" ".join(rng.choice("the owl sees a mouse".split()) for _ in range(600)))


def begun(folder: Path, restarts: int, options: str = "") -> "subprocess.Popen[str]":
    words = [
        *TORCHRUN,
        "--max-restarts",
        str(restarts),
        "-m",
        "chainrule",
        "pretrain",
        str(folder / "text.txt"),
        "--out",
    ]
    words += [str(folder / "run"), *OPTIONS.split(), *options.split()]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said, text=True)


def workers(agent: int) -> list[int]:
    """The processes that torchrun started, in the order of their ranks."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return sorted(int(child) for child in children if b"chainrule" in Path(f"/proc/{child}/cmdline").read_bytes())


def wait_for_checkpoint(folder: Path) -> None:
    ends = time.monotonic() + 60
    while not list((folder / "run/training").glob("[0-9]*")):
        assert time.monotonic() < ends, (folder / "said").read_text()
        time.sleep(0.01)


def test_after_a_kill_torchrun_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    write_text(tmp_path)
    run = begun(tmp_path, restarts=1)
    wait_for_checkpoint(tmp_path)
    os.kill(workers(run.pid)[1], signal.SIGKILL)
    assert run.wait(60) == 0
    said = (tmp_path / "said").read_text()
    assert re.search(r"going on from step \d+0 of 150", said), said
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 151))
    assert [path.name for path in (tmp_path / "run/training").iterdir()] == ["150"]


def hanging(words: str, errors: Path) -> int:
    """The command, in which the last process sleeps after a step."""
    from chainrule.pretraining.run import Run

    advance = Run.advance

    def sleeping(run: Run) -> Iterator[Any]:
        for progress in advance(run):
            if progress.step == 3 and not run.processes.first:
                time.sleep(12)
            yield progress

    pytest.MonkeyPatch().setattr(Run, "advance", sleeping)
    return command(words, errors)


@pytest.mark.slow
def test_a_process_that_hangs_is_named_after_the_time_limit(tmp_path: Path) -> None:
    write_text(tmp_path)
    words = f"pretrain {tmp_path}/text.txt --out {tmp_path}/run {OPTIONS} --wait 2"
    group = Group(2, hanging, words, tmp_path / "errors")
    assert group.results[0] == 2
    said = (tmp_path / "errors/0").read_text().splitlines()[-1]
    assert re.match(
        r"chainrule: process 1 \(pid \d+ on .*\) ended, could not be reached or did not answer within 2 s \(--wait\)",
        said,
    ), said


def test_processes_started_together_take_one_name_and_nothing_of_those_before() -> None:
    """Agents of several hosts have one store for all attempts: it still has what ended processes left."""
    store = HashStore()

    def attempt(ranks: Sequence[int], wait: float = 5.0) -> list[Any]:
        with ThreadPoolExecutor(3) as pool:
            found = [pool.submit(_common_start, store, rank, 3, wait) for rank in ranks]
            return [each.exception() or each.result() for each in found]

    names = [attempt([0, 1, 2]), attempt([2, 1, 0])]
    assert all(len(set(each)) == 1 for each in names) and names[0] != names[1]
    lost = attempt([0, 2], wait=0.3)
    assert re.match(r"process 1 did not come within 0.3 s \(--wait\) after process 0 had started", str(lost[0]))
    assert len(set(attempt([1, 0, 2]))) == 1
