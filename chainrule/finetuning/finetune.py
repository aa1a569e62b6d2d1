"""Finetuning: a linear head, alone or together with the model, trained on a task's labels. Knows rows, labels, files.

Shapes: N examples, C classes, D width.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine
from chainrule.corpus.batches import share
from chainrule.errors import DataError, ModelError, OptionError
from chainrule.finetuning.classifier import Classifier, Form, load_classifier
from chainrule.finetuning.full import AllWeights, ClassifierTraining, recipe
from chainrule.finetuning.head import solve_head
from chainrule.finetuning.logistic import classes_of
from chainrule.finetuning.lora import ALPHA, RANK, LowRankMatrices, lora_recipe
from chainrule.language_model import Pretrained
from chainrule.model.formats.adapter import Base, adapter_parts, classifier_adapter
from chainrule.model.formats.adapter_files import WEIGHTS, Adapter
from chainrule.model.formats.classifier import without_output
from chainrule.model.quantised import refuse_quantised
from chainrule.scoring.features import Features, Longer
from chainrule.storage.files import write_text
from chainrule.storage.run_folder import find_record, read_record, require_same
from chainrule.tasks.examples import Examples, Task
from chainrule.training.classes import LabelledTexts
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.parallel_options import ParallelOptions
from chainrule.training.sharding import decide_sharding
from chainrule.training.trainer import Progress

Train = Literal["full", "lora", "head"]
VALIDATED = 64  # with at least so many labels, a fifth of them is for validation


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of a finetuning; the defaults need no tuning."""

    train: Train = "full"  # w and θ together, w and LoRA's matrices beside a frozen θ̂, or w alone
    labels: int | None = None  # how many training examples; None: all
    epochs: float | None = None  # of full; None: 3, and at least 100 steps
    learning_rate: float | None = None  # of θ; None: by the width
    class_weights: bool = False  # every class counts the same, however rare
    longer: Longer = "cut"  # a text longer than the context loses its beginning, or is refused
    seed: int = 0
    dtype: str = "auto"  # that full and lora compute in; auto: bfloat16 where this machine multiplies faster with it
    rank: int | None = None  # of lora; None: 16

    def __post_init__(self) -> None:
        for name, choices in (("train", Train), ("longer", Longer)):
            if getattr(self, name) not in get_args(choices):
                raise OptionError(f"{name}: wanted {' or '.join(get_args(choices))}, got {getattr(self, name)!r}")
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise OptionError(f"{name}: wanted a positive number, got {value}")
        if self.rank is not None and (self.train != "lora" or self.rank < 1):
            wanted = "at least 1" if self.train == "lora" else f"train lora beside it, which has one, got {self.train}"
            raise OptionError(f"rank: wanted {wanted}" + (f", got {self.rank}" if self.train == "lora" else ""))


def finetune(
    lm: Pretrained,
    task: Task,
    *,
    train: Train = "full",
    labels: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    class_weights: bool = False,
    longer: Longer = "cut",
    seed: int = 0,
    dtype: str = "auto",
    rank: int | None = None,
    out: str | Path | None = None,
    features: Features | None = None,
) -> Classifier:
    """A classifier trained on `labels` of the task's training rows; `lm` itself does not change.

    "head" solves for the head w alone; "full" starts from that and trains w and the model θ together; "lora" trains w
    and matrices of `rank` (16) beside the frozen model, and saves these alone, as PEFT does. With 64 labels or more, a
    stratified fifth of them is for validation, which chooses the best state. `out`: the folder that the classifier is
    saved to, and from which the same call continues if it was stopped. `features`: those of `lm`, for callers that use
    them again. Raises DataError for a task of free answers, OptionError for options out of range, and FolderError for
    an `out` that holds something else.
    """
    options = FinetuneOptions(train, labels, epochs, learning_rate, class_weights, longer, seed, dtype, rank)
    finetuning = Finetuning(lm, task, options, out, features)
    for _ in finetuning.advance():
        pass
    return finetuning.classifier()


class Finetuning:
    """A finetuning step by step: iterate `advance`, then call `classifier`; `finetune` does it in one call.

    Parameters and errors as there. Whoever iterates may stop at any step, after `save` if it is to be continued. All
    `processes` do the same, and the first one writes.
    """

    def __init__(
        self,
        lm: Pretrained,
        task: Task,
        options: FinetuneOptions = FinetuneOptions(),
        out: str | Path | None = None,
        features: Features | None = None,
        processes: Processes = ALONE,
        parallel: ParallelOptions = ParallelOptions(),
    ) -> None:
        self._processes, self._parallel = processes, parallel
        refuse_quantised(lm.model, "finetune")
        if task.kind != "classification":
            raise DataError(f"finetune: wanted a task with labels to choose from, got one of kind {task.kind!r}")
        self.lm, self.labels, self.form, self.options = lm, task.labels, Form(task.text, task.input), options
        self.out = None if out is None else Path(out)
        if options.train == "lora" and self.out is not None and lm.path is None:
            raise ModelError(
                "finetune: wanted a model that load read, as the saved adapter names it, got one made here, or an"
                " adapter; save it, or merge the adapter (chainrule export ADAPTER --to huggingface), and load that"
            )
        self._features = features or Features(lm.model, lm.tokenizer, longer=options.longer)
        examples = task.subset(options.labels, options.seed)
        if len(examples) < processes.world:
            raise OptionError(
                f"finetune: wanted an example for each of {processes.world} processes, got {len(examples)}; start fewer"
            )
        dtype = machine.training_dtype(options.dtype, lm.device)
        decided = Decided(_name(dtype), machine.threads() * processes.world)
        asked = _asked(lm, examples, self.form, options) if self.out is not None or processes.world > 1 else {}
        processes.require_same(_named(asked, parallel))
        with processes.together():
            if self.out is not None and processes.first:
                decided = _open(self.out, asked, decided)
        decided = Decided(**processes.from_first(dataclasses.asdict(decided)))
        if self.out is not None:
            torch.set_num_threads(max(1, decided.threads // processes.world))
        self._training: ClassifierTraining | None = None
        if options.train != "head" and not self.finished:
            self._training = self._prepare(task, examples, getattr(torch, decided.dtype))
        self._examples = examples

    @property
    def finished(self) -> bool:
        """Whether `out` holds the classifier already."""
        return self._processes.from_first(self._there)

    @property
    def _there(self) -> bool:
        return self.out is not None and any((self.out / name).is_file() for name in ("model.safetensors", WEIGHTS))

    @property
    def batch_size(self) -> int:
        """Texts a step of "full" and "lora"."""
        return 0 if self._training is None else self._training.batch_size

    def advance(self) -> Iterator[Progress]:
        """Make the steps that are left, yielding after each; "head" has none."""
        if self._training is not None:
            yield from self._training.trainer.steps()

    def save(self) -> None:
        """Write a checkpoint to `out`, from which the same finetuning continues."""
        if self._training is not None:
            self._training.trainer.save()

    def classifier(self) -> Classifier:
        """The trained classifier; it is saved to `out`, where that was given."""
        if self.finished:
            assert self.out is not None
            return load_classifier(self.out, device=self.lm.device.type, dtype=_name(self.lm.model.dtype))
        if self._training is None:
            w = self._solved(self._examples)
            classifier = Classifier(self._features, w, self.labels, self.form, self.lm.family)
        else:
            assert self._training.trainer.finished, "steps are left"
            model, w = self._training.result()
            features = Features(model, self.lm.tokenizer, longer=self.options.longer)
            features.cut = self._cut
            trained = self._training.trained
            adapter = self._adapter(trained, w) if isinstance(trained, LowRankMatrices) else None
            classifier = Classifier(features, w, self.labels, self.form, self.lm.family, adapter)
        with self._processes.together():
            if self.out is not None and self._processes.first:
                classifier.save(self.out)
                shutil.rmtree(self.out / "training", ignore_errors=True)
        return classifier

    def _adapter(self, trained: LowRankMatrices, w: Tensor) -> Adapter | None:
        """What is saved in place of the model; None for one that no file holds."""
        if self.lm.path is None:
            return None
        base = Base(self.lm.model, self.lm.family, self.lm.path)
        bare = without_output(self.lm.model)
        return classifier_adapter(base, bare, trained.adapters, w, self.labels, trained.rank, ALPHA)

    def _prepare(self, task: Task, examples: Examples, dtype: torch.dtype) -> ClassifierTraining:
        """w and what is trained beside it, from θ̂ and the w that is best with it."""
        validating, options = examples.take([]), self.options
        if len(examples) >= VALIDATED:
            examples, validating = task.split_validation(examples, options.seed)
        reader = Features(self.lm.model, self.lm.tokenizer, longer=options.longer)
        train, validation = (
            LabelledTexts(reader.tokens(self._texts(part)), classes_of(part.labels, self.labels))
            for part in (examples, validating)
        )
        self._cut = reader.cut
        bare = without_output(self.lm.model)
        trained: AllWeights | LowRankMatrices
        shard = options.train == "full" or self._parallel.shard == "on"
        shard = shard and decide_sharding(
            self._parallel.shard, bare, bare.config.width, self.lm.device, self._processes
        )
        if shard and options.train == "lora":
            raise OptionError(
                "--shard on: wanted --train full beside it, got lora, whose frozen model every process holds whole;"
                " take --shard off"
            )
        if options.train == "lora":
            make, parts = lora_recipe, adapter_parts(bare, self.lm.family)
            if options.rank is not None and options.rank > bare.config.width:
                raise OptionError(f"--rank: wanted at most {bare.config.width} (the model's width), got {options.rank}")
            trained = LowRankMatrices(bare, parts, options.rank or RANK, options.seed)
        else:
            make, trained = recipe, AllWeights(bare, [*train.documents, *validation.documents])
        return ClassifierTraining(
            trained,
            self._solved(examples),
            train,
            validation,
            make(
                len(train),
                bare.config.width,
                epochs=options.epochs,
                learning_rate=options.learning_rate,
                seed=options.seed,
            ),
            self._weights(train.classes),
            dtype,
            None if self.out is None else self.out / "training",
            self._processes,
            shard,
        )

    def _texts(self, examples: Examples) -> list[str]:
        return [self.form(row) for row in examples.rows]

    def _solved(self, examples: Examples) -> Tensor:
        """The head on the model's features: each process computes those of some texts, and the first one solves."""
        processes, texts = self._processes, self._texts(examples)
        mine = self._features(texts[share(len(texts), processes.rank, processes.world)])
        features = processes.concatenated(torch.from_numpy(mine), len(texts))
        w = torch.empty(len(self.labels), features.shape[1])
        if processes.first:
            classes = classes_of(examples.labels, self.labels)
            balanced, seed = self.options.class_weights, self.options.seed
            w = solve_head(features.numpy(), classes, balanced=balanced, seed=seed)
        return processes.sent_by_first(w)

    def _weights(self, classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """(C,) the weight of a text of each class."""
        if not self.options.class_weights:
            return np.ones(len(self.labels), np.float32)
        return (len(classes) / (len(self.labels) * np.bincount(classes))).astype(np.float32)


@dataclass(frozen=True)
class Decided:
    """What was decided once. A resumed finetuning keeps it: else its last bits would change."""

    dtype: str  # that the training computes in
    threads: int


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _asked(lm: Pretrained, examples: Examples, form: Form, options: FinetuneOptions) -> dict[str, Any]:
    """All that the result depends on, as run.toml records it."""
    asked = dataclasses.asdict(options)
    asked["device"] = lm.device.type
    content = json.dumps([form.text, form.input, [dict(row) for row in examples.rows], list(examples.labels)])
    asked["examples"] = hashlib.sha256(content.encode()).hexdigest()
    model = hashlib.sha256(lm.tokenizer.hash.encode())
    for name, parameter in lm.model.named_parameters():
        model.update(name.encode())
        model.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    asked["model"] = model.hexdigest()
    return {name: value for name, value in asked.items() if value is not None}


def _named(asked: dict[str, Any], parallel: ParallelOptions) -> dict[str, Any]:
    """What must be the same in all processes, as messages name it."""
    called = {"examples": "the examples of TASK", "model": "the weights of MODEL"}
    options = {called.get(name, f"--{name.replace('_', '-')}"): value for name, value in asked.items()}
    versions = {f"the version of {name}": version(name) for name in ("chainrule", "torch")}
    return {**options, "--shard": parallel.shard, "--wait": parallel.wait, **versions}


def _open(out: Path, asked: dict[str, Any], decided: Decided) -> Decided:
    """What was decided for the finetuning in `out`, which is begun if it is new; FolderError if it is another."""
    path = find_record(out, ("run.toml",), "a finetuning")
    if path is None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "run.toml", tomli_w.dumps({"finetune": asked, "decided": dataclasses.asdict(decided)}))
        return decided
    stored = read_record(path, "a finetuning", wanted=("finetune", "decided"))
    require_same(out, stored["finetune"], asked, called={"examples": "the examples", "model": "the model"})
    return Decided(**stored["decided"])
