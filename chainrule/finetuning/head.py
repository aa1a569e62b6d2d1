"""The linear head w on fixed features, by logistic regression without intercept. Knows features, not their model.

Shapes: N examples, C classes, D width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.finetuning.logistic import Strengths, fit

STRENGTHS = Strengths(choices=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), default=1e-2)


def solve_head(features: NDArray[np.float32], classes: NDArray[np.int64], *, balanced: bool, seed: int) -> Tensor:
    """w (C, D) in float32, so that softmax(w · c) gives the classes (N,), each of 0..C-1 among them, from c (N, D).

    Features are divided by their standard deviations, which are then folded into w. They are not centred: a head
    without a bias cannot undo a shift.
    """
    scale = features.std(0, dtype=np.float64)
    scale[scale == 0] = 1.0  # a constant feature
    scaled = features / scale
    regression = fit(scaled, classes, STRENGTHS, intercept=False, balanced=balanced, seed=seed)
    w = regression.coef_ / scale
    if len(w) == 1:  # of two classes scikit-learn gives the difference
        w = np.concatenate((-w / 2, w / 2))
    return torch.from_numpy(np.ascontiguousarray(w, np.float32))  # scikit-learn's may be column-major
