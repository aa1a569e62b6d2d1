"""Joins the processes that torchrun started, each with the same command, and ends them together. Knows no training.

An error that all of them meet is printed once; where a process is gone, the others' errors name it.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.metadata import version
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import torch

from chainrule import machine
from chainrule.errors import ChainruleError
from chainrule.training.parallel import ALIVE, ALONE, FAILED, GRACE, LostProcessError, Processes
from chainrule.training.parallel_options import ParallelOptions

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

# In gloo's messages, which have no error class of their own, when another process is gone or silent.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe", "timeout", "gloo")
_REFUSED = "refused"  # in the store: the first process has refused or stopped


@contextmanager
def joined(device: str = "auto", wait: float = 600.0) -> Iterator[Processes]:
    """The processes that torchrun started with this one; ALONE where it did not.

    Within, a mistake that all processes meet is raised by the first one alone, and a process that is gone is a
    LostProcessError. Raises ChainruleError for a device that is not there, and where there are more processes than
    GPUs.
    """
    told = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not all(name in os.environ for name in told) or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if device not in ("auto", "cpu", "cuda"):
        raise ChainruleError(
            f"--device: wanted cpu or cuda for several processes, got {device}; start one, or take cpu"
        )
    cuda = machine.device(device).type == "cuda"
    limit = timedelta(seconds=wait)
    with _as_lost_process():
        store, rank, world = next(rendezvous("env://", timeout=limit))
        # The store outlives processes that torchrun starts again: what earlier ones left there, their addresses too, is
        # not read.
        store = PrefixStore(f"started/{_common_start(store, rank, world, wait)}", store)
        init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=rank,
            world_size=world,
            timeout=limit,
        )
    store = PrefixStore("chainrule", store)
    with _shown_alive(store, rank, wait):
        processes = Processes(rank, world, store, wait)
        with _printed_once(processes):
            if cuda:
                _take_gpu(processes)
            yield processes
            processes.gather(None)  # the others stay until the first has written everything
            destroy_process_group()
            _leave(processes)


@contextmanager
def _shown_alive(store: "Store", rank: int, wait: float) -> Iterator[None]:
    """Within, a thread counts on in the store, so that the others tell a process that works long, which they wait for,
    from one that hangs or whose host is gone."""
    ended = Event()

    def count() -> None:
        number = 0
        with suppress(RuntimeError):  # the store's host is gone: who wants something of it is told
            while not ended.wait(min(1.0, wait / 4)):
                number += 1
                store.set(f"{ALIVE}/{rank}", str(number))

    thread = Thread(target=count, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(GRACE)


def require_same_command(
    processes: Processes, asked: Mapping[str, Any], called: Mapping[str, str], parallel: ParallelOptions
) -> None:
    """ChainruleError, in the first process, unless all were asked for the same and have the same versions. `asked`:
    values of options; `called` says how messages name those that are none."""
    options = {called.get(name) or f"--{name.replace('_', '-')}": value for name, value in asked.items()}
    options |= {f"--{name.replace('_', '-')}": value for name, value in vars(parallel).items()}
    processes.require_same(options | {f"the version of {name}": version(name) for name in ("chainrule", "torch")})


def _common_start(store: "Store", rank: int, world: int, wait: float) -> str:
    """A name that the processes started together have in common, and no others. LostProcessError where one does not
    come within `wait` seconds.

    torchrun on several hosts counts restarts apart, so that its numbers name nothing in common. Each process shows a
    number of its own; the first lists those that it sees, under a name that is new, and each of the others takes the
    name of the list that has its number.
    """
    own, ends, shown = uuid.uuid4().hex, time.monotonic() + wait, ""
    others = range(1, world)
    if rank:
        store.set(f"come/{rank}", own)
    while time.monotonic() < ends:
        if rank == 0:
            there = {other: store.get(f"come/{other}").decode() for other in others if store.check([f"come/{other}"])}
            if (listed := json.dumps([own, there])) != shown:
                store.set("list", shown := listed)
            if store.check([f"taken/{own}/{other}" for other in others]):
                return own
        elif store.check(["list"]):
            name, there = json.loads(store.get("list"))
            if there.get(str(rank)) == own:
                store.set(f"taken/{name}/{rank}", "1")
                return str(name)
        time.sleep(0.02)
    missing = [other for other in others if rank == 0 and not store.check([f"taken/{own}/{other}"])]
    names = ", ".join(f"process {other}" for other in missing) or "process 0"
    raise LostProcessError(
        f"{names} did not come within {wait:g} s (--wait) after process {rank} had started; see that all run, and that"
        " their hosts reach each other"
    )


@contextmanager
def _as_lost_process() -> Iterator[None]:
    """What torch.distributed raises when processes cannot reach each other, as a LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise LostProcessError(
            f"process {os.environ['RANK']}: wanted to reach the other processes, got {str(error).splitlines()[0]}; see"
            " that all run, and that their hosts reach each other (GLOO_SOCKET_IFNAME names the network interface)"
        ) from error


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in _LOST)


def _take_gpu(processes: Processes) -> None:
    local = int(os.environ.get("LOCAL_RANK", processes.rank))
    with processes.together():
        if local >= torch.cuda.device_count():
            raise ChainruleError(
                f"--device: wanted a GPU for each process, got {torch.cuda.device_count()} for"
                f" {os.environ.get('LOCAL_WORLD_SIZE', processes.world)} processes; start as many as there are, or take"
                " --device cpu"
            )
    torch.cuda.set_device(local)


@contextmanager
def _printed_once(processes: Processes) -> Iterator[None]:
    """Errors that end the processes: one that all meet is raised by the first alone; others name the lost process."""
    store = processes.store
    assert store is not None
    try:
        yield
    except LostProcessError:
        raise
    except (ChainruleError, SystemExit) as error:
        if processes.first:
            store.set(_REFUSED, "1")
            _leave(processes, GRACE)
            raise
        if _waited_for(store, [_REFUSED], GRACE):
            _leave(processes)
            time.sleep(1.0)  # torchrun ends all when one ends: the first, which prints the error, ends first
            raise SystemExit(error.code if isinstance(error, SystemExit) else 2) from None
        store.set(FAILED, str(error))
        raise
    except RuntimeError as error:
        if _is_lost(error):
            raise processes.lost(error) from error
        store.set(FAILED, f"process {processes.rank} ended with {type(error).__name__}")
        raise
    except Exception as error:
        store.set(FAILED, f"process {processes.rank} ended with {type(error).__name__}")
        raise


def _leave(processes: Processes, limit: float = float("inf")) -> None:
    """This process needs the store no longer. It may be the first one's, which waits at most `limit` s."""
    assert processes.store is not None
    processes.store.set(f"left/{processes.rank}", "1")
    if processes.first:
        _waited_for(processes.store, [f"left/{rank}" for rank in range(1, processes.world)], limit)


def _waited_for(store: "Store", keys: list[str], limit: float) -> bool:
    """Whether the store has the keys within `limit` seconds."""
    ends = time.monotonic() + limit
    while not store.check(keys):
        if time.monotonic() > ends:
            return False
        time.sleep(0.005)
    return True
