"""Nearest class mean as a method of `compare`: each text gets the class whose mean hidden state points its way.

Knows features and classes. Nothing is trained, so that it needs few labels and no time; as in prototypical networks
(Snell, Swersky and Zemel, 2017), but by the cosine and in a pretrained model's features. Shapes: N texts, C classes,
D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainrule.comparison.methods.finetuned import megabytes_of_head, seconds_of_features, texts_cut
from chainrule.comparison.methods.method import Colour, Method, Role

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chainrule.comparison.methods.text_predictor import TextPredictor
    from chainrule.comparison.study import Study

SCALES = (1.0, 3.0, 10.0, 30.0)  # of the cosines, before the softmax
SCALE = 3.0  # where no class has two examples to choose it by


def _fit(study: Study, labels: int, seed: int) -> TextPredictor:
    from chainrule.comparison.methods.text_predictor import TextPredictor
    from chainrule.finetuning.logistic import classes_of

    task, examples = study.task, study.task.subset(labels, seed)
    features = study.features(study.texts(examples.rows))
    centre = features.mean(0)  # the mean over all texts dominates the cosine, and is the same in each class
    units, classes = _units(features - centre), classes_of(examples.labels, task.labels)
    means, scale = _units(_sums(units, classes)), best_scale(units, classes)
    return TextPredictor(
        task,
        task.labels,
        lambda texts: _softmax(scale * (_units(study.features(texts) - centre) @ means.T)),
        form=study.form,
    )


def best_scale(units: NDArray[np.float64], classes: NDArray[np.int64]) -> float:
    """The one of SCALES with the least log loss, each example (N, D) judged by means without itself."""
    import numpy as np

    sums, rows = _sums(units, classes), np.arange(len(units))
    cosines = units @ _units(sums).T  # (N, C)
    cosines[rows, classes] = (units * _units(sums[classes] - units)).sum(1)
    judged = np.bincount(classes)[classes] > 1  # the others' classes have no mean without them
    if not judged.any():
        return SCALE
    losses = [-np.log(_softmax(scale * cosines)[rows, classes][judged]).sum() for scale in SCALES]
    return SCALES[int(np.argmin(losses))]


def _sums(units: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, D) to the sum of each class (C, D)."""
    import numpy as np

    return np.stack([units[classes == number].sum(0) for number in range(classes.max() + 1)])


def _units(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each vector at length 1; one without a direction stays 0."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float64)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import softmax

    probabilities: NDArray[np.float64] = softmax(logits, axis=1)
    return probabilities


CENTROID = Method(
    "centroid",
    "the nearest class mean",
    Role.FINETUNED,
    Colour("#b0308f", "#f08bd6"),
    seconds_of_features,
    _fit,
    kinds=("classification",),
    notes=texts_cut,
    megabytes=megabytes_of_head,
    shares_features=True,
)
