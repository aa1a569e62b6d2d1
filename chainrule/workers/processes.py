"""Work that was cut into pieces, done by processes of this machine. Knows neither the pieces nor the work.

The same two arguments are taken by `chainrule.workers.ray_cluster`: `begin`, which is called once in each worker,
loads what the work needs and returns the function from a piece to its result; and the pieces, in order. Results come in
the order of the pieces, so what is made of them does not depend on who did the work.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar, TypeVar

from chainrule.errors import WorkerKilledError

Piece = TypeVar("Piece")
Result = TypeVar("Result")
Begin = Callable[[], Callable[[Piece], Result]]


def map_in_processes(begin: Begin[Piece, Result], pieces: Iterable[Piece], workers: int) -> Iterator[Result]:
    """The result of each piece, in order. At most 2 * workers pieces wait, whatever their number.

    Raises what the work raises, and WorkerKilledError when one of the processes is killed.
    """
    # Not forked: the caller may have threads, whose locks a fork would copy.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, initializer=_start, initargs=(begin,))
    waiting: deque[Future[Result]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(_work, piece))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise WorkerKilledError(
            "one of the processes was killed (too little memory?): the same command goes on, try fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class _Process:
    """What a process of the pool does with a piece: an executor keeps nothing from one call to the next."""

    begin: ClassVar[Callable[[], Callable[[Any], Any]]]
    function: ClassVar[Callable[[Any], Any] | None] = None


def _start(begin: Callable[[], Callable[[Any], Any]]) -> None:
    """In a new process: leave Ctrl-C to the parent, and exit when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Process.begin = begin

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _work(piece: Any) -> Any:
    if _Process.function is None:  # here, as what an initializer raises is lost
        _Process.function = _Process.begin()
    return _Process.function(piece)
