"""The baseline without a language model: logistic regression on the words of a text. Knows texts and labels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from chainrule.comparison.methods.finetuned import needs_classes
from chainrule.comparison.methods.method import Colour, Method, Role
from chainrule.errors import ChainruleError

if TYPE_CHECKING:
    from chainrule.comparison.methods.text_predictor import TextPredictor
    from chainrule.tasks.examples import Task

_WORD = r"\w+|[^\w\s]"  # a punctuation mark is one too
_STRENGTHS = (0.1, 1.0, 3.0, 10.0, 30.0, 100.0)  # inverse strengths of the regularisation
_STRENGTH = 10.0  # where the labels are too few to choose it


def bag_of_words(task: Task, labels: int | None = None, seed: int = 0) -> TextPredictor:
    """TF-IDF of words and pairs of words, and logistic regression, its strength chosen inside the N labels.

    Raises ChainruleError for a task of free answers.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    from chainrule.comparison.methods.text_predictor import TextPredictor
    from chainrule.finetuning.logistic import Strengths, classes_of, fit

    if task.kind != "classification":
        raise ChainruleError(f"bag of words: wanted a task with labels to choose from, got one of kind {task.kind!r}")
    examples = task.subset(labels, seed)
    vectorizer = TfidfVectorizer(token_pattern=_WORD, ngram_range=(1, 2), sublinear_tf=True)
    counts = vectorizer.fit_transform([task.finetune_text(row) for row in examples.rows])
    classes = classes_of(examples.labels, task.labels)
    regression = fit(counts, classes, Strengths(_STRENGTHS, _STRENGTH), intercept=True, balanced=False, seed=seed)
    return TextPredictor(task, task.labels, lambda texts: regression.predict_proba(vectorizer.transform(texts)))


BAG_OF_WORDS = Method(
    "bag-of-words",
    "the bag of words",
    Role.SIMPLE,
    Colour("#39414d", "#c9d0db"),
    partial(needs_classes, name="bag-of-words"),
    seconds=lambda study, labels, tests: 0.05 + 1e-3 * labels + 1e-4 * tests,
    fit=lambda study, labels, seed: bag_of_words(study.task, labels, seed),
)
