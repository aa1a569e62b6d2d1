"""Makes training steps: skips those that are not finite, validates, keeps the best state, saves. Knows neither the
model nor what it learns: it is given a model, its optimizer and an objective.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.training.checkpoints import Checkpoint, save_checkpoint
from chainrule.training.objectives import Objective, Validation
from chainrule.training.optimizer import Optimizer

SAVE_SECONDS = 300.0  # a checkpoint at least so often, beside those at each validation
NOT_FINITE = 10  # steps in a row that end the training


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
    weights: Callable[[], Mapping[str, Tensor]] | None = None  # what is saved of the model; None: what is trained
    saved: Callable[[], None] = lambda: None  # called when a checkpoint is there


@dataclass(frozen=True)
class Progress:
    """Where the training stands after a step."""

    step: int  # from 1: how many steps have been made
    steps: int  # of the whole training
    loss: float  # nats, the mean over the step's examples before the step
    gradient_norm: float  # before clipping
    skipped: bool  # the loss or the gradient was not finite, and no weight moved
    steps_per_second: float  # without the time of validating, saving, and whatever the caller does between steps
    seconds: float  # spent in all, over all the times the training was started
    seconds_left: float
    validation: Validation | None

    @property
    def validation_loss(self) -> float | None:
        return None if self.validation is None else self.validation.loss


class Trainer:
    """The training of a model by an objective: iterate `steps`. Whoever iterates may stop at any step.

    model: its parameters that require a gradient are trained. log: called after each step, before it is saved.
    clip: the norm that a step's gradient has at most.
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
        log: Callable[[Progress], None] = lambda progress: None,
        clip: float = 1.0,
    ) -> None:
        self.model, self.optimizer, self.objective, self.total = model, optimizer, objective, total
        self.validating, self.saving, self.log, self.clip = validating, saving, log, clip
        self.step = 0
        self.seconds = 0.0
        self.skipped = 0  # steps whose loss or gradient was not finite
        self.skipped_in_a_row = 0
        self.best: Validation | None = None
        self._best_weights: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        return self.step >= self.total

    def steps(self) -> Iterator[Progress]:
        """Make the steps that are left, yielding after each. Raises ChainruleError after `NOT_FINITE` skipped steps in
        a row."""
        if self.validating is not None and self.validating.keep_best and self.best is None:
            self._validate(self.validating)
        started = last_save = time.monotonic()
        before, first, idle = self.seconds, self.step, 0.0
        while not self.finished:
            self.model.train()
            loss, norm = self._make_step()
            pause = time.monotonic()
            pace = (pause - started - idle) / (self.step - first)
            due = self.validating is not None and (self.step % self.validating.every == 0 or self.finished)
            validation = self._validate(self.validating) if self.validating is not None and due else None
            now = time.monotonic()
            self.seconds = before + now - started
            progress = Progress(
                step=self.step,
                steps=self.total,
                loss=loss,
                gradient_norm=norm,
                skipped=self.skipped_in_a_row > 0,
                steps_per_second=1 / max(1e-9, pace),
                seconds=self.seconds,
                seconds_left=(self.total - self.step) * (now - started) / (self.step - first),
                validation=validation,
            )
            self.log(progress)
            # While steps are skipped, the checkpoint before is the good one.
            due = (due or now - last_save > SAVE_SECONDS) and not self.skipped_in_a_row
            if self.saving is not None and (due or self.finished):
                self.save()
                last_save = time.monotonic()
            yield progress
            idle += time.monotonic() - pause

    def save(self) -> None:
        """Write a whole checkpoint of where the training stands, unless there is one."""
        assert self.saving is not None, "nothing says where to save"
        if not (self.saving.folder / str(self.step)).is_dir():
            model = trained(self.model) if self.saving.weights is None else self.saving.weights()
            tensors = {"model": model, "optimizer": self.optimizer.state()}
            state: dict[str, Any] = {
                "seconds": self.seconds,
                "skipped": self.skipped,
                "skipped_in_a_row": self.skipped_in_a_row,
            }
            if self.best is not None:
                tensors["best"], state["best"] = self._best_weights, dataclasses.asdict(self.best)
            save_checkpoint(self.saving.folder, self.step, tensors, state)
        self.saving.saved()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Weights that `Saving.weights` named are loaded by whoever named them."""
        state = checkpoint.state
        self.step, self.seconds = checkpoint.step, state["seconds"]
        self.skipped, self.skipped_in_a_row = state.get("skipped", 0), state.get("skipped_in_a_row", 0)
        self.optimizer.load_state(checkpoint.tensors("optimizer"))
        now = trained(self.model)
        if self.saving is None or self.saving.weights is None:
            for name, tensor in checkpoint.tensors("model").items():
                now[name].copy_(tensor)
        if state.get("best") is not None:
            self.best, best = Validation(**state["best"]), checkpoint.tensors("best")
            self._best_weights = {name: tensor.to(now[name].device) for name, tensor in best.items()}

    def result(self) -> dict[str, Tensor]:
        """What was trained, by name: in the best state where that is kept, else in the last."""
        return self._best_weights or trained(self.model)

    def _make_step(self) -> tuple[float, float]:
        """One step; its loss and gradient norm."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        total, count = accumulate(self.model, self.objective, self.step)
        norm, loss = clip_mean(parameters, count, self.clip), total / count
        finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        if finite:
            self.optimizer.step(self.step)
        for parameter in parameters:
            parameter.grad = None
        self.step += 1
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row == NOT_FINITE:
            kept = "" if self.saving is None else f" and another --out ({self.saving.folder} keeps the last good state)"
            raise ChainruleError(
                f"training: wanted finite losses, got {NOT_FINITE} steps in a row without one, at step {self.step};"
                f" start again with a lower learning rate{kept}"
            )
        return float(loss), float(norm)

    def _validate(self, validating: Validating) -> Validation:
        self.model.eval()
        with torch.no_grad():
            found = validating.measure()
        if validating.keep_best and found.better(self.best):
            self.best = found
            self._best_weights = {name: tensor.clone() for name, tensor in trained(self.model).items()}
        return found


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that require a gradient, by name."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def accumulate(
    model: nn.Module, objective: Objective[Any], step: int, rank: int = 0, world: int = 1
) -> tuple[Tensor, Tensor]:
    """Add the gradients of a step's summed loss to the parameters, micro-batch by micro-batch; the sum and the count.

    Gradients, sums and counts of all ranks add up to those of a single process.
    """
    total = count = torch.zeros(())
    for batch in objective.batches(step, rank, world):
        part, size = objective.loss(model, batch)
        part.backward()
        total, count = total + part.detach(), count + size
    return total, count


def clip_mean(parameters: Sequence[nn.Parameter], count: Tensor, limit: float) -> Tensor:
    """Turn gradients of a sum of `count` losses into those of their mean, with a norm of at most `limit`.

    Returns the norm of the mean's gradient before that. Both are one multiplication, so one pass over the gradients.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) / count
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0) / count)
    return norm
