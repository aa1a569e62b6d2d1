"""A pretraining run: its steps, log, samples and published model; it can stop anywhere. Knows no terminal."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from chainrule.corpus.batches import Batches
from chainrule.corpus.shards import Split
from chainrule.language_model import Pretrained
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.model.formats.checkpoint import weights
from chainrule.model.formats.sharded_file import Parts, weight_parts
from chainrule.model.quantised import QuantisedLinear
from chainrule.model.transformer import Transformer
from chainrule.pretraining.adapted import AdaptedModel
from chainrule.pretraining.curve import draw_losses
from chainrule.storage.files import write_text
from chainrule.storage.run_folder import unaltered
from chainrule.training.checkpoints import Keeping
from chainrule.training.objectives import Compiled, PretrainingObjective
from chainrule.training.optimizer import Optimizer
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.sharding import local, own_rows, release, sharded
from chainrule.training.trainer import Progress as Made
from chainrule.training.trainer import Saving, Trainer, Validating, trained

SAMPLE_TOKENS = 48


@dataclass(frozen=True)
class Decided:
    """What was decided once for this run and machine. A resumed run keeps it: else its last bits would change.

    The names are those of run.toml.
    """

    steps: int
    rows: int  # windows a step
    micro_rows: int  # windows a forward pass; their gradients are summed
    validate_every: int
    log_every: int
    dtype: str
    compiled: bool
    device: str
    threads: int  # of all processes together
    matmul_rate: float  # of a process, in floating-point operations a second


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    made: Made  # the step's loss, in nats a token, and gradient norm: reading them waits for the device
    tokens_per_second: float
    mfu: float  # share of the machine's matmul rate
    seconds_left: float
    validation_loss: float | None
    note: str = ""  # a line for the user, if there is something to say
    shown: bool = True  # the step's figures are logged, or known without waiting for the device

    @property
    def loss(self) -> float:
        return self.made.loss


@dataclass(frozen=True)
class Summary:
    """The figures of a run."""

    steps: int
    tokens: int
    train_loss: float  # mean over the last tenth of the logged steps
    validation_loss: float | None
    seconds: float
    tokens_per_second: float


class Run:
    """A run's folder and what its steps need; `open_run` makes one or finds it again."""

    def __init__(
        self,
        out: Path,
        language_model: Pretrained,
        objective: PretrainingObjective,
        optimizer: Optimizer,
        validation: Split,
        decided: Decided,
        processes: Processes = ALONE,
        keeping: Keeping = Keeping(),
        adapted: AdaptedModel | None = None,
    ) -> None:
        """`adapted`: what is trained and published in place of the whole model."""
        self.adapted = adapted
        self.out, self.language_model, self.objective = out, language_model, objective
        self.validation, self.decided, self.processes = validation, decided, processes
        self.trainer = Trainer(
            self.model,
            optimizer,
            Compiled(objective) if decided.compiled else objective,
            decided.steps,
            validating=Validating(
                lambda: objective.validate(self.model, validation, processes), decided.validate_every
            ),
            saving=Saving(out / "training", self._weights, self.publish, keeping),
            after_step=self._log if processes.first else lambda made: None,
            processes=processes,
        )

    @property
    def model(self) -> Transformer:
        return self.language_model.model

    @property
    def step(self) -> int:
        """How many steps have been made."""
        return self.trainer.step

    @property
    def finished(self) -> bool:
        return self.trainer.finished

    @property
    def seconds(self) -> float:
        """Spent training, over all the times the run was started."""
        return self.trainer.seconds

    @property
    def step_tokens(self) -> int:
        """Tokens read in a step."""
        return self.decided.rows * self.batches.context

    @property
    def batches(self) -> Batches:
        return self.objective.windows.source

    def advance(self) -> Iterator[Progress]:
        """Make the steps that are left, yielding after each; logs, validates, saves and publishes on the way.

        The caller may stop at any time; `save` keeps what was reached.
        """
        if self.processes.first:
            self._rewrite_log()
        for made in self.trainer.steps():
            tokens_per_second = made.steps_per_second * self.step_tokens
            shown = self._logged(made) or not self.trainer.ahead
            yield Progress(
                step=made.step,
                made=made,
                tokens_per_second=tokens_per_second,
                mfu=self._mfu(tokens_per_second),
                seconds_left=made.seconds_left,
                validation_loss=made.validation_loss,
                note=self._note(shown and made.skipped),
                shown=shown,
            )

    def save(self) -> None:
        """Write a whole checkpoint of where the run stands, unless there is one, and publish its model."""
        self.trainer.save()

    def _weights(self) -> Mapping[str, Tensor | Parts]:
        """What a checkpoint holds of the model: all, by the names of its family, or what is trained. The log is on the
        disk before it, so that a checkpoint never knows more than the log."""
        if self.processes.first:
            with (self.out / "log.jsonl").open("a") as log:
                os.fsync(log.fileno())
        if self.adapted is not None:
            return trained(self.model)
        family = self.language_model.family
        if not sharded(self.model):
            return weights(self.model, family)
        own = {name: (local(tensor.detach()), own_rows(tensor)[0]) for name, tensor in self.model.named_parameters()}
        return weight_parts(self.model, self.model.config, family, own)

    def publish(self, step: int | None = None) -> None:
        """Make a step's checkpoint's weights (the last step's) the folder's model, or its adapter; at the end draw the
        losses."""
        step = self.step if step is None else step
        if self.adapted is None:
            self._link(step)
        else:
            self.adapted.save(self.out)
        if step >= self.decided.steps:
            draw_losses(self.log(), self.out / "loss.svg")

    def _link(self, step: int) -> None:
        beside = self.out / f".model.safetensors.{os.getpid()}.partial"
        beside.unlink(missing_ok=True)
        saved = self.out / "training" / str(step) / "model.safetensors"
        try:
            os.link(saved, beside)
        except OSError:  # this disk has no hard links
            shutil.copyfile(saved, beside)
        beside.replace(self.out / "model.safetensors")
        beside.unlink(missing_ok=True)  # renaming one name of a file to another of its names does nothing

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl, without a last one that was not written to its end."""
        path = self.out / "log.jsonl"
        with unaltered(path, "the log of a run"):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            found = [json.loads(line) for line in lines if line.endswith("\n")]
            for line in found:
                line["step"], line["loss"]
        return found

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

    def sample(self) -> str:
        """A short text that shows what was learned: one generated from nothing, always with the same seed; of a masked
        model, the beginning of the validation text with some tokens predicted, in brackets."""
        self.model.eval()
        try:
            return self._sampled()
        finally:
            release(self.model)

    def _sampled(self) -> str:
        length = min(SAMPLE_TOKENS, self.batches.context - 1)
        if isinstance(self.language_model, MaskedLanguageModel):
            length = min(length, self.batches.context - 1 - len(self.language_model.tokenizer.closing))
            return self.language_model.filled(self.validation.read(1, 1 + length).tolist())
        return self.language_model.generate("", max_tokens=length, seed=0)

    def _note(self, skipped: bool) -> str:
        if skipped:
            so_far = f"({self.trainer.skipped} so far)"
            return f"step {self.step} gave a loss or gradient that is not finite and was skipped {so_far}"
        rows = self.decided.rows
        if self.batches.passes(self.step - 1, rows) > 4 >= self.batches.passes(self.step - 2, rows):
            return f"from step {self.step} on the text is read for the fifth time: more text would help more"
        return ""

    def _logged(self, made: Made) -> bool:
        return made.validation is not None or made.step % self.decided.log_every == 0

    def _log(self, made: Made) -> None:
        """Add a step's line to log.jsonl, if it is one that is logged."""
        if not self._logged(made):
            return
        tokens_per_second = made.steps_per_second * self.step_tokens
        line = {
            "step": made.step,
            "tokens": made.step * self.step_tokens,
            "loss": made.loss,
            "learning_rate": self.trainer.optimizer.rate(made.step - 1),
            "gradient_norm": made.gradient_norm,
            "tokens_per_second": round(tokens_per_second, 1),
            "mfu": round(self._mfu(tokens_per_second), 4),
            "seconds": round(made.seconds, 3),
        }
        if made.validation_loss is not None:
            line["validation_loss"] = made.validation_loss
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _mfu(self, tokens_per_second: float) -> float:
        """The share of the machine's matrix-product rate that training uses (model FLOPs utilisation)."""
        rate = self.decided.matmul_rate * self.processes.world
        return tokens_per_second * operations_per_token(self.model) / rate

    def _rewrite_log(self) -> None:
        kept = [json.dumps(line) + "\n" for line in self.log() if line["step"] <= self.step]
        write_text(self.out / "log.jsonl", "".join(kept))


def operations_per_token(model: Transformer) -> float:
    """Floating-point operations of training on one token: 6 a matrix weight, and attention over half the context."""
    config = model.config
    matrices = sum(parameter.numel() for parameter in model.blocks.parameters())
    matrices += sum(one.in_features * one.out_features for one in model.modules() if isinstance(one, QuantisedLinear))
    matrices += config.vocabulary_size * config.width
    return 6 * matrices + 6 * config.layers * config.heads * config.head_width * config.context
