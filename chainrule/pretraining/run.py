"""A pretraining run under way: steps made, logged, validated, saved; it can stop anywhere. Knows no terminal."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.corpus.batches import Batches, validation_windows
from chainrule.corpus.write import Split
from chainrule.errors import ChainruleError
from chainrule.language_model import Pretrained
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.model.formats.checkpoint import weights
from chainrule.model.transformer import Transformer
from chainrule.pretraining.curve import draw_losses
from chainrule.storage.files import write_text
from chainrule.training.checkpoints import Checkpoint, save_checkpoint
from chainrule.training.loop import train
from chainrule.training.objectives import Objective
from chainrule.training.optimizer import Optimizer

SAVE_SECONDS = 300.0  # a checkpoint at least so often, beside those at each validation
NOT_FINITE = 10  # steps in a row that end the run
SAMPLE_TOKENS = 48


@dataclass(frozen=True)
class Decided:
    """What was decided once for this run and machine, and is kept when it goes on: else the last bits would change."""

    steps: int
    rows: int  # windows a step
    micro_rows: int  # of them at once; their gradients are summed
    validate_every: int
    log_every: int
    dtype: str
    compiled: bool
    device: str
    threads: int
    matmul_rate: float  # of this machine, in operations a second: what `mfu` is a share of


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    loss: float  # nats a token, of this step's batch
    tokens_per_second: float
    mfu: float  # share of the machine's matmul rate
    seconds_left: float
    validation_loss: float | None
    note: str = ""  # what a person should be told now


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    steps: int
    tokens: int
    train_loss: float  # mean over the last tenth of the logged steps
    validation_loss: float | None
    seconds: float
    tokens_per_second: float


class Run:
    """A run's directory and what its steps need; `open_run` makes one or finds it again."""

    def __init__(
        self,
        out: Path,
        language_model: Pretrained,
        objective: Objective,
        optimizer: Optimizer,
        batches: Batches,
        validation: Split,
        decided: Decided,
    ) -> None:
        self.out, self.language_model, self.objective, self.optimizer = out, language_model, objective, optimizer
        self.batches, self.validation, self.decided = batches, validation, decided
        self.step = 0
        self.seconds = 0.0  # spent on steps, over all the times the run was started
        self.skipped = 0  # steps whose loss or gradient was not finite
        self.skipped_in_a_row = 0

    @property
    def finished(self) -> bool:
        return self.step >= self.decided.steps

    @property
    def step_tokens(self) -> int:
        return self.decided.rows * self.batches.context

    @property
    def model(self) -> Transformer:
        return self.language_model.model

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint; `advance` forgets what was logged after it."""
        self.step = checkpoint.step
        self.seconds = checkpoint.state["seconds"]
        self.skipped, self.skipped_in_a_row = checkpoint.state["skipped"], checkpoint.state["skipped_in_a_row"]
        self.optimizer.load_state(checkpoint.tensors("optimizer"))

    def advance(self) -> Iterator[Progress]:
        """Make the steps that are left, yielding after each; logs, validates, saves and publishes on the way.

        Whoever iterates may stop at any time; `save` keeps what was reached.
        """
        self._rewrite_log()
        last_save = time.monotonic()
        started, before, first = time.monotonic(), self.seconds, self.step
        idle = 0.0  # seconds of validating and saving, which are no part of the speed of training
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            self.model.train()
            for made in train(
                self.model,
                self.optimizer,
                micro_batches(self.batches, self.objective, self.decided),
                loss_function(self.model, self.objective, self.decided),
                steps=self.decided.steps,
                start=self.step,
            ):
                self.step = made.step
                self._count(made.skipped)
                validating = self.step % self.decided.validate_every == 0 or self.finished
                speed = (self.step - first) * self.step_tokens / max(1e-9, time.monotonic() - started - idle)
                pause = time.monotonic()
                validation_loss = self.validation_loss() if validating else None
                self.seconds = before + time.monotonic() - started
                progress = Progress(
                    step=self.step,
                    loss=made.loss,
                    tokens_per_second=speed,
                    mfu=speed * operations_per_token(self.model) / self.decided.matmul_rate,
                    seconds_left=(self.decided.steps - self.step) * (time.monotonic() - started) / (self.step - first),
                    validation_loss=validation_loss,
                    note=self._note(made.skipped),
                )
                if validating or self.step % self.decided.log_every == 0:
                    log.write(json.dumps(self._line(progress, made.gradient_norm)) + "\n")
                    log.flush()
                due = validating or time.monotonic() - last_save > SAVE_SECONDS
                if self.finished or (due and not self.skipped_in_a_row):  # else the state before is the good one
                    self.save()
                    last_save = time.monotonic()
                idle += time.monotonic() - pause
                yield progress
                self.model.train()

    def save(self) -> None:
        """Write a whole checkpoint of where the run stands, unless there is one, and publish its model."""
        folder = self.out / "training"
        if not (folder / str(self.step)).is_dir():
            with (self.out / "log.jsonl").open("a") as log:
                os.fsync(log.fileno())  # a checkpoint never knows more than the log
            state = {"seconds": self.seconds, "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
            tensors = {"model": weights(self.model, self.language_model.family), "optimizer": self.optimizer.state()}
            save_checkpoint(folder, self.step, tensors, state)
        self.publish()

    def publish(self) -> None:
        """Make the newest checkpoint's weights the directory's model, without a copy, and draw the losses."""
        beside = self.out / f".model.safetensors.{os.getpid()}.partial"
        beside.unlink(missing_ok=True)
        os.link(self.out / "training" / str(self.step) / "model.safetensors", beside)
        beside.replace(self.out / "model.safetensors")
        beside.unlink(missing_ok=True)  # renaming one name of a file to another of its names does nothing
        if self.finished:
            draw_losses(self.log(), self.out / "loss.svg")

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl; one that a kill cut short is left out."""
        path = self.out / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def summary(self) -> Summary:
        lines = self.log()
        tail = lines[-max(1, len(lines) // 10) :]
        validated = [line["validation_loss"] for line in lines if "validation_loss" in line]
        return Summary(
            steps=self.step,
            tokens=self.step * self.step_tokens,
            train_loss=sum(line["loss"] for line in tail) / len(tail),
            validation_loss=validated[-1] if validated else None,
            seconds=lines[-1]["seconds"],
            tokens_per_second=lines[-1]["tokens_per_second"],
        )

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean over consecutive windows of the whole validation split, in nats a token; blanks are always the same."""
        self.model.eval()
        total, tokens = 0.0, 0
        for number, windows in enumerate(
            validation_windows(self.validation, self.batches.context, self.decided.micro_rows)
        ):
            batch = self.objective.batch(windows, [number])
            if count := self.objective.predicted(batch):
                total += float(self.objective.loss(self.model, *_moved(batch, self.decided))) * count
                tokens += count
        return total / tokens

    def sample(self) -> str:
        """What the model says at a validation, so that learning can be watched: a short text from ⊥, from the same
        stream each time; or the validation text's beginning with the model's words, in brackets, in some places."""
        self.model.eval()
        room = self.batches.context - 1
        if isinstance(self.language_model, MaskedLanguageModel):
            room -= len(self.language_model.tokenizer.closing)
            return self.language_model.filled(self.validation.read(1, 1 + min(SAMPLE_TOKENS, room)).tolist())
        return self.language_model.generate("", max_tokens=min(SAMPLE_TOKENS, room), seed=0)

    def _count(self, skipped: bool) -> None:
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if self.skipped_in_a_row == NOT_FINITE:
            raise ChainruleError(
                f"pretrain: wanted finite losses, got {NOT_FINITE} steps in a row without one, at step {self.step}; "
                f"{self.out} keeps the last good state: start again elsewhere with a lower --learning-rate"
            )

    def _note(self, skipped: bool) -> str:
        if skipped:
            return (
                f"step {self.step} gave a loss or gradient that is not finite and was skipped ({self.skipped} so far)"
            )
        rows = self.decided.rows
        if self.batches.passes(self.step - 1, rows) > 4 >= self.batches.passes(self.step - 2, rows):
            return f"from step {self.step} on the text is read for the fifth time: more text would serve better"
        return ""

    def _line(self, progress: Progress, gradient_norm: float) -> dict[str, Any]:
        line = {
            "step": progress.step,
            "tokens": progress.step * self.step_tokens,
            "loss": progress.loss,
            "learning_rate": self.optimizer.rate(progress.step - 1),
            "gradient_norm": gradient_norm,
            "tokens_per_second": round(progress.tokens_per_second, 1),
            "mfu": round(progress.mfu, 4),
            "seconds": round(self.seconds, 3),
        }
        return line if progress.validation_loss is None else {**line, "validation_loss": progress.validation_loss}

    def _rewrite_log(self) -> None:
        kept = [json.dumps(line) + "\n" for line in self.log() if line["step"] <= self.step]
        write_text(self.out / "log.jsonl", "".join(kept))


def micro_batches(
    batches: Batches, objective: Objective, decided: Decided
) -> Callable[[int], Iterator[tuple[Tensor, ...]]]:
    """Step -> its windows as the objective has them, `micro_rows` at a time; a function of (seed, step) alone."""

    def of_step(step: int) -> Iterator[tuple[Tensor, ...]]:
        batch = _moved(objective.batch(batches.batch(step, decided.rows), [batches.seed % 2**64, step]), decided)
        return zip(*(tensor.split(decided.micro_rows) for tensor in batch), strict=True)

    return of_step


def _moved(batch: tuple[Tensor, ...], decided: Decided) -> tuple[Tensor, ...]:
    return tuple(tensor.to(decided.device) for tensor in batch)


def loss_function(model: Transformer, objective: Objective, decided: Decided) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """The objective for a batch, compiled where that was decided."""
    compute = torch.compile(objective.loss, dynamic=False) if decided.compiled else objective.loss
    return lambda batch: compute(model, *batch)


def operations_per_token(model: Transformer) -> float:
    """Floating-point operations of training on one token: 6 a matrix weight, and attention over half the context."""
    config = model.config
    matrices = sum(parameter.numel() for parameter in model.blocks.parameters()) + model.output_weight.numel()
    return 6 * matrices + 6 * config.layers * config.heads * config.head_width * config.context
