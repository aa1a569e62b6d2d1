"""Finetuning: a linear head, alone or together with the model, trained on a task's labels. Knows rows, labels, files.

Shapes: N examples, C classes, D width.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w
import torch

from chainrule import machine
from chainrule.errors import DataError, ModelError, OptionError
from chainrule.finetuning.centred import HeadWeights
from chainrule.finetuning.classifier import Classifier, Form, form_of, load_classifier
from chainrule.finetuning.full import AllWeights, ClassifierTraining, recipe
from chainrule.finetuning.lora import ALPHA, RANK, LowRankMatrices, lora_recipe
from chainrule.finetuning.problems import Computing, problem_of
from chainrule.language_model import Pretrained
from chainrule.model.formats.adapter import Base, adapter_parts, classifier_adapter
from chainrule.model.formats.adapter_files import WEIGHTS, Adapter
from chainrule.model.formats.classifier import without_output
from chainrule.scoring.features import Features, Longer, Text
from chainrule.storage.files import write_text
from chainrule.storage.run_folder import find_record, read_record, require_same
from chainrule.tasks.examples import Examples, Task
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

    Parameters and errors as there. Whoever iterates may stop at any step, after `save` if it is to be continued.
    """

    def __init__(
        self,
        lm: Pretrained,
        task: Task,
        options: FinetuneOptions = FinetuneOptions(),
        out: str | Path | None = None,
        features: Features | None = None,
    ) -> None:
        if task.kind == "free":
            raise DataError(f"finetune: wanted a task with labels to choose from, got one of kind {task.kind!r}")
        self.lm, self.form, self.options = lm, form_of(task, lm.model, lm.tokenizer), options
        self.out = None if out is None else Path(out)
        if options.train == "lora" and self.out is not None and lm.path is None:
            raise ModelError(
                "finetune: wanted a model that load read, as the saved adapter names it, got one made here, or an"
                " adapter; save it, or merge the adapter (chainrule export ADAPTER --to huggingface), and load that"
            )
        pairs = self.form.pair
        self._features = features or Features(lm.model, lm.tokenizer, longer=options.longer, pairs=pairs)
        examples = task.subset(options.labels, options.seed)
        balanced = options.class_weights
        self.problem = problem_of(task, examples, lm.family, balanced=balanced, seed=options.seed)
        decided = Decided(_name(machine.training_dtype(options.dtype, lm.device)), machine.threads())
        if self.out is not None:
            decided = _open(self.out, _asked(lm, examples, self.form, options), decided)
            torch.set_num_threads(decided.threads)
        self._training: ClassifierTraining | None = None
        if options.train != "head" and not self.finished:
            self._training = self._prepare(task, examples, getattr(torch, decided.dtype))
        self._examples = examples

    @property
    def finished(self) -> bool:
        """Whether `out` holds the classifier already."""
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
        if self.out is not None and self.finished:
            return load_classifier(self.out, device=self.lm.device.type, dtype=_name(self.lm.model.dtype))
        if self._training is None:
            head = self._solved(self._examples)
            classifier = self._classifier(self._features, head, None)
        else:
            assert self._training.trainer.finished, "steps are left"
            model, head = self._training.result()
            head = head.times(self.problem.unit)
            features = Features(model, self.lm.tokenizer, longer=self.options.longer, pairs=self.form.pair)
            features.cut = self._cut
            trained = self._training.trained
            adapter = self._adapter(trained, head) if isinstance(trained, LowRankMatrices) else None
            classifier = self._classifier(features, head, adapter)
        if self.out is not None:
            classifier.save(self.out)
            shutil.rmtree(self.out / "training", ignore_errors=True)
        return classifier

    def _classifier(self, features: Features, head: HeadWeights, adapter: Adapter | None) -> Classifier:
        problem = self.problem
        return Classifier(
            features, head.w, problem.outputs, self.form, self.lm.family, adapter, problem.kind, head.bias
        )

    def _adapter(self, trained: LowRankMatrices, head: HeadWeights) -> Adapter | None:
        """What is saved in place of the model; None for one that no file holds."""
        if self.lm.path is None:
            return None
        base = Base(self.lm.model, self.lm.family, self.lm.path)
        bare = without_output(self.lm.model)
        problem = self.problem
        return classifier_adapter(
            base, bare, trained.adapters, head.w, tuple(problem.outputs), trained.rank, ALPHA, problem.kind, head.bias
        )

    def _prepare(self, task: Task, examples: Examples, dtype: torch.dtype) -> ClassifierTraining:
        """w and what is trained beside it, from θ̂ and the w that is best with it."""
        validating, options = examples.take([]), self.options
        if len(examples) >= VALIDATED:
            examples, validating = task.split_validation(examples, options.seed)
        reader = Features(self.lm.model, self.lm.tokenizer, longer=options.longer, pairs=self.form.pair)
        train, validation = (
            self.problem.texts(reader.tokens(self._texts(part)), part.labels) for part in (examples, validating)
        )
        self._cut, bare = reader.cut, reader.model
        trained: AllWeights | LowRankMatrices
        if options.train == "lora":
            make, parts = lora_recipe, adapter_parts(bare, self.lm.family)
            if options.rank is not None and options.rank > bare.config.width:
                raise OptionError(f"--rank: wanted at most {bare.config.width} (the model's width), got {options.rank}")
            trained = LowRankMatrices(bare, parts, options.rank or RANK, options.seed)
        else:
            make, trained = recipe, AllWeights(bare, [*train.documents, *validation.documents])
        made = make(
            len(train),
            bare.config.width,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            seed=options.seed,
        )
        computing = Computing(machine.tokens_at_once("finetuning", bare.device, dtype), bare.device)
        return ClassifierTraining(
            trained,
            self._solved(examples).times(1 / self.problem.unit),
            self.problem.objective(train, made, computing),
            validation,
            made,
            dtype,
            None if self.out is None else self.out / "training",
        )

    def _texts(self, examples: Examples) -> list[Text]:
        return [self.form(row) for row in examples.rows]

    def _solved(self, examples: Examples) -> HeadWeights:
        return self.problem.solve(self._features(self._texts(examples)), examples.labels)


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
    reads = [form.text, form.input, *(["pair"] if form.pair else [])]
    content = json.dumps([*reads, [dict(row) for row in examples.rows], list(examples.labels)])
    asked["examples"] = hashlib.sha256(content.encode()).hexdigest()
    model = hashlib.sha256(lm.tokenizer.hash.encode())
    for name, parameter in lm.model.named_parameters():
        model.update(name.encode())
        model.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    asked["model"] = model.hexdigest()
    return {name: value for name, value in asked.items() if value is not None}


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
