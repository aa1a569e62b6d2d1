"""w and θ, or a part of it, trained on labelled texts from θ̂. Knows tokens and classes, not labels or their task.

Shapes: C classes, D width, B texts in a batch, T tokens of the longest.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chainrule.finetuning.centred import HeadWeights
from chainrule.finetuning.trimmed_embedding import TrimmedEmbedding
from chainrule.model.formats.checkpoint import empty_model
from chainrule.model.formats.classifier import Head
from chainrule.model.padding import Tokens
from chainrule.model.transformer import Transformer
from chainrule.training.checkpoints import resumed
from chainrule.training.optimizer import Group, Optimizer, Schedule
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.sharding import shard_by_block
from chainrule.training.trainer import Saving, Trainer, Validating

BATCH_SIZE = 32  # texts a step
EPOCHS = 3.0
LEAST_STEPS = 100  # however few the labels
LEAST_WARMUP = 10  # steps: the first one moves every weight by the rate, in a direction that 16 texts hardly tell
VALIDATIONS = 6  # while it trains, beside the one before the first step
SMOOTHING = 0.1  # of the labels: a few of them are soon fitted, and the probabilities would be all 0 or 1


@dataclass(frozen=True)
class Recipe:
    """How w and θ are trained; made by `recipe` for a number of texts and a width."""

    steps: int
    batch_size: int  # texts a step
    rate: float  # the learning rate of θ
    head_rate: float  # of w
    seed: int
    smoothing: float = SMOOTHING
    least_warmup: int = LEAST_WARMUP  # steps; fewer in all never reach the rate

    @property
    def schedule(self) -> Schedule:
        """A tenth of the steps warms up, then the rate falls to 0."""
        return Schedule(self.steps, warmup=self.steps // 10, decay=0.9, least_warmup=self.least_warmup)


def short_warmup(steps: int) -> int:
    """The least warm-up of a recipe whose default is a few dozen steps: 10 steps where there are fewer in all."""
    return LEAST_WARMUP if steps < LEAST_WARMUP else 0


def recipe(n: int, width: int, *, epochs: float | None, learning_rate: float | None, seed: int) -> Recipe:
    """The recipe for n texts: `epochs`, by default 3 and at least 100 steps; the rate falls with the width."""
    batch_size = min(BATCH_SIZE, n)
    steps = -(-n // batch_size) * EPOCHS if epochs is None else epochs * n / batch_size
    rate = learning_rate or 0.06 / width
    least = LEAST_STEPS if epochs is None else 1
    return Recipe(max(least, round(steps)), batch_size, rate, 10 * rate, seed)


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
    """All weights are trained, in float32; of the embedding the rows that occur in `documents`, which are tokens."""

    def __init__(self, start: Transformer, documents: Sequence[Tokens]) -> None:
        self.start, self.transformer = start, empty_model(start.config)
        self._embedding = TrimmedEmbedding(start.embedding.weight, np.unique(np.concatenate(documents)))
        self.transformer.register_module("embedding", self._embedding)
        plain = torch.contiguous_format  # whatever layout the caller's tensors have
        state: dict[str, Tensor] = {"embedding.weight": self._embedding.weight}
        for name, tensor in start.state_dict().items():
            if name not in state:
                state[name] = tensor.float().clone(memory_format=plain)
        self.transformer.load_state_dict(state, assign=True)

    def result(self, state: dict[str, Tensor]) -> Transformer:
        """A Transformer of the state, with the whole embedding."""
        state["embedding.weight"] = self._embedding.whole(self.start.embedding.weight, state["embedding.weight"])
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


class ClassifierTraining:
    """The training of one classifier from a Transformer without output: iterate `trainer.steps()`, then take `result`.

    `head` is where the head starts, `objective` what is minimised, `dtype` that of the activations. All `processes`
    make one alike, and share the work; with `shard` each holds a part of the weights. With `validation` texts, which
    the objective can validate on, the best state is the result, that before the first step included. With a `folder`,
    the same training goes on from what it holds, with the same bits.
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
        names = {parameter: name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        of_head = list(self.model.head.parameters())
        theta = [parameter for parameter in names if all(parameter is not other for other in of_head)]
        groups = [Group(theta, recipe.rate), Group(of_head, recipe.head_rate)]
        every = -(-recipe.steps // VALIDATIONS)
        validating = Validating(lambda: objective.validate(self.model, validation, processes), every, keep_best=True)
        self.trainer = Trainer(
            self.model,
            Optimizer(names, [], recipe.rate, groups, recipe.schedule),
            objective,
            recipe.steps,
            validating=validating if len(validation) else None,
            saving=None if folder is None else Saving(folder),
            processes=processes,
        )
        checkpoint = None if folder is None else resumed(folder, processes)
        if checkpoint is not None:
            self.trainer.resume(checkpoint)

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
