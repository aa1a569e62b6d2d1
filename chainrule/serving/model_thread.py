"""The thread that computes on one model: nothing else does. Knows functions, not requests."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class ModelThread:
    """Runs functions one after another on a thread of its own."""

    def __init__(self, name: str) -> None:
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], T]) -> T:
        """The value of `function`, called on the model's thread; what it raises is raised here.

        Cancelled before it has begun, it is never called.
        """
        future: Future[T] = Future()
        with self._changed:
            self._jobs.append((function, future))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """Let the thread end after what it does now."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if self._stopping:
                    return
                function, future = self._jobs.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
