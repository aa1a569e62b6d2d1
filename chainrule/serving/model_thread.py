"""The thread that computes on one model: steps of its engine, and between them functions that use the model. Nothing
else computes on it. Knows tokens, not requests.

What arrives for a sequence is delivered on the thread of the event loop that started it.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from chainrule.errors import ChainruleError
from chainrule.generation.engine import Engine, NewToken
from chainrule.generation.sampling import Sampling
from chainrule.machine import release_threads
from chainrule.serving.jobs import Job

T = TypeVar("T")
Receive = Callable[[NewToken | Exception], None]
_PATIENCE = 10.0  # seconds that a step may still take when the thread is to end
_IDLE = 1.0  # seconds without work after which the threads that compute with this one are released
log = logging.getLogger(__name__)


class FullError(Exception):
    """As many wait as may wait."""


class EngineError(Exception):
    """The engine failed at this sequence, or the thread has ended."""


@dataclass(frozen=True)
class Wanted:
    """A sequence to generate: the arguments of `Engine.add`."""

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    sample: int
    max_tokens: int
    stop_tokens: Collection[int] = ()
    top: int = 0


@dataclass(eq=False)
class Started:
    """A sequence that was handed to the thread."""

    wanted: Wanted
    receive: Receive
    loop: asyncio.AbstractEventLoop
    id: int | None = None  # the engine's
    ended: bool = False  # it got its last token, or was cancelled


@dataclass
class Counts:
    """What a model's thread has done so far."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    sequences: int = 0
    failed: int = 0
    cancelled: int = 0


class ModelThread:
    """Generates for many clients at once, at most `waiting` of whose sequences and functions may wait.

    `dead` is what ended the thread, None while it works; `died` is then called, on the thread.
    """

    def __init__(
        self, name: str, engine: Engine | None = None, *, waiting: int = 1024, died: Callable[[], None] | None = None
    ) -> None:
        self.engine, self.waiting, self.counts = engine, waiting, Counts()
        self.dead: BaseException | None = None
        self.died = died
        self._at_once = engine.batch_size if engine is not None else 1
        self._jobs: deque[Job] = deque()
        self._new: deque[Started] = deque()
        self._cancelled: deque[Started] = deque()
        self._open: set[Started] = set()  # wait or run
        self._by_id: dict[int, Started] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    # Called from an event loop.

    @property
    def open(self) -> int:
        """How many sequences run or wait."""
        return len(self._open)

    @overload
    async def run(self, function: Callable[[], Generator[None, None, T]]) -> T: ...
    @overload
    async def run(self, function: Callable[[], T]) -> T: ...
    async def run(self, function: Callable[[], Any]) -> Any:
        """The value of `function`, called on the model's thread between two steps; what it raises is raised here.

        At each `yield` of a function that has some, the engine makes a step; its value is what it returns. One that
        nobody waits for any more is not begun, or not continued. Raises FullError where too many wait.
        """
        job = Job(function)
        with self._changed:
            self._check(len(self._jobs) + 1 > self.waiting)
            self._jobs.append(job)
            self._changed.notify()
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            job.left = True

    def start(self, wanted: Sequence[Wanted], receive: Sequence[Receive]) -> list[Started]:
        """Start sequences together; each one's function gets its tokens, or what it failed with, on the event loop.

        Raises FullError where they would be too many.
        """
        loop = asyncio.get_running_loop()
        made = [Started(one, function, loop) for one, function in zip(wanted, receive, strict=True)]
        with self._changed:
            self._check(len(self._open) + len(made) > self._at_once + self.waiting)
            self._open.update(made)
            self._new.extend(made)
            self._changed.notify()
        return made

    def cancel(self, sequences: Sequence[Started]) -> None:
        """End sequences wherever they are; nothing happens to those that have ended."""
        with self._changed:
            for sequence in sequences:
                if not sequence.ended:
                    sequence.ended = True
                    self._open.discard(sequence)
                    self._cancelled.append(sequence)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after its present step, and wait for that."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(_PATIENCE)

    def _check(self, full: bool) -> None:
        if self.dead is not None or self._stopping:
            raise EngineError("the model's thread has ended")
        if full:
            raise FullError

    # The thread.

    def _work(self) -> None:
        try:
            while self._round():
                pass
        except BaseException as error:
            log.exception("the thread of a model has ended")
            self.dead = error
        with self._changed:
            self._stopping = True
            left, jobs = list(self._open), list(self._jobs)
            self._open.clear()
            self._jobs.clear()
        self._deliver([(each, EngineError("the model's thread has ended")) for each in left])
        for job in jobs:
            job.fail(EngineError("the model's thread has ended"))
        if self.dead is not None and self.died is not None:
            self.died()

    def _round(self) -> bool:
        """What arrived, a part of a job, and a step of the engine; False at the end."""
        with self._changed:
            if not self._changed.wait_for(self._anything, _IDLE):
                release_threads()  # for the threads of other models
                self._changed.wait_for(self._anything)
            if self._stopping:
                return False
            new, cancelled = list(self._new), list(self._cancelled)
            self._new.clear()
            self._cancelled.clear()
            job = self._jobs.popleft() if self._jobs else None
        for each in new:
            self._add(each)
        for each in cancelled:
            if self.engine is not None and each.id is not None and self._by_id.pop(each.id, None) is not None:
                self.engine.cancel(each.id)
        if job is not None and not job.advance():
            with self._changed:
                self._jobs.appendleft(job)
        if self.engine:
            self._step(self.engine)
        return True

    def _anything(self) -> bool:
        return bool(self._stopping or self._new or self._cancelled or self._jobs or self.engine)

    def _add(self, started: Started) -> None:
        if started.ended:
            return
        assert self.engine is not None
        wanted = started.wanted
        try:
            started.id = self.engine.add(
                wanted.prompt,
                wanted.sampling,
                seed=wanted.seed,
                sample=wanted.sample,
                max_tokens=wanted.max_tokens,
                stop_tokens=wanted.stop_tokens,
                top=wanted.top,
            )
        except Exception as error:
            self._end(started)
            if not isinstance(error, ChainruleError):
                log.exception("a sequence could not be added")
                self.counts.failed += 1
                error = EngineError("the engine failed at this request")
            self._deliver([(started, error)])
            return
        self._by_id[started.id] = started
        self.counts.prompt_tokens += len(wanted.prompt)
        self.counts.sequences += 1

    def _step(self, engine: Engine) -> None:
        try:
            step = engine.step()
        except Exception:
            log.exception("a step of the engine failed")
            self._recover(engine)
            return
        self.counts.new_tokens += len(step)
        news: list[tuple[Started, NewToken | Exception]] = []
        for new in step:
            started = self._by_id[new.id]
            if new.finish_reason is not None:
                del self._by_id[new.id]
                self._end(started)
            news.append((started, new))
        self._deliver(news)

    def _recover(self, engine: Engine) -> None:
        """End the sequences that the engine fails at. Raises what it fails with where it cannot do anything."""
        failed = engine.recover()
        if failed and not engine:  # all of them: is it the engine?
            alone = Engine(engine.model)
            alone.add([0], Sampling(0), max_tokens=1)
            alone.step()
        if not failed:  # each alone is well: together they may want too much memory
            failed = [(max(self._by_id), EngineError("the engine failed"))]
            engine.cancel(failed[0][0])
        news: list[tuple[Started, NewToken | Exception]] = []
        for id, _ in failed:
            started = self._by_id.pop(id)
            self._end(started)
            news.append((started, EngineError("the engine failed at this request")))
        self.counts.failed += len(news)
        self._deliver(news)

    def _end(self, started: Started) -> None:
        with self._changed:
            started.ended = True
            self._open.discard(started)

    def _deliver(self, news: list[tuple[Started, NewToken | Exception]]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[tuple[Started, NewToken | Exception]]] = {}
        for each in news:
            loops.setdefault(each[0].loop, []).append(each)
        for loop, part in loops.items():
            with suppress(RuntimeError):  # a loop that was closed: nobody is there
                loop.call_soon_threadsafe(_received, part)


def _received(news: list[tuple[Started, NewToken | Exception]]) -> None:
    for started, new in news:
        started.receive(new)
