"""Checkpoints to resume training from, checked by their hashes before use. Knows tensors, not models."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from chainrule import machine
from chainrule.errors import FolderError
from chainrule.model.formats.checkpoint import save_weights
from chainrule.model.formats.sharded_file import Parts, SharedFile, copied
from chainrule.storage.files import atomic_directory, sha256, write_json
from chainrule.training.parallel import ALONE, Processes

Tensors = Mapping[str, Tensor]
COPIES = 0.25  # share of the free memory that a checkpoint's copies may take


@dataclass(frozen=True)
class Checkpoint:
    step: int
    path: Path
    state: Mapping[str, Any]  # counts, seconds and the like

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its files: "model", "optimizer", or "best"."""
        return load_file(self.path / f"{name}.safetensors")


@dataclass(frozen=True)
class Keeping:
    """Which checkpoints stay when another is written."""

    newest: int = 1
    best: bool = False  # and the one of the lowest validation loss


NEWEST = Keeping()


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], keeping: Keeping = NEWEST
) -> Path:
    """Write folder/<step>/ atomically; then remove earlier checkpoints that are not kept."""
    path = folder / str(step)
    with atomic_directory(path) as temporary:
        for name, values in tensors.items():
            save_weights(values, temporary / f"{name}.safetensors")
        _finish(temporary, state)
    _remove_earlier(folder, step, keeping)
    return path


def _finish(temporary: Path, state: Mapping[str, Any]) -> None:
    """Write state.json, with the hashes of the files that are there."""
    hashes = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
    write_json(temporary / "state.json", {**state, "sha256": hashes})


def _remove_earlier(folder: Path, step: int, keeping: Keeping) -> None:
    steps = _steps(folder)
    kept = set(sorted(before for before in steps if before <= step)[-keeping.newest :])
    if keeping.best:
        losses = {before: _validation_loss(path) for before, path in steps.items()}
        validated = {before: loss for before, loss in losses.items() if loss is not None}
        kept |= {min(validated, key=lambda before: (validated[before], before))} if validated else set()
    for before, path in steps.items():
        if before < step and before not in kept:
            shutil.rmtree(path)


def _validation_loss(path: Path) -> float | None:
    try:
        found = json.loads((path / "state.json").read_text(encoding="utf-8")).get("validation_loss")
    except (OSError, ValueError, AttributeError):
        return None  # `newest_checkpoint` raises the error, if it is to be used
    return found if isinstance(found, float) else None


class CheckpointWriter:
    """Writes the checkpoints of a training while it goes on: the tensors are copied, and a thread writes the copies.

    Where several processes each have parts of the tensors, each writes its own into the files that all share; the first
    names the checkpoint when all have. `saved` is then called, with the step, in the first process's thread. Without
    `beside` (a thread would only compete with a CPU's own training), and where there is no memory for copies, `start`
    returns when everything is written.
    """

    def __init__(
        self,
        folder: Path,
        saved: Callable[[int], None],
        keeping: Keeping = NEWEST,
        processes: Processes = ALONE,
        beside: bool = True,
    ) -> None:
        self.folder, self.saved, self.keeping, self.processes = folder, saved, keeping, processes
        self.beside = beside
        self.stalled = 0.0  # seconds that the training waited
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, step: int, tensors: Mapping[str, Mapping[str, Tensor | Parts]], state: Mapping[str, Any]) -> None:
        """Save these tensors and this state, after what is being written. Raises what went wrong with that."""
        started = time.monotonic()
        self.wait()
        size = sum(_bytes(tensor) for values in tensors.values() for tensor in values.values())
        if self.beside and size < COPIES * machine.free_memory() / self.processes.local:
            copies = {name: {key: _copied(value) for key, value in values.items()} for name, values in tensors.items()}
            self._thread = Thread(target=self._try, args=(step, copies, dict(state)), name="checkpoint")
            self._thread.start()
        else:
            self._write(step, tensors, state)
        self.stalled += time.monotonic() - started

    def wait(self) -> None:
        """Return when everything is written; raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _try(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as error:  # raised in the training's thread
            self._error = error

    def _write(self, step: int, tensors: Mapping[str, Mapping[str, Tensor | Parts]], state: Mapping[str, Any]) -> None:
        if any(isinstance(tensor, Parts) for values in tensors.values() for tensor in values.values()):
            self._write_shared(step, tensors, state)
        else:
            with self.processes.together("checkpoint"):
                if self.processes.first:
                    plain: Any = tensors
                    save_checkpoint(self.folder, step, plain, state, self.keeping)
        with self.processes.together("checkpoint"):
            if self.processes.first:
                self.saved(step)

    def _write_shared(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor | Parts]], state: Mapping[str, Any]
    ) -> None:
        processes, path = self.processes, self.folder / str(step)
        with atomic_directory(path) if processes.first else nullcontext(path) as own:
            temporary = Path(processes.from_first(str(own), "checkpoint"))
            files = [SharedFile(temporary / f"{name}.safetensors", values) for name, values in tensors.items()]
            with processes.together("checkpoint"):
                for file in files if processes.first else ():
                    file.create()
            with processes.together("checkpoint"):
                for file in files:
                    file.fill()
            if processes.first:
                _finish(temporary, state)
        if processes.first:
            _remove_earlier(self.folder, step, self.keeping)


def _bytes(tensor: Tensor | Parts) -> int:
    if isinstance(tensor, Parts):
        return sum(part.tensor.nbytes for part in tensor.parts)
    return tensor.nbytes


def _copied(tensor: Tensor | Parts) -> Tensor | Parts:
    return tensor.copied() if isinstance(tensor, Parts) else copied(tensor)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint to resume from, or None; FolderError where one of its files is missing or altered."""
    steps = _steps(folder)
    if not steps:
        return None
    step = max(steps)
    path = steps[step]
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        hashes = state.pop("sha256")
        if not isinstance(hashes, dict) or "seconds" not in state:
            raise ValueError("one without its hashes or its seconds")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FolderError(f"{path / 'state.json'}: wanted a checkpoint's state, got {error}; {_cure(path)}") from None
    for name, wanted in hashes.items():
        if not (path / name).is_file() or sha256(path / name) != wanted:
            raise FolderError(
                f"{path / name}: wanted the file that was saved, got one that is missing or altered; {_cure(path)}"
            )
    return Checkpoint(step, path, state)


def resumed(folder: Path, processes: Processes = ALONE) -> Checkpoint | None:
    """`newest_checkpoint`, which the first process finds and checks for all of them."""
    checkpoint = None
    with processes.together():
        checkpoint = newest_checkpoint(folder) if processes.first else None
    found = None if checkpoint is None else (checkpoint.step, str(checkpoint.path), dict(checkpoint.state))
    told = processes.from_first(found)
    return None if told is None else Checkpoint(told[0], Path(told[1]), told[2])


def _cure(path: Path) -> str:
    return f"remove {path} to start from an earlier checkpoint or the beginning"


def _steps(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    return {int(path.name): path for path in folder.iterdir() if path.name.isdigit()}
