"""What a finetuning trains, and its trainer: θ or a part of it, from θ̂, and w beside it. Knows tokens, no labels.

Shapes: C classes, D width, B texts in a batch, T tokens of the longest.
"""

from collections.abc import Callable, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chainrule.finetuning.centred import HeadWeights
from chainrule.finetuning.recipes import Recipe
from chainrule.finetuning.trimmed_embedding import TrimmedEmbedding
from chainrule.model.formats.checkpoint import empty_model
from chainrule.model.formats.classifier import Head
from chainrule.model.padding import Tokens
from chainrule.model.transformer import Transformer
from chainrule.training.checkpoints import resumed
from chainrule.training.objectives import Objective, Validation
from chainrule.training.optimizer import Group, Optimizer, Schedule
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.sharding import shard_by_block
from chainrule.training.trainer import Saving, Trainer, Validating

VALIDATIONS = 6  # while it trains, beside the one before the first step


class TextClassifier(nn.Module):
    """θ and w: tokens to the head's outputs, such as logits of the classes."""

    def __init__(self, transformer: Transformer, w: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        device = transformer.device
        self.transformer, self.head = transformer, Head(w.to(device), None if bias is None else bias.to(device))

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        """(B, T) and the positions (B,) of the last tokens to (B, C), float32."""
        logits: Tensor = self.head(self.transformer.summary(tokens, last))
        return logits


class Trained(Protocol):
    """A Transformer of which all or some weights are trained."""

    start: Transformer  # what it comes from, which stays as it is
    transformer: Transformer  # its parameters that require a gradient are trained

    def result(self, state: dict[str, Tensor]) -> Transformer:
        """The Transformer that the training gives, `state` being what was trained of it, by name."""
        ...


class AllWeights:
    """All weights are trained, in float32; of the embedding the rows that occur in `documents`, which are tokens: None
    trains all rows, those of an output that is the embedding too."""

    def __init__(self, start: Transformer, documents: Sequence[Tokens] | None = None) -> None:
        self.start, self.transformer = start, empty_model(start.config)
        self._trimmed: TrimmedEmbedding | None = None
        state: dict[str, Tensor] = {}
        if documents is not None:
            self._trimmed = TrimmedEmbedding(start.embedding.weight, np.unique(np.concatenate(documents)))
            self.transformer.register_module("embedding", self._trimmed)
            state["embedding.weight"] = self._trimmed.weight
        plain = torch.contiguous_format  # whatever layout the caller's tensors have
        for name, tensor in start.state_dict().items():
            if name not in state:
                state[name] = tensor.float().clone(memory_format=plain)
        self.transformer.load_state_dict(state, assign=True)

    def result(self, state: dict[str, Tensor]) -> Transformer:
        """A Transformer of the state, with the whole embedding."""
        if self._trimmed is not None:
            state["embedding.weight"] = self._trimmed.whole(self.start.embedding.weight, state["embedding.weight"])
        model = empty_model(self.start.config)
        model.load_state_dict(state, assign=True)
        return model


def numbers_trained(start: Transformer, documents: Sequence[Tokens]) -> int:
    """How many numbers `AllWeights` trains."""
    all_rows, width = start.embedding.weight.shape
    occurring = len(np.unique(np.concatenate(documents)))
    return sum(one.numel() for one in start.parameters()) - (all_rows - occurring) * width


def summary_of(transformer: Transformer, length: int) -> Tensor:
    """What a head reads of a sequence of so many tokens, whichever they are."""
    tokens = torch.zeros(1, length, dtype=torch.long, device=transformer.device)
    return transformer.summary(tokens, torch.tensor([length - 1], device=transformer.device))


def make_trainer(
    model: nn.Module,
    groups: Sequence[Group],
    objective: Objective[Any],
    schedule: Schedule,
    measure: Callable[[], Validation] | None,
    folder: Path | None,
    processes: Processes,
) -> Trainer:
    """The trainer of a finetuning.

    With `measure`, which validates, the best state is the result, that before the first step included. With a `folder`,
    the same training goes on from what it holds, with the same bits.
    """
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainer = Trainer(
        model,
        Optimizer(names, [], groups[0].rate, groups, schedule),
        objective,
        schedule.steps,
        validating=measure and Validating(measure, -(-schedule.steps // VALIDATIONS), keep_best=True),
        saving=None if folder is None else Saving(folder),
        processes=processes,
    )
    checkpoint = None if folder is None else resumed(folder, processes)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    return trainer


class ClassifierTraining:
    """The training of one classifier from a Transformer without output: iterate `trainer.steps()`, then take `result`.

    `head` is where the head starts, `objective` what is minimised, `dtype` that of the activations. All `processes`
    make one alike, and share the work; with `shard` each holds a part of the weights. `validation`: texts which the
    objective can validate on. See `make_trainer` for these and for `folder`.
    """

    def __init__(
        self,
        trained: Trained,
        head: HeadWeights,
        objective: Any,
        validation: Sized,
        recipe: Recipe,
        dtype: torch.dtype,
        folder: Path | None = None,
        processes: Processes = ALONE,
        shard: bool = False,
    ) -> None:
        self.trained, self.batch_size = trained, recipe.batch_size
        self.model = TextClassifier(trained.transformer, head.w, head.bias)
        self.model.transformer.compute_dtype = dtype
        self.model.transformer.segment_separator = trained.start.segment_separator
        if shard:
            shard_by_block(self.model, trained.transformer.blocks, processes, trained.start.device, torch.float32)
        theta = [parameter for parameter in self.model.transformer.parameters() if parameter.requires_grad]
        groups = [Group(theta, recipe.rate), Group(list(self.model.head.parameters()), recipe.head_rate)]
        measure = partial(objective.validate, self.model, validation, processes) if len(validation) else None
        self.trainer = make_trainer(self.model, groups, objective, recipe.schedule, measure, folder, processes)

    def result(self) -> tuple[Transformer, HeadWeights]:
        """θ and the head: of the best state where there are validation texts, else of the last."""
        device = self.trained.start.device
        state = {name: tensor.clone().to(device) for name, tensor in self.trainer.result().items()}
        w, bias = state.pop("head.w").cpu(), state.pop("head.bias", None)
        model = self.trained.result({name.removeprefix("transformer."): tensor for name, tensor in state.items()})
        model.compute_dtype = self.trained.start.compute_dtype or self.trained.start.dtype
        return model.eval(), HeadWeights(w, None if bias is None else bias.cpu())


def weights_of_classes(classes: NDArray[np.int64], count: int, *, balanced: bool) -> NDArray[np.float32]:
    """(C,) how much a text of each of `count` classes counts: the same, or `balanced` so that each class does."""
    if not balanced:
        return np.ones(count, np.float32)
    return (len(classes) / (count * np.bincount(classes))).astype(np.float32)
