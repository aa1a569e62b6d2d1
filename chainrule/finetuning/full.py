"""w and θ trained together on labelled texts, from θ̂. Knows tokens and classes, not rows, files or labels' names.

Shapes: N texts, B of them in a batch, T tokens of the longest, C classes.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chainrule import machine
from chainrule.errors import ChainruleError
from chainrule.model.formats.classifier import Head
from chainrule.model.padding import Tokens, by_length, padded
from chainrule.model.transformer import Transformer
from chainrule.training.checkpoints import newest_checkpoint, save_checkpoint
from chainrule.training.loop import train
from chainrule.training.optimizer import Group, Optimizer, Schedule

BATCH = 32  # texts a step
EPOCHS = 3.0
LEAST_STEPS = 100  # however few the labels
VALIDATIONS = 6  # while it trains, beside the one before the first step
SAVE_SECONDS = 300.0
SMOOTHING = 0.1  # of the labels: a few of them are soon fitted, and the probabilities would be all 0 or 1
NOT_FINITE = 10  # steps in a row that end the training


@dataclass(frozen=True)
class Recipe:
    """How w and θ are trained; made by `recipe` for a number of texts and a width."""

    steps: int
    batch: int
    rate: float  # the learning rate of θ
    head_rate: float  # of w
    seed: int


def recipe(n: int, width: int, *, epochs: float | None, learning_rate: float | None, seed: int) -> Recipe:
    """The recipe for n texts: epochs, or enough steps where these are few; a wider model moves more carefully."""
    batch = min(BATCH, n)
    steps = -(-n // batch) * EPOCHS if epochs is None else epochs * n / batch
    rate = learning_rate or 0.06 / width
    least = LEAST_STEPS if epochs is None else 1
    return Recipe(max(least, round(steps)), batch, rate, 10 * rate, seed)


@dataclass(frozen=True)
class Labelled:
    """Texts as tokens, and the classes (N,) that they belong to."""

    documents: Sequence[Tokens]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.documents)


class Batch(NamedTuple):
    """Some texts that are read at once."""

    tokens: Tensor  # (B, T)
    last: Tensor  # (B,) where each ends
    classes: Tensor  # (B,)
    weights: Tensor  # (B,) of each in the mean


class TextClassifier(nn.Module):
    """softmax(w · φ_θ(x_1..x_T)), what is trained: tokens to the logits of classes."""

    def __init__(self, transformer: Transformer, w: Tensor) -> None:
        super().__init__()
        self.transformer, self.head = transformer, Head(w)

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        """(B, T) and the positions (B,) of the last tokens to (B, C), float32."""
        logits: Tensor = self.head(self.transformer.summary(tokens, last))
        return logits


@dataclass(frozen=True)
class Validation:
    """What a state is worth on texts that it did not learn from."""

    accuracy: float  # weighted as the loss is
    loss: float  # nats

    def better(self, other: "Validation | None") -> bool:
        """By accuracy, which the loss of a few texts that are wrong with certainty hides; then by the loss."""
        return other is None or (-self.accuracy, self.loss) < (-other.accuracy, other.loss)


@dataclass(frozen=True)
class Progress:
    """Where the training stands after a step."""

    step: int
    steps: int
    loss: float  # nats, of this step's batch
    texts_per_second: float
    seconds_left: float
    validation_loss: float | None


class Training:
    """The training of one classifier from a Transformer without output: iterate `advance`, then take `result`.

    `weights` (C,) is what a text of each class counts, `dtype` that of the activations. With validation texts the best
    state is kept, that before the first step included. With a `folder`, the same training goes on from what it holds,
    with the same bits.
    """

    def __init__(
        self,
        model: Transformer,
        w: Tensor,
        texts: Labelled,
        validation: Labelled,
        recipe: Recipe,
        weights: NDArray[np.float32],
        dtype: torch.dtype,
        folder: Path | None = None,
    ) -> None:
        self.recipe, self.weights, self.folder = recipe, weights, folder
        self.step, self.seconds = 0, 0.0
        self.best: Validation | None = None
        self._skipped = 0  # steps in a row
        self._theirs = model
        # Rows of the embedding that no text has get no gradient, and without weight decay never move: they stay out.
        self._used = np.unique(np.concatenate([*texts.documents, *validation.documents]))
        self.texts, self.validation = self._renumbered(texts), self._renumbered(validation)
        device = model.device
        self.model = TextClassifier(self._trainable(), w.to(device)).train()
        self.model.transformer.compute_dtype = dtype
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        theta = [parameter for parameter in names if parameter is not self.model.head.w]
        groups = [Group(theta, recipe.rate), Group([self.model.head.w], recipe.head_rate)]
        schedule = Schedule(recipe.steps, warmup=recipe.steps // 10, decay=0.9)
        self.optimizer = Optimizer(names, [], recipe.rate, groups, schedule)
        self._best: dict[str, Tensor] = {}
        if folder is not None:
            self._go_on(folder)

    @property
    def finished(self) -> bool:
        return self.step >= self.recipe.steps

    def advance(self) -> Iterator[Progress]:
        """Make the steps that are left, yielding after each; whoever iterates may stop, and `save` keeps all."""
        if len(self.validation) and self.best is None:
            self._validate()
        started, before, first = time.monotonic(), self.seconds, self.step
        last_save = started
        every = -(-self.recipe.steps // VALIDATIONS)
        for made in train(
            self.model, self.optimizer, self._batches, self._loss, steps=self.recipe.steps, start=self.step
        ):
            self.step = made.step
            self._count(made.skipped)
            due = len(self.validation) > 0 and (self.step % every == 0 or self.finished)
            validation_loss = self._validate().loss if due else None
            self.seconds = before + time.monotonic() - started
            if self.folder is not None and (due or self.finished or time.monotonic() - last_save > SAVE_SECONDS):
                self.save()
                last_save = time.monotonic()
            pace = (time.monotonic() - started) / (self.step - first)
            left = (self.recipe.steps - self.step) * pace
            yield Progress(self.step, self.recipe.steps, made.loss, self.recipe.batch / pace, left, validation_loss)

    def save(self) -> None:
        """Write a whole checkpoint of where the training stands, unless there is one."""
        assert self.folder is not None
        if (self.folder / str(self.step)).is_dir():
            return
        tensors = {"model": self.model.state_dict(), "optimizer": self.optimizer.state()}
        if self._best:
            tensors["best"] = self._best
        best = None if self.best is None else dataclasses.asdict(self.best)
        save_checkpoint(self.folder, self.step, tensors, {"seconds": self.seconds, "best": best})

    def result(self) -> tuple[Transformer, Tensor]:
        """θ and w: the best state where there is validation, else the last."""
        state = {name: tensor.clone() for name, tensor in (self._best or self.model.state_dict()).items()}
        w = state.pop("head.w").cpu()
        theta = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
        embedding = self._theirs.embedding.weight.detach().float().clone()
        embedding[self._used] = theta["embedding.weight"]
        model = _transformer(self._theirs, {**theta, "embedding.weight": embedding})
        model.compute_dtype = self._theirs.compute_dtype or self._theirs.dtype
        return model.eval(), w

    def _trainable(self) -> Transformer:
        """θ̂ in float32, apart from the model it comes from, with the used rows of the embedding alone."""
        plain = torch.contiguous_format  # whatever layout the caller's tensors have
        state = {name: tensor.float().clone(memory_format=plain) for name, tensor in self._theirs.state_dict().items()}
        return _transformer(self._theirs, {**state, "embedding.weight": state["embedding.weight"][self._used]})

    def _renumbered(self, texts: Labelled) -> Labelled:
        """The texts in the numbers that `_used` gives their tokens."""
        return Labelled([np.searchsorted(self._used, document) for document in texts.documents], texts.classes)

    def _batches(self, step: int) -> list[Batch]:
        """A step's texts: the next of an endless run of shuffled epochs, a function of (seed, step) alone."""
        n, start = len(self.texts), step * self.recipe.batch
        epochs = range(start // n, (start + self.recipe.batch - 1) // n + 1)
        order = np.concatenate([np.random.default_rng([self.recipe.seed, epoch]).permutation(n) for epoch in epochs])
        first = start - epochs[0] * n
        return self._parts(self.texts, order[first : first + self.recipe.batch])

    def _parts(self, texts: Labelled, rows: NDArray[np.int64]) -> list[Batch]:
        """These texts in parts of like length, weighted so that the mean over the parts is that over the texts."""
        device = self._theirs.device
        at_once = machine.tokens_at_once("finetuning", device, self.model.transformer.compute_dtype)
        parts = list(by_length([len(texts.documents[row]) for row in rows], at_once))
        total = float(self.weights[texts.classes[rows]].sum())
        batches = []
        for part in parts:
            classes = texts.classes[rows[part]]
            weights = torch.from_numpy(self.weights[classes] * np.float32(len(parts) / total)).to(device)
            tokens, last = padded([texts.documents[row] for row in rows[part]], device)
            batches.append(Batch(tokens, last, torch.from_numpy(classes).to(device), weights))
        return batches

    def _loss(self, batch: Batch) -> Tensor:
        logits = self.model(batch.tokens, batch.last)
        losses = F.cross_entropy(logits, batch.classes, reduction="none", label_smoothing=SMOOTHING)
        return losses @ batch.weights

    @torch.no_grad()
    def _validate(self) -> Validation:
        """The state on the validation texts; it is kept if none before was better."""
        logits, classes, weights = self._judged()
        right = logits.argmax(-1) == classes
        found = Validation(
            float((right * weights).sum() / weights.sum()),
            float(F.cross_entropy(logits, classes, reduction="none") @ weights / weights.sum()),
        )
        if found.better(self.best):
            self.best = found
            self._best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return found

    def _judged(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the validation texts: logits (N, C), classes (N,) and weights (N,)."""
        parts = self._parts(self.validation, np.arange(len(self.validation)))
        logits = torch.cat([self.model(part.tokens, part.last) for part in parts])
        return logits, torch.cat([part.classes for part in parts]), torch.cat([part.weights for part in parts])

    def _count(self, skipped: bool) -> None:
        self._skipped = self._skipped + 1 if skipped else 0
        if self._skipped == NOT_FINITE:
            raise ChainruleError(
                f"finetune: wanted finite losses, got {NOT_FINITE} steps in a row without one, at step {self.step};"
                " lower the learning rate"
            )

    def _go_on(self, folder: Path) -> None:
        checkpoint = newest_checkpoint(folder)
        if checkpoint is None:
            return
        self.step, self.seconds = checkpoint.step, checkpoint.state["seconds"]
        device = self._theirs.device
        names = ["model", "optimizer"] + (["best"] if checkpoint.state["best"] is not None else [])
        stored = {name: {key: tensor.to(device) for key, tensor in checkpoint.tensors(name).items()} for name in names}
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state(stored["optimizer"])
        if "best" in stored:
            self.best, self._best = Validation(**checkpoint.state["best"]), stored["best"]


def _transformer(like: Transformer, state: Mapping[str, Tensor]) -> Transformer:
    """A Transformer of these weights, with as many rows in its embedding as they have."""
    config = dataclasses.replace(like.config, vocabulary_size=len(state["embedding.weight"]))
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(state, assign=True)
    return model
