"""The baseline without a language model: a regression on the words of a text. Knows texts and labels.

Shapes: N texts, C labels, V words and pairs of words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chainrule.comparison.methods.method import LABELLED, Colour, Method, Role
from chainrule.errors import ChainruleError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chainrule.comparison.methods.text_predictor import TextPredictor
    from chainrule.tasks.examples import Task

_WORD = r"\w+|[^\w\s]"  # a punctuation mark is one too
_STRENGTHS = (0.1, 1.0, 3.0, 10.0, 30.0, 100.0)  # inverse strengths of the regularisation
_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of a ridge regression
_STRENGTH = 10.0  # where the labels are too few to choose it


def bag_of_words(task: Task, labels: int | None = None, seed: int = 0) -> TextPredictor:
    """TF-IDF of words and pairs of words, and logistic regression, its strength chosen inside the N labels.

    One for each of several labels at once; of numbers a ridge regression. Raises ChainruleError for a task of free
    answers.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    from chainrule.comparison.methods.text_predictor import TextPredictor
    from chainrule.finetuning.logistic import Strengths, classes_of, fit

    if task.kind == "free":
        raise ChainruleError(f"bag of words: wanted a task with labels to choose from, got one of kind {task.kind!r}")
    examples = task.subset(labels, seed)
    vectorizer = TfidfVectorizer(token_pattern=_WORD, ngram_range=(1, 2), sublinear_tf=True)
    counts = vectorizer.fit_transform([task.finetune_text(row) for row in examples.rows])
    if task.kind == "multilabel":
        of_labels = _each_label(counts, task.targets(examples), seed)
        return TextPredictor(task, task.labels, lambda texts: of_labels(vectorizer.transform(texts)))
    if task.kind == "regression":
        number = _ridge(counts, task.targets(examples)[:, 0], seed)
        return TextPredictor(task, (), lambda texts: number.predict(vectorizer.transform(texts))[:, None])
    classes = classes_of(examples.labels, task.labels)
    regression = fit(counts, classes, Strengths(_STRENGTHS, _STRENGTH), intercept=True, balanced=False, seed=seed)
    return TextPredictor(task, task.labels, lambda texts: regression.predict_proba(vectorizer.transform(texts)))


def _each_label(counts: Any, targets: NDArray[np.float64], seed: int) -> Callable[[Any], NDArray[np.float64]]:
    """From words (N, V) to the probability of each label (N, C): that of a label which all texts have, or none, is its
    share with half a text added to each side."""
    import numpy as np

    from chainrule.finetuning.logistic import Strengths, fit

    n, have = len(targets), targets.sum(0)
    shares, strengths = (have + 0.5) / (n + 1), Strengths(_STRENGTHS, _STRENGTH)
    fitted = {
        label: fit(counts, targets[:, label].astype(np.int64), strengths, intercept=True, balanced=False, seed=seed)
        for label in np.flatnonzero((have > 0) & (have < n))
    }

    def probabilities(words: Any) -> NDArray[np.float64]:
        found = np.tile(shares, (words.shape[0], 1))
        for label, regression in fitted.items():
            found[:, label] = regression.predict_proba(words)[:, 1]
        return found

    return probabilities


def _ridge(counts: Any, numbers: NDArray[np.float64], seed: int) -> Any:
    """scikit-learn's ridge regression of numbers (N,) on words (N, V), its strength chosen by cross-validation.

    Of fewer than `FOLDS` numbers their mean.
    """
    import numpy as np
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import Ridge

    from chainrule.finetuning.logistic import FOLDS, assign_folds

    if len(numbers) < FOLDS:
        return DummyRegressor().fit(counts, numbers)
    folds = assign_folds(np.zeros(len(numbers), np.int64), FOLDS, seed)

    def error(penalty: float) -> float:
        parts = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(FOLDS)]
        fitted = [(Ridge(penalty).fit(counts[train], numbers[train]), test) for train, test in parts]
        return float(sum(np.square(model.predict(counts[test]) - numbers[test]).sum() for model, test in fitted))

    return Ridge(min(_PENALTIES, key=error)).fit(counts, numbers)


BAG_OF_WORDS = Method(
    "bag-of-words",
    "the bag of words",
    Role.SIMPLE,
    Colour("#39414d", "#c9d0db"),
    seconds=lambda study, labels, tests: 0.05 + 1e-3 * labels + 1e-4 * tests,
    fit=lambda study, labels, seed: bag_of_words(study.task, labels, seed),
    kinds=LABELLED,
)
