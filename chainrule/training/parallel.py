"""The processes that train one model together: which one this is, what they agree on, how their sums add up.

What they decide is JSON, exchanged through torchrun's store; gradients go through torch.distributed (gloo on CPUs, nccl
on GPUs). Knows no model and no optimizer.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from chainrule.errors import ChainruleError
from chainrule.storage.run_folder import shown

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Value = TypeVar("Value")
BUCKET = 2**23  # numbers that are added up in one message
LOOK = 1.0  # seconds from one look at whether a process that is waited for still runs to the next
GRACE = 5.0  # seconds in which the processes that are left must report, after one is lost
FAILED = "failed"  # in the store: why a process ended
ALIVE = "alive"  # in the store, with a process's number: what changes as long as it runs


class LostProcessError(ChainruleError):
    """Another process ended or did not answer in time."""


class Processes:
    """This process and those it trains with; `ALONE` where there are no others.

    rank: of this one, from 0, which decides, logs and writes. world: how many there are. wait: seconds that one may
    keep the others waiting once they train, and without a sign of life before and after.
    """

    def __init__(self, rank: int = 0, world: int = 1, store: "Store | None" = None, wait: float = 600.0) -> None:
        self.rank, self.world, self.store, self.wait = rank, world, store, wait
        self.local = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world > 1 else 1  # those on this machine
        self._exchanged: dict[str, int] = {}
        self._found: list[tuple[int, str]] = []  # each process's number in its system, and its host
        self._names = [f"process {number}" for number in range(world)]
        if world > 1:
            self._found = self.gather((os.getpid(), socket.gethostname()))
            self._names = [f"process {number} (pid {pid} on {host})" for number, (pid, host) in enumerate(self._found)]

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any, channel: str = "main", *, limit: float | None = None) -> list[Any]:
        """The JSON value of each process, by rank. Each must call it; it waits for all, for none that hangs, and
        at most `limit` seconds.

        A thread of its own needs a `channel` of its own.
        """
        if self.world == 1:
            return [value]
        assert self.store is not None
        number = self._exchanged[channel] = self._exchanged.get(channel, 0) + 1
        self.store.set(f"{channel}/{number}/{self.rank}", json.dumps(value))
        ends = None if limit is None else time.monotonic() + limit
        try:
            return [json.loads(self._read(f"{channel}/{number}/{rank}", rank, ends)) for rank in range(self.world)]
        except TimeoutError as error:
            raise self._lost([int(str(error))], f"did not answer within {limit:g} s") from None

    def _read(self, key: str, rank: int, ends: float | None) -> bytes:
        """A value of the store, asked for again and again: a call that blocks would block the other threads' too."""
        assert self.store is not None
        pause, look = 0.001, time.monotonic() + LOOK
        alive, silent = b"", 0.0  # what the other showed last, and for how many seconds in which this one ran
        while not self.store.check([key]):
            if self.store.check([FAILED]):
                raise LostProcessError(self.store.get(FAILED).decode())
            if time.monotonic() > look:
                look = time.monotonic() + LOOK
                if self._is_gone(rank):
                    raise self._lost([rank], "ended")
                if ends is not None and look > ends:
                    raise TimeoutError(rank)
                before, alive = alive, self._sign_of_life(rank)
                silent = silent + LOOK if alive == before else 0.0
                if silent > self.wait:
                    raise self._lost(
                        [rank], f"hangs or cannot be reached: no sign of life for {self.wait:g} s (--wait)"
                    )
            time.sleep(pause)
            pause = min(0.05, 2 * pause)
        return self.store.get(key)

    def _sign_of_life(self, rank: int) -> bytes:
        assert self.store is not None
        key = f"{ALIVE}/{rank}"
        return self.store.get(key) if self.store.check([key]) else b""

    def _is_gone(self, rank: int) -> bool:
        """Whether a process of this machine has ended; of other machines' nothing is known."""
        if not self._found or self._found[rank][1] != socket.gethostname():
            return False
        try:
            os.kill(self._found[rank][0], 0)  # sends nothing
        except ProcessLookupError:
            return True
        return False

    def from_first(self, value: Value, channel: str = "main") -> Value:
        """The first process's value, which is JSON."""
        made: Value = self.gather(value if self.first else None, channel)[0]
        return made

    @contextmanager
    def together(self, channel: str = "main") -> Iterator[None]:
        """A user's mistake, or an error about a file, that one process meets within ends all of them.

        The first process raises it; the others end with status 2 and print nothing. None may wait for another within.
        """
        if self.world == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except (ChainruleError, OSError) as raised:
            error = raised
        messages = self.gather(None if error is None else str(error), channel)
        failed = next((rank for rank, message in enumerate(messages) if message is not None), None)
        if failed is None:
            return
        if not self.first:
            raise SystemExit(2)
        if error is not None:
            raise error
        raise ChainruleError(f"{self._names[failed]}: {messages[failed]}")

    def require_same(self, values: Mapping[str, Any]) -> None:
        """ChainruleError, in the first process, for the first value that is not the same everywhere; values are JSON,
        named as a message names them; one that is absent is None."""
        every = self.gather(dict(values))
        with self.together():
            for name in dict.fromkeys(name for one in every for name in one):
                found = [one.get(name) for one in every]
                for rank, other in enumerate(found):
                    if other != found[0]:
                        raise ChainruleError(
                            f"{name}: wanted the same in every process, got {shown(found[0])} in process 0 and"
                            f" {shown(other)} in {self._names[rank]}; start all with the same command, data and"
                            " versions"
                        )

    def sum(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The sums over the processes, of scalars."""
        if self.world == 1:
            return values
        stacked = torch.stack([value.double() for value in values])
        torch.distributed.all_reduce(stacked)
        return tuple(total.to(value.dtype) for total, value in zip(stacked, values, strict=True))

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.world == 1:
            return number
        found = torch.tensor(number)  # on the CPU: no GPU waits for it
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return int(found)

    def concatenated(self, rows: Tensor, total: int) -> Tensor:
        """(total, D) of the rows (n, D) of each process in turn, on the CPU: what `share` cut."""
        if self.world == 1:
            return rows
        every = [torch.empty(total // self.world + 1, *rows.shape[1:], dtype=rows.dtype) for _ in range(self.world)]
        padded = torch.zeros_like(every[0])
        padded[: len(rows)] = rows
        torch.distributed.all_gather(every, padded)
        counts = [total * (rank + 1) // self.world - total * rank // self.world for rank in range(self.world)]
        return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)])

    def sent_by_first(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, on the CPU, of the same shape everywhere."""
        if self.world > 1:
            torch.distributed.broadcast(tensor, 0)
        return tensor

    def every_nth(self, batches: Iterable[Value]) -> Iterator[tuple[Value, bool]]:
        """Those of the batches that this process computes, and whether they count: all processes get equally many, as
        weights that are cut are put together by all; at the end some get the last one again, which does not count."""
        left = iter(batches)
        while one_each := list(islice(left, self.world)):
            yield one_each[min(self.rank, len(one_each) - 1)], self.rank < len(one_each)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; the same bits in all of them."""
        if self.world == 1:
            return
        sent = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            sent.append((bucket, flat, torch.distributed.all_reduce(flat, async_op=True)))
        for bucket, flat, work in sent:
            work.wait()
            parts = flat.split([tensor.numel() for tensor in bucket])
            whole = [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)]
            torch._foreach_copy_(bucket, whole)

    def lost(self, error: Exception) -> ChainruleError:
        """The error for a message that failed: it names the processes that no longer answer."""
        assert self.store is not None
        ends, silent = time.monotonic() + GRACE, set(range(self.world))
        try:
            self.store.set(f"lives/{self.rank}", "1")
            while silent and time.monotonic() < ends:
                silent = {rank for rank in silent if not self.store.check([f"lives/{rank}"])}
                time.sleep(0.05)
        except torch.distributed.DistError:
            silent = set()  # the store is on a host that is not reached
        gone = [rank for rank in sorted(silent) if self._is_gone(rank)]
        if gone:
            return self._lost(gone, "ended")
        waited = f", could not be reached or did not answer within {self.wait:g} s (--wait)"
        closed = "onnection" in str(error) and "imed out" not in str(error)
        return self._lost(sorted(silent), "ended or could not be reached" if closed else f"ended{waited}")

    def _lost(self, ranks: Sequence[int], what: str) -> LostProcessError:
        names = ", ".join(self._names[rank] for rank in ranks) or "the processes"
        return LostProcessError(
            f"{names} {what}; the same command continues from the last checkpoint, by itself under torchrun"
            " --max-restarts N"
        )


ALONE = Processes()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one precision and device at a time, about BUCKET numbers together."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(one.numel() for one in bucket) >= BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
