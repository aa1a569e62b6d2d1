"""What anyone should ask for beside a language model: the commonest label, a bag of words, the network untrained.

Knows rows and labels; of models only how to make one anew. Shapes: N rows, C classes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import ChainruleError
from chainrule.finetuning.classifier import Form
from chainrule.finetuning.logistic import Strengths, classes_of, fit
from chainrule.language_model import Pretrained, make_language_model
from chainrule.model.transformer import Transformer, initialise
from chainrule.tasks.examples import Row, Task

STRENGTHS = Strengths(choices=(0.1, 1.0, 3.0, 10.0, 30.0, 100.0), default=10.0)
_WORD = r"\w+|[^\w\s]"  # a punctuation mark is one too
_ROWS_AT_ONCE = 4096


class Baseline:
    """A predictor without a language model. Made by `majority` and `bag_of_words`."""

    def __init__(
        self, labels: Sequence[str], form: Form, proba: Callable[[Sequence[str]], NDArray[np.float64]]
    ) -> None:
        """`proba`: texts (N) to probabilities of the labels (N, C)."""
        self.labels, self.form, self.notes = tuple(labels), form, ()
        self._proba = proba

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns of a row."""
        return self.form.text

    def predict(self, rows: Iterable[Row | str]) -> list[str]:
        """The most probable label of each row. Raises ChainruleError for a row without the text columns."""
        return [label for label, _ in self.stream(rows)]

    def predict_proba(self, rows: Iterable[Row | str]) -> NDArray[np.float64]:
        """(N, C) probabilities of `labels`, each row's summing to 1; errors as in `predict`."""
        return np.array([probabilities for _, probabilities in self.stream(rows)]).reshape(-1, len(self.labels))

    def stream(self, rows: Iterable[Row | str]) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Label and probabilities (C,), row by row, in memory that does not grow with their number."""
        if isinstance(rows, str | Mapping):
            raise ChainruleError("rows: wanted several rows, got one alone; put it into a list")
        texts = map(self.form, rows)
        while part := list(islice(texts, _ROWS_AT_ONCE)):
            for probabilities in self._proba(part):
                yield self.labels[int(probabilities.argmax())], probabilities


def majority(task: Task, labels: int | None = None, seed: int = 0) -> Baseline:
    """The shares of the classes among the N labels, whatever the text; the first of them where several are commonest.

    Where answers are free, the commonest answer alone.
    """
    counts = Counter(task.subset(labels, seed).labels)
    names = task.labels or tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))[:1])
    shares = np.array([counts[name] for name in names], np.float64)
    shares /= shares.sum()
    return Baseline(names, Form(task.text, task.input), lambda texts: np.tile(shares, (len(texts), 1)))


def bag_of_words(task: Task, labels: int | None = None, seed: int = 0) -> Baseline:
    """TF-IDF of words and pairs of words, and logistic regression, its strength chosen inside the N labels.

    Raises ChainruleError for a task of free answers.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if task.kind != "classification":
        raise ChainruleError(f"bag of words: wanted a task with labels to choose from, got one of kind {task.kind!r}")
    examples, form = task.subset(labels, seed), Form(task.text, task.input)
    vectorizer = TfidfVectorizer(token_pattern=_WORD, ngram_range=(1, 2), sublinear_tf=True)
    counts = vectorizer.fit_transform([form(row) for row in examples.rows])
    classes = classes_of(examples.labels, task.labels)
    regression = fit(counts, classes, STRENGTHS, intercept=True, balanced=False, seed=seed)
    return Baseline(task.labels, form, lambda texts: regression.predict_proba(vectorizer.transform(texts)))


def random_weights(lm: Pretrained, seed: int = 0) -> Pretrained:
    """The same network and tokenizer before any pretraining, its weights drawn from `seed`: what `finetune` does then
    is what pretraining did not do."""
    model = Transformer(lm.model.config)
    initialise(model, seed)  # on the CPU, so that every device starts from the same weights
    model.compute_dtype = lm.model.compute_dtype
    model.to(lm.device, lm.model.dtype)
    return make_language_model(model.eval(), lm.tokenizer, lm.family, lm.stop_tokens)
