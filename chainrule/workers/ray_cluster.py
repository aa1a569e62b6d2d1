"""Work that was cut into pieces, done by the workers of a Ray cluster. Knows neither the pieces nor the work, nor how
the cluster was found.

`begin` and the pieces are as in `chainrule.workers.processes`. Each worker is a Ray actor that calls `begin` once. A
worker that dies costs the piece that it had: another does it again, and a new worker is asked for.
"""

import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeVar

from chainrule import errors
from chainrule.errors import ChainruleError, OptionError, WorkerKilledError
from chainrule.workers.processes import Begin

Piece = TypeVar("Piece")
Result = TypeVar("Result")
START_SECONDS = 300.0  # for the first worker to be there: it may load a large model
_TRIES = 3  # of a piece whose workers die
_AHEAD = 4  # pieces a worker that are read before their turn: bounds the memory


class Worker:
    """The actor. Mistakes of the user travel as words: what is raised in an actor comes with Ray's traceback."""

    def __init__(self, begin: Begin[Any, Any]) -> None:
        self._begin = begin

    def start(self) -> tuple[str, Any]:
        """Load what the work needs; the version that runs here."""
        try:
            self._function = self._begin()
        except ChainruleError as error:
            return _mistake(error, f"on {socket.gethostname()}: ")
        return "done", (version("chainrule"), socket.gethostname())

    def work(self, piece: Any) -> tuple[str, Any]:
        """The result of a piece, or the user's mistake in it."""
        try:
            return "done", self._function(piece)
        except ChainruleError as error:
            return _mistake(error)


def _mistake(error: ChainruleError, where: str = "") -> tuple[str, Any]:
    known = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
    return "mistake", (known, f"{where}{error}")


def _unwrapped(answer: tuple[str, Any]) -> Any:
    """A worker's result; raises its mistake."""
    what, value = answer
    if what == "mistake":
        raise getattr(errors, value[0])(value[1])
    return value


def _reason(error: Exception) -> str:
    """Why a worker ended: the last line of what Ray says."""
    lines = str(error).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), type(error).__name__)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass
class _Given:
    """A piece that a worker has, or that waits for another one because its worker died."""

    index: int
    piece: Any
    tries: int = 0


@dataclass
class _Workers:
    """The actors, by what they do now."""

    idle: list[Any] = field(default_factory=list)
    starting: dict[Any, tuple[Any, dict[str, float]]] = field(default_factory=dict)  # reference -> actor, resources
    running: dict[Any, tuple[Any, _Given]] = field(default_factory=dict)
    resources: dict[Any, dict[str, float]] = field(default_factory=dict)  # of each actor

    @property
    def actors(self) -> list[Any]:
        return list(self.resources)


class Cluster:
    """A Ray cluster that is connected."""

    def __init__(self, ray: Any) -> None:
        self._ray, self._why, ended = ray, "", ray.exceptions
        self._deaths = (ended.RayActorError, ended.WorkerCrashedError, ended.OutOfMemoryError, ended.ObjectLostError)

    def map(
        self,
        begin: Begin[Piece, Result],
        pieces: Iterable[Piece],
        *,
        whole_nodes: bool = False,
        device: str = "cpu",
        workers: int | None = None,
        ahead: int = _AHEAD,
    ) -> Iterator[Result]:
        """The result of each piece, in order; `ahead` pieces a worker are read before their turn.

        A worker has a core; or, where it loads a model (`whole_nodes`), a GPU, unless `device` is "cpu" or the cluster
        has none, else a machine with all its cores. `workers`: at most so many. Raises what the work raises, and
        ChainruleError where no worker starts and for a worker of another version, and WorkerKilledError where a piece
        has killed three.
        """
        shares = self._shares(whole_nodes, device)[:workers]
        found = _Workers()
        try:
            for resources in shares:
                self._start(found, begin, resources)
            yield from self._results(found, begin, pieces, ahead * len(shares))
        finally:
            for actor in found.actors:
                self._ray.kill(actor)

    def _shares(self, whole_nodes: bool, device: str) -> list[dict[str, float]]:
        """What each worker asks of the cluster."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cores = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes if node.get("CPU", 0) >= 1]
        if not cores:
            raise OptionError("--cluster: wanted a cluster with free cores, got none; add a machine with ray start")
        if not whole_nodes:
            return [{"num_cpus": 1}] * sum(cpus for cpus, _ in cores)
        if device in ("auto", "cuda") and any(gpus for _, gpus in cores):
            return [{"num_cpus": max(1, cpus // gpus), "num_gpus": 1} for cpus, gpus in cores for _ in range(gpus)]
        if device == "cuda":
            raise OptionError("--device: wanted cuda in the cluster, whose machines have no GPU; take --device cpu")
        return [{"num_cpus": cpus} for cpus, _ in cores]

    def _start(self, workers: _Workers, begin: Begin[Any, Any], resources: dict[str, float]) -> None:
        actor = self._ray.remote(Worker).options(**resources).remote(begin)
        workers.resources[actor] = resources
        workers.starting[actor.start.remote()] = (actor, resources)

    def _results(self, workers: _Workers, begin: Begin[Any, Any], pieces: Iterable[Any], ahead: int) -> Iterator[Any]:
        rest, ended = enumerate(pieces), False
        again: deque[_Given] = deque()  # pieces of workers that died
        done: dict[int, Any] = {}
        following, given, failed = 0, 0, 0
        deadline = time.monotonic() + START_SECONDS
        while True:
            while workers.idle and (again or (not ended and given - following < ahead)):
                if again:
                    one = again.popleft()
                else:
                    index, piece = next(rest, (given, _NOTHING))
                    if piece is _NOTHING:
                        ended = True
                        break
                    one, given = _Given(index, piece), given + 1
                actor = workers.idle.pop()
                workers.running[actor.work.remote(one.piece)] = (actor, one)
            while following in done:
                yield done.pop(following)
                following += 1
            if ended and not again and not workers.running:
                return
            if workers.idle and not ended and not again and given - following < ahead:
                continue  # room again for pieces to be read
            ready, _ = self._ray.wait([*workers.running, *workers.starting], num_returns=1, timeout=1.0)
            if not workers.running and not workers.idle and not ready and time.monotonic() > deadline:
                raise ChainruleError(
                    f"--cluster: wanted a worker within {START_SECONDS:.0f} s, got none; see ray status for cores that"
                    " are free"
                )
            for reference in ready:
                if reference in workers.starting:
                    failed += self._started(workers, reference)
                    if failed and not workers.resources:
                        raise self._no_worker()
                else:
                    lost = self._worked(workers, reference, done, begin)
                    deadline = time.monotonic() + START_SECONDS
                    if lost is not None:
                        again.append(lost)

    def _started(self, workers: _Workers, reference: Any) -> bool:
        """Note that a worker is ready; True where it died instead."""
        actor, _ = workers.starting.pop(reference)
        try:
            theirs, host = _unwrapped(self._ray.get(reference))
        except self._deaths as error:
            del workers.resources[actor]
            self._why = _reason(error)
            _tell(f"a worker of the cluster ended before it could work ({self._why})")
            return True
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ImportError):
                raise ChainruleError(
                    f"--cluster: wanted chainrule on every machine of the cluster, got {error.cause}; install it there"
                ) from None
            raise
        if theirs != version("chainrule"):
            raise ChainruleError(
                f"--cluster: wanted chainrule {version('chainrule')} on every machine, got {theirs} on {host}; install"
                " the same"
            )
        workers.idle.append(actor)
        return False

    def _no_worker(self) -> ChainruleError:
        return ChainruleError(
            f"--cluster: wanted workers, and each one ended before it could work ({self._why}); see that the"
            " machines of the cluster have this chainrule installed, and memory for the model"
        )

    def _worked(self, workers: _Workers, reference: Any, done: dict[int, Any], begin: Begin[Any, Any]) -> _Given | None:
        """Take a worker's result; where it died, ask for a new one, and return its piece to be done again."""
        actor, one = workers.running.pop(reference)
        try:
            done[one.index] = _unwrapped(self._ray.get(reference))
        except self._deaths as error:
            self._why = _reason(error)
            one.tries += 1
            if one.tries == _TRIES:
                raise WorkerKilledError(
                    f"--cluster: {_TRIES} workers were killed at the same piece of the work (too little memory?); what"
                    " was finished is kept where the command can go on; take larger machines"
                ) from None
            _tell("a worker of the cluster was killed: its piece is done again")
            self._start(workers, begin, workers.resources.pop(actor))
            return one
        workers.idle.append(actor)
        return None


_NOTHING = object()
