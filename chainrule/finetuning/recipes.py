"""How long and how fast a finetuning learns, by what is trained and on how many texts. Knows numbers alone."""

from dataclasses import dataclass

from chainrule.training.optimizer import Schedule

BATCH_SIZE = 32  # texts a step where all weights are trained beside a head; in all other finetunings SMALL_BATCH
SMALL_BATCH = 8
SMOOTHING = 0.1  # of the labels: a few of them are soon fitted, and the probabilities would be all 0 or 1
_LEAST_WARMUP = 10  # steps: the first one moves every weight by the rate, in a direction that a few texts hardly tell
_EPOCHS, _LEAST_STEPS = 3, 100  # of all weights beside a head, however few the labels
_MORE_EPOCHS = 2.0  # of all others, beside so many texts, however few the labels:
_TEXTS_BESIDE_HEAD, _TEXTS = 192, 96


@dataclass(frozen=True)
class Recipe:
    """How the model, and a head w beside it, are trained."""

    steps: int
    batch_size: int  # texts a step
    rate: float  # the learning rate of what is trained of the model
    head_rate: float  # of w
    seed: int = 0
    smoothing: float = SMOOTHING
    least_warmup: int = _LEAST_WARMUP  # steps; where there are fewer in all, none has the whole rate

    @property
    def schedule(self) -> Schedule:
        """A tenth of the steps warms up, then the rate falls to 0."""
        return Schedule(self.steps, warmup=self.steps // 10, decay=0.9, least_warmup=self.least_warmup)


def recipe(
    n: int, width: int, *, epochs: float | None = None, learning_rate: float | None = None, seed: int = 0
) -> Recipe:
    """For w and θ on n texts: `epochs`, by default 3 and at least 100 steps; the rate falls with the width."""
    batch_size = min(BATCH_SIZE, n)
    steps = -(-n // batch_size) * _EPOCHS if epochs is None else epochs * n / batch_size
    rate = learning_rate or 0.06 / width
    return Recipe(max(_LEAST_STEPS if epochs is None else 1, round(steps)), batch_size, rate, 10 * rate, seed)


def lora_recipe(
    n: int, width: int, *, epochs: float | None = None, learning_rate: float | None = None, seed: int = 0
) -> Recipe:
    """For w and LoRA's matrices: by default 192 texts and 2 epochs more.

    The learning rate is 10 times that of full finetuning, on all linear layers of the blocks, and batches are small
    ("LoRA Without Regret", Schulman et al., 2025).
    """
    rate = 0.6 / width
    steps, batch_size = _steps(n, _TEXTS_BESIDE_HEAD, epochs)
    least_warmup = _short_warmup(steps)
    return Recipe(steps, batch_size, learning_rate or rate, rate, seed, least_warmup=least_warmup)


def language_recipe(
    n: int, width: int, *, lora: bool, epochs: float | None = None, learning_rate: float | None = None
) -> Recipe:
    """For the language model itself: by default 96 texts and 2 epochs more; the rate is 10 times as high with LoRA."""
    rate = learning_rate or (10 if lora else 1) * 0.03 / width
    steps, batch_size = _steps(n, _TEXTS, epochs)
    return Recipe(steps, batch_size, rate, rate, least_warmup=_short_warmup(steps))


def _short_warmup(steps: int) -> int:
    """The least warm-up of a recipe of a few dozen steps by default: 10 steps where there are fewer in all."""
    return _LEAST_WARMUP if steps < _LEAST_WARMUP else 0


def _steps(n: int, least_texts: int, epochs: float | None) -> tuple[int, int]:
    """And the batch size."""
    batch_size = min(SMALL_BATCH, n)
    texts = least_texts + _MORE_EPOCHS * n if epochs is None else epochs * n
    return max(1, round(texts / batch_size)), batch_size
