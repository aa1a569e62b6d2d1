"""What the methods of a comparison share: one language model, one task, features computed once, and how fast the model
reads. Knows no method."""

import hashlib
import time
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine
from chainrule.finetuning.classifier import form_of
from chainrule.language_model import Pretrained
from chainrule.model.quantised import blocks_of, count_weights, is_quantised
from chainrule.scoring.features import Features, Text, last_features
from chainrule.tasks.examples import Row, Task

MOST_SHOTS = 16  # demonstrations in a prompt
_SAMPLED = 64  # training rows, for lengths and for the quick measurement
_WEIGHTS_SAMPLED = 1024  # of each tensor


class Shared(NamedTuple):
    """Seconds that were spent once for all rows, and are counted in each."""

    adapting: float = 0.0
    predicting: float = 0.0


class Study:
    """A language model and a task. `features`: the hidden states at the last token, kept for all methods that read
    them."""

    def __init__(self, lm: Pretrained, task: Task) -> None:
        self.lm: Pretrained = lm
        self.task: Task = task
        self.form = form_of(task, lm.model, lm.tokenizer)
        self.features = Features(lm.model, lm.tokenizer, remember=True, pairs=self.form.pair)
        self._took: dict[Text, float] = {}  # text -> seconds that its features took

    @property
    def model(self) -> str:
        """The model in words."""
        config = self.lm.model.config
        parameters = _short(count_weights(self.lm.model))
        kept = ", quantised" if is_quantised(self.lm.model) else ""
        return f"{self.lm.family}, {parameters} parameters{kept}, {config.layers} layers, context {config.context}"

    @property
    def megabytes(self) -> float:
        """The size of all weights as finetuning saves them, in float32."""
        return count_weights(self.lm.model) * 4 / 1e6

    @property
    def identity(self) -> dict[str, str | None]:
        """What the rows depend on: a hash of the model (of some of each tensor's weights), its precision, and how it is
        quantised."""
        digest = hashlib.sha256(repr(self.lm.model.config).encode() + self.lm.tokenizer.hash.encode())
        for name, weights in self.lm.model.state_dict().items():
            digest.update(name.encode())
            digest.update(_some(weights).tobytes())
        for name, blocks in blocks_of(self.lm.model):
            digest.update(name.encode())
            digest.update(_some(blocks).tobytes())
        kept, computed = self.lm.model.dtype, self.lm.model.compute_dtype
        return {
            "quantize": None if self.lm.quantize == "none" else self.lm.quantize,
            "model": digest.hexdigest()[:16],
            "dtype": str(computed or kept).removeprefix("torch."),
            "device": self.lm.device.type,
            **({"pairs": "read as two segments"} if self.form.pair else {}),
        }

    def texts(self, rows: Sequence[Row]) -> list[Text]:
        """What finetuning reads of the rows."""
        return [self.form(row) for row in rows]

    def share(self, labels: int, seed: int, rows: Sequence[Row]) -> Shared:
        """Compute the features of N labels and of the rows, as far as they are not known; returns the seconds that all
        of them took when they were computed."""
        return Shared(self._compute(self.task.subset(labels, seed).rows), self._compute(rows))

    def _compute(self, rows: Sequence[Row]) -> float:
        texts = self.texts(rows)
        new = [text for text in dict.fromkeys(texts) if text not in self._took]
        start = time.perf_counter()
        self.features(new)
        if new:
            self._took |= dict.fromkeys(new, (time.perf_counter() - start) / len(new))
        return sum(self._took[text] for text in texts)

    @cached_property
    def most_shots(self) -> int:
        """How many demonstrations of a common length fit into a prompt next to a question as long; at least 1, and no
        more than MOST_SHOTS."""
        fitting = int((self.lm.model.config.context - 1) / max(1.0, self.demonstration_tokens)) - 1
        return min(MOST_SHOTS, max(1, fitting))

    def shots(self, labels: int) -> int:
        """How many of N labelled examples a prompt shows."""
        return min(labels, self.most_shots)

    @cached_property
    def demonstration_tokens(self) -> float:
        """Tokens of a demonstration, the mean; 0 where there is no prompt."""
        if self.task.prompt is None:
            return 0.0
        prompt, label = self.task.prompt, self.task.train.labels[0]
        texts = [prompt.filled(row, label) + prompt.separator for row in self._sample]
        return float(np.mean([len(self.lm.tokenizer.encode(text)) for text in texts]))

    @property
    def seconds_a_text(self) -> float:
        """Seconds for the model to read a text, by a quick measurement: right within a factor of a few."""
        return self._measured[0] / len(self._sample)

    @property
    def seconds_a_token(self) -> float:
        """The same for a token."""
        return self._measured[0] / self._measured[1]

    @cached_property
    def _sample(self) -> list[Row]:
        """Training rows."""
        indices = np.linspace(0, len(self.task.train) - 1, min(_SAMPLED, len(self.task.train))).astype(int)
        return [self.task.train.rows[index] for index in indices]

    @cached_property
    def _measured(self) -> tuple[float, int]:
        """Seconds that the sample took to be read, and how many tokens it is."""
        texts = self.texts(self._sample)
        features = Features(self.lm.model, self.lm.tokenizer, pairs=self.form.pair)
        documents = features.tokens(texts)
        last_features(features.model, documents[:1])  # what is made at the first call
        machine.synchronise(self.lm.device)
        start = time.perf_counter()
        last_features(features.model, documents, share=False)  # trainings read all of each text
        return time.perf_counter() - start, sum(map(len, documents))


def _some(weights: Tensor) -> NDArray[np.float32]:
    """Weights from all over a tensor; any training changes some of them."""
    flat = weights.detach().flatten()
    some: NDArray[np.float32] = flat[:: max(1, flat.numel() // _WEIGHTS_SAMPLED)].float().cpu().numpy()
    return some


def _short(count: int) -> str:
    """
    >>> [_short(count) for count in (950, 1_234_567, 7_000_000_000)]
    ['950', '1.2M', '7B']
    """
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.2g}{letter}" if count < 100 * unit else f"{count / unit:.0f}{letter}"
    return str(count)
