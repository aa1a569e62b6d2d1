"""The methods that are compared, as predictors made from one language model and one task. Knows no grid, no table."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine
from chainrule.comparison.baselines import bag_of_words, majority, random_weights
from chainrule.comparison.grid import PROMPTED
from chainrule.errors import ChainruleError
from chainrule.finetuning.classifier import Classifier
from chainrule.finetuning.features import Features
from chainrule.finetuning.finetuned import finetune
from chainrule.finetuning.full import recipe
from chainrule.language_model import Pretrained
from chainrule.prompting.prompted import Prompted, in_context, zero_shot
from chainrule.tasks.examples import Row, Task

_LOOKED_AT = 64  # training rows, for lengths and for the quick measurement
_WEIGHTS_LOOKED_AT = 1024  # of each tensor


class Predictor(Protocol):
    """What every adaptation gives."""

    @property
    def labels(self) -> Sequence[str]: ...

    def predict(self, rows: Iterable[Row | str]) -> list[str]: ...

    def predict_proba(self, rows: Iterable[Row | str]) -> NDArray[np.float64]: ...


class Shared(NamedTuple):
    """Seconds of a row that are spent once for all rows, and count in each."""

    adapting: float
    predicting: float


class Methods:
    """Makes each method's predictor for N labels and a seed, and says beforehand what that will take.

    The features of θ̂ are computed once for all heads.
    """

    def __init__(self, lm: Pretrained, task: Task) -> None:
        self.lm, self.task = lm, task
        self._features = Features(lm.model, lm.tokenizer, remember=True)
        self._took: dict[str, float] = {}  # seconds that each text's features did

    @property
    def model(self) -> str:
        """The model in words."""
        config = self.lm.model.config
        parameters = sum(parameter.numel() for parameter in self.lm.model.parameters())
        return f"{self.lm.family}, {_short(parameters)} parameters, {config.layers} layers, context {config.context}"

    @property
    def identity(self) -> dict[str, str]:
        """What the rows depend on: a hash of the model (of some of each tensor's weights), and its precision."""
        digest = hashlib.sha256(repr(self.lm.model.config).encode() + self.lm.tokenizer.hash.encode())
        for name, weights in self.lm.model.state_dict().items():
            digest.update(name.encode())
            digest.update(_some(weights).tobytes())
        kept, computed = self.lm.model.dtype, self.lm.model.compute_dtype
        return {
            "model": digest.hexdigest()[:16],
            "dtype": str(computed or kept).removeprefix("torch."),
            "device": self.lm.device.type,
        }

    def obstacle(self, method: str) -> str | None:
        """Why this task cannot be done by this method; None where it can."""
        if method in PROMPTED:
            try:
                self.task.checked_prompt()
                self.lm.model.config.check_language_head()
            except ChainruleError as error:
                return str(error)
        elif self.task.kind == "free" and method != "majority":
            return f"{method}: wanted a task with labels to choose from, got one of free answers"
        return None

    @cached_property
    def room(self) -> int:
        """How many demonstrations of a common length fit into a prompt, next to a question as long."""
        tokens = max(1.0, self._tokens_of_a_demonstration)
        return int((self.lm.model.config.context - 1) / tokens) - 1

    def shared(self, method: str, labels: int, seed: int, rows: Sequence[Row]) -> Shared:
        """Do what a row shares with others, if none has yet, and say what it takes a row that shares with none."""
        if method != "head":
            return Shared(0.0, 0.0)
        return Shared(self._read_once(self.task.subset(labels, seed).rows), self._read_once(rows))

    def _read_once(self, rows: Sequence[Row]) -> float:
        """Seconds that the features of these rows' texts take, or took when they were first asked for."""
        texts = [self.task.finetune_text(row) for row in rows]
        new = [text for text in dict.fromkeys(texts) if text not in self._took]
        start = time.perf_counter()
        self._features(new)
        if new:
            self._took |= dict.fromkeys(new, (time.perf_counter() - start) / len(new))
        return sum(self._took[text] for text in texts)

    def make(self, method: str, labels: int, shots: int, seed: int) -> Predictor:
        """The predictor that learned from N labels, or shows `shots` of them."""
        if method == "zero-shot":
            return zero_shot(self.lm, self.task)
        if method in PROMPTED:
            nearest = method == "in-context-nearest"
            select: Literal["nearest", "random"] = "nearest" if nearest else "random"
            return in_context(self.lm, self.task, shots, select=select, labels=labels, seed=seed)
        if method == "majority":
            return majority(self.task, labels, seed)
        if method == "bag-of-words":
            return bag_of_words(self.task, labels, seed)
        if method == "head":
            return finetune(self.lm, self.task, train="head", labels=labels, seed=seed, features=self._features)
        if method == "full":
            return finetune(self.lm, self.task, labels=labels, seed=seed)
        assert method == "random-weights", method
        return finetune(random_weights(self.lm, seed), self.task, labels=labels, seed=seed)

    def notes(self, predictor: Predictor, rows: Sequence[Row]) -> list[str]:
        """What befell the rows that were predicted, a line each: the same however often they are."""
        if isinstance(predictor, Prompted):
            return predictor.notes
        if not isinstance(predictor, Classifier):
            return []
        context = self.lm.model.config.context
        texts = [self.task.finetune_text(row) for row in rows]
        room = predictor.features.room
        cut = sum(len(tokens) > room for tokens in self.lm.tokenizer.encode_batch(texts))
        return [f"{cut} test texts longer than the context of {context} tokens lost their beginning"] if cut else []

    def seconds(self, method: str, labels: int, shots: int, tests: int) -> float:
        """What a row takes, adapting and predicting, from one quick measurement of how fast the model reads.

        An estimate: it is right within a factor of a few.
        """
        if method == "majority":
            return 1e-3
        if method == "bag-of-words":
            return 0.05 + 1e-3 * labels + 1e-4 * tests
        if method in PROMPTED:
            demonstrations = self._tokens_of_a_demonstration * shots
            # one prefix for all rows, or one for each; a token behind a long prefix costs more
            read = tests * self._tokens_of_a_demonstration * (1.5 + 0.02 * shots)
            read += demonstrations * (tests if method == "in-context-nearest" else 1)
            if method == "in-context-nearest":
                read += labels * self._tokens_of_a_demonstration
            return read * self._seconds_a_token
        texts = float(tests)
        if method == "head":
            return 0.1 + 1e-4 * labels + (texts + labels) * self._seconds_a_text
        made = recipe(labels, self.lm.model.config.width, epochs=None, learning_rate=None, seed=0)
        texts += 3 * made.steps * made.batch + labels  # backward is twice forward; the validations
        return texts * self._seconds_a_text

    @cached_property
    def _some_rows(self) -> list[Row]:
        places = np.linspace(0, len(self.task.train) - 1, min(_LOOKED_AT, len(self.task.train))).astype(int)
        return [self.task.train.rows[place] for place in places]

    @cached_property
    def _tokens_of_a_demonstration(self) -> float:
        if self.task.prompt is None:
            return 0.0
        prompt, label = self.task.prompt, self.task.train.labels[0]
        texts = [prompt.filled(row, label) + prompt.separator for row in self._some_rows]
        return float(np.mean([len(self.lm.tokenizer.encode(text)) for text in texts]))

    @cached_property
    def _read(self) -> tuple[float, float]:
        """Seconds that some texts took to be read, and how many tokens they were."""
        features = Features(self.lm.model, self.lm.tokenizer)
        texts = [self.task.finetune_text(row) for row in self._some_rows]
        features(texts[:1])  # what is made at the first call
        machine.synchronise(self.lm.device)
        start = time.perf_counter()
        features(texts)
        return time.perf_counter() - start, sum(map(len, features.tokens(texts)))

    @property
    def _seconds_a_text(self) -> float:
        return self._read[0] / len(self._some_rows)

    @property
    def _seconds_a_token(self) -> float:
        return self._read[0] / self._read[1]


def _some(weights: Tensor) -> NDArray[np.float32]:
    """Weights from all over a tensor; any training changes some of them."""
    flat = weights.detach().flatten()
    some: NDArray[np.float32] = flat[:: max(1, flat.numel() // _WEIGHTS_LOOKED_AT)].float().cpu().numpy()
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
