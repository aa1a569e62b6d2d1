"""Groups of processes as torchrun starts them, from a server that has everything imported: a group costs no imports."""

import contextlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chainrule import machine

PRELOADED = [
    "torch._dynamo", "torch.distributed.fsdp", "chainrule.pretraining.start", "chainrule.pretraining.curve",
    "chainrule.finetuning.finetune", "chainrule.commands.finetune", "chainrule.commands.pretrain",
    "chainrule.tasks.measure", "chainrule.commands.accuracy", "scipy.stats", "scipy.optimize",
]  # fmt: skip
SECONDS = 100.0  # after which a group that hangs fails


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Group:
    """What each process of a group returned, or with what it ended."""

    def __init__(self, world: int, function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        port = free_port()
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        processes = [
            context.Process(target=_run, args=(rank, world, port, pipe[1], function, arguments))
            for rank, pipe in enumerate(pipes)
        ]
        for process, pipe in zip(processes, pipes, strict=True):
            process.start()
            pipe[1].close()
        self.results: list[Any] = []
        for pipe in pipes:
            found = None
            if pipe[0].poll(seconds):
                with contextlib.suppress(EOFError):
                    found = pipe[0].recv()
            self.results.append(found)
        for process in processes:
            process.join(seconds)
            if process.exitcode is None:
                process.kill()
                process.join()
        self.codes = [process.exitcode for process in processes]


def _run(rank: int, world: int, port: int, pipe: Any, function: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    pytest.MonkeyPatch().setattr(machine, "matmul_rate", lambda device, dtype, seconds=0.05: 1e11)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    pipe.send(function(*arguments))


def command(words: str, errors: Path, micro_tokens: int | None = None) -> int:
    """Run a command line; what it says on standard error is in errors/<rank>; the exit status."""
    from chainrule.cli import main

    if micro_tokens is not None:
        machine.TOKENS_AT_ONCE["pretraining"]["cpu"] = micro_tokens  # type: ignore[index]
    errors.mkdir(exist_ok=True)
    with (errors / os.environ["RANK"]).open("w") as said, contextlib.redirect_stderr(said):
        try:
            main(words.split())
        except SystemExit as end:
            sys.stderr.flush()
            return int(end.code or 0)
    return 0
