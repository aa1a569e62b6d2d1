"""Makes training steps: skips those that are not finite, validates, keeps the best state, saves. Knows neither the
model nor what it learns: it is given a model, its optimizer and an objective, and the processes that share the work.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chainrule import machine
from chainrule.errors import ChainruleError
from chainrule.model.formats.sharded_file import Parts
from chainrule.terminal import log as print_line
from chainrule.training.activations import compute_less_at_once
from chainrule.training.checkpoints import NEWEST, Checkpoint, CheckpointWriter, Keeping
from chainrule.training.gradients import accumulate, accumulate_cut, clip_mean
from chainrule.training.objectives import Objective, Validation
from chainrule.training.optimizer import Optimizer, part_of
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.sharding import gradients_fit, load_own, local, release, sharded, whole
from chainrule.training.stopping import Passes, StoppedElsewhereError

SAVE_SECONDS = 300.0  # a checkpoint at least so often, beside those at each validation
NOT_FINITE = 10  # steps in a row that end the training
READ_EVERY = 50  # steps; where a GPU computes, whether losses are finite is read so often, and at each checkpoint


@dataclass(frozen=True)
class Validating:
    """How a trainer validates."""

    measure: Callable[[], Validation]  # of the model as it is; called in evaluation mode, without gradients
    every: int  # steps; and after the last one
    keep_best: bool = False  # the best state, that before the first step included, is the result


@dataclass(frozen=True)
class Saving:
    """How a trainer writes checkpoints."""

    folder: Path
    weights: Callable[[], Mapping[str, Tensor | Parts]] | None = None  # what is saved of the model; None: the trained
    saved: Callable[[int], None] = lambda step: None  # called when a step's checkpoint is there, in a thread
    keeping: Keeping = NEWEST


@dataclass(frozen=True)
class Progress:
    """Where the training stands after a step. Reading loss, norm or skipped waits for the device."""

    step: int  # from 1: how many steps have been made
    steps: int  # of the whole training
    measured: Tensor  # loss, gradient norm, and whether both are finite
    steps_per_second: float  # without the time of validating, saving, and whatever the caller does between steps
    seconds: float  # spent in all, over all the times the training was started
    seconds_left: float
    validation: Validation | None

    @property
    def shown(self) -> bool:
        """Whether to show a step's loss: where reading it waits for a GPU, only now and then."""
        return self.measured.device.type != "cuda" or self.validation is not None or self.step % READ_EVERY == 0

    @property
    def loss(self) -> float:
        """Nats, the mean over the step's examples before the step."""
        return float(self.measured[0])

    @property
    def gradient_norm(self) -> float:
        """Before clipping."""
        return float(self.measured[1])

    @property
    def skipped(self) -> bool:
        """The loss or the gradient was not finite, and no weight moved."""
        return not self.measured[2]

    @property
    def validation_loss(self) -> float | None:
        return None if self.validation is None else self.validation.loss


class Trainer:
    """The training of a model by an objective: iterate `steps`. Whoever iterates may stop at any step.

    model: its parameters that require a gradient are trained. after_step: called with each, before it is saved.
    clip: the norm that a step's gradient has at most. processes: those that compute parts of each step; all of them
    iterate alike, and the first one saves what is not cut. log: called with a line for the user, where memory ran out
    and a step's parts are made smaller.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        objective: Objective[Any],
        total: int,
        *,
        validating: Validating | None = None,
        saving: Saving | None = None,
        after_step: Callable[[Progress], None] = lambda progress: None,
        clip: float = 1.0,
        processes: Processes = ALONE,
        log: Callable[[str], None] = print_line,
    ) -> None:
        self.model, self.optimizer, self.objective, self.total = model, optimizer, objective, total
        self.validating, self.saving, self.after_step, self.clip = validating, saving, after_step, clip
        self.processes, self.log = processes, log
        self.step = 0
        self.seconds = 0.0
        self.best: Validation | None = None
        self._best_weights: dict[str, Tensor] = {}
        device = next(model.parameters()).device
        # On a GPU a step is not waited for: whether it counts is decided there.
        self.ahead = device.type == "cuda"
        self._skipped, self._in_a_row = (torch.zeros((), dtype=torch.long, device=device) for _ in range(2))
        self._once_a_step = not sharded(model) or gradients_fit(model, processes)
        self._passes = Passes(model, processes) if sharded(model) else None
        self.writer = None
        if saving is not None:
            beside = self.ahead or processes.world > 1
            self.writer = CheckpointWriter(saving.folder, saving.saved, saving.keeping, processes, beside)

    @property
    def finished(self) -> bool:
        return self.step >= self.total

    @property
    def skipped(self) -> int:
        """How many steps' loss or gradient was not finite."""
        return int(self._skipped)

    @property
    def skipped_in_a_row(self) -> int:
        """How many of these were the last ones."""
        return int(self._in_a_row)

    def steps(self) -> Iterator[Progress]:
        """Make the steps that are left, yielding after each. Raises ChainruleError after `NOT_FINITE` skipped steps in
        a row."""
        if self.validating is not None and self.validating.keep_best and self.best is None:
            self._validate(self.validating)
        started = last_save = time.monotonic()
        before, first, idle = self.seconds, self.step, 0.0
        try:
            while not self.finished:
                self.model.train()
                measured = self._make_step()
                pause = time.monotonic()
                pace = (pause - started - idle) / (self.step - first)
                due = self.validating is not None and (self.step % self.validating.every == 0 or self.finished)
                validation = self._validate(self.validating) if self.validating is not None and due else None
                now = time.monotonic()
                self.seconds = before + now - started
                progress = Progress(
                    step=self.step,
                    steps=self.total,
                    measured=measured,
                    steps_per_second=1 / max(1e-9, pace),
                    seconds=self.seconds,
                    seconds_left=(self.total - self.step) * (now - started) / (self.step - first),
                    validation=validation,
                )
                self.after_step(progress)
                if self.saving is not None:
                    late = self.processes.first and now - last_save > SAVE_SECONDS
                    # While steps are skipped, the checkpoint before is the good one.
                    if self.finished or ((due or self.processes.largest(late)) and not self.skipped_in_a_row):
                        self._start_saving(validation)
                        last_save = time.monotonic()
                    if self.finished and self.writer is not None:
                        self.writer.wait()
                yield progress
                idle += time.monotonic() - pause
        finally:
            if self.writer is not None:
                self.writer.wait()

    def save(self) -> None:
        """Write a whole checkpoint of where the training stands, unless there is one, and return when it is there."""
        self._start_saving(None)
        if self.writer is not None:
            self.writer.wait()

    def _start_saving(self, validation: Validation | None) -> None:
        """Save while the training goes on."""
        assert self.saving is not None and self.writer is not None, "nothing says where to save"
        self.writer.wait()
        self._check_finite()
        if self.processes.from_first((self.saving.folder / str(self.step)).is_dir()):
            if self.processes.first:
                self.saving.saved(self.step)
            return
        state: dict[str, Any] = {
            "seconds": self.seconds,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }
        model = self._parts(trained(self.model)) if self.saving.weights is None else self.saving.weights()
        tensors = {"model": model, "optimizer": self.optimizer.state()}
        if validation is not None:
            state["validation_loss"] = validation.loss
        if self.best is not None:
            tensors["best"], state["best"] = self._parts(self._best_weights), dataclasses.asdict(self.best)
        self.writer.start(self.step, tensors, state)

    def _parts(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor | Parts]:
        """What this process has of tensors that are cut like the parameters of their names."""
        return {name: part_of(tensor, local(tensor)) for name, tensor in tensors.items()}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Weights that `Saving.weights` named are loaded by whoever named them."""
        state = checkpoint.state
        self.step, self.seconds = checkpoint.step, state["seconds"]
        self._skipped.fill_(state.get("skipped", 0))
        self._in_a_row.fill_(state.get("skipped_in_a_row", 0))
        self.optimizer.load_state(checkpoint.tensors("optimizer"))
        now = trained(self.model)
        if self.saving is None or self.saving.weights is None:
            load_own(now, checkpoint.tensors("model"))
        if state.get("best") is not None:
            self.best, best = Validation(**state["best"]), checkpoint.tensors("best")
            self._best_weights = {name: torch.empty_like(now[name]) for name in best}
            load_own(self._best_weights, best)

    def result(self) -> dict[str, Tensor]:
        """What was trained, by name: in the best state where that is kept, else in the last. All processes call it."""
        return {name: whole(tensor) for name, tensor in (self._best_weights or trained(self.model)).items()}

    def _make_step(self) -> Tensor:
        """One step; its loss, its gradient norm, and whether both are finite: 1 or 0."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        total, count = self._accumulate_in_memory(parameters)
        total, count = self.processes.sum(total, count)
        norm = clip_mean(parameters, count, self.clip, self.processes, cut=sharded(self.model))
        loss = total / count
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        if self.ahead:
            self.optimizer.step(self.step, finite)
        elif finite:
            self.optimizer.step(self.step)
        for parameter in parameters:
            parameter.grad = None
        self.step += 1
        self._skipped += ~finite
        self._in_a_row = torch.where(finite, 0, self._in_a_row + 1)
        if not self.ahead or self.step % READ_EVERY == 0:
            self._check_finite()
        return torch.stack([loss, norm, finite.to(loss.dtype)])

    def _check_finite(self) -> None:
        if self.skipped_in_a_row >= NOT_FINITE:
            kept = "" if self.saving is None else f" and another --out ({self.saving.folder} keeps the last good state)"
            raise ChainruleError(
                f"training: wanted finite losses, got {self.skipped_in_a_row} steps in a row without one, at step"
                f" {self.step}; start again with a lower learning rate{kept}"
            )

    def _accumulate_in_memory(self, parameters: Sequence[nn.Parameter]) -> tuple[Tensor, Tensor]:
        """The sum and the count of this process's losses, whose gradients are added to the parameters; where memory
        runs out, again in smaller parts, of which the steps after this one are too.

        Each process finds its own size: sums and counts are the same. Where weights are cut, all try again together.
        Raises ChainruleError where the parts are the smallest already.
        """
        device, (rank, world) = self._skipped.device, (self.processes.rank, self.processes.world)
        while True:
            try:
                if self._passes is not None:
                    return accumulate_cut(self.model, self.objective, self.step, self._passes, self._once_a_step)
                return accumulate(self.model, self.objective, self.step, rank, world)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                elsewhere = isinstance(error, StoppedElsewhereError)
                if not elsewhere and not machine.is_out_of_memory(error):
                    raise
            # The error, and with it whatever its frames hold, is gone here.
            for parameter in parameters:
                parameter.grad = None
            machine.empty_cache(device)
            if self._passes is None:
                less = compute_less_at_once(self.model, self.objective, self.step, rank, world)
            else:
                less = self._less_together(self._passes)
            if elsewhere and less is not None:
                continue
            if less is None:
                raise ChainruleError(
                    f"training: wanted memory for the smallest part of a step on {device}, got too little; take"
                    " --checkpoint-activations on, a smaller model or context, or more processes with --shard on"
                )
            where = f"{device}" if world == 1 else f"{device} of process {rank}"
            self.log(f"out of memory on {where} at step {self.step + 1}: going on with {less}; the steps stay the same")

    def _less_together(self, passes: Passes) -> str | None:
        """`compute_less_at_once` by all processes alike, as each makes as many passes as the others."""
        if not passes.can_be_repeated:
            return None
        passes.forget()
        rank, world, largest = self.processes.rank, self.processes.world, self.processes.largest
        return compute_less_at_once(self.model, self.objective, self.step, rank, world, largest)

    def _validate(self, validating: Validating) -> Validation:
        self.model.eval()
        with torch.no_grad():
            found = validating.measure()
        release(self.model)
        if validating.keep_best and found.better(self.best):
            self.best = found
            self._best_weights = {name: tensor.clone() for name, tensor in trained(self.model).items()}
        return found


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that require a gradient, by name."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
