"""Probabilities from the scores of labels, with the bias of a prompt subtracted. Knows arrays, not texts or models.

Shapes: N rows, C labels, M reference texts. Scores are log-probabilities in nats, divided by lengths or not.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

Floats = NDArray[np.float64]

# Texts that say nothing about the answer (Zhao et al., 2021, Calibrate Before Use).
CONTENT_FREE = ("N/A", "", "[MASK]")


def bias(scores: Floats) -> Floats:
    """The labels' mean log-probability (…, C) over reference texts (…, M, C): what a prompt prefers whatever the text.

    The references are content-free texts (contextual calibration: Zhao et al., 2021) or unlabelled texts (batch
    calibration: Zhou et al., 2024). Both papers average the probabilities; the mean of their logarithms removes exactly
    what is added to a label's score in every text.
    """
    assert scores.shape[-2] > 0, "a bias needs a reference text"
    return np.asarray(log_softmax(scores, axis=-1).mean(axis=-2), np.float64)


def probabilities(scores: Floats, bias: Floats | float = 0.0) -> Floats:
    """softmax(scores - bias) over the labels: (N, C), given a bias (C,) or one for each row, (N, C).

    Subtracting a bias assumes that all labels are equally frequent: leave it where they are far from balanced.
    """
    return np.asarray(softmax(scores - bias, axis=-1), np.float64)
