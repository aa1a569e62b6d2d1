"""Ridge regression for a task of numbers, its strength chosen in closed form. Knows features, not their model.

Shapes: N texts, D width.
"""

import numpy as np
from numpy.typing import NDArray

from chainrule.finetuning.centred import Centred, HeadWeights, least_error_left_out


def solve_ridge(features: NDArray[np.float32], numbers: NDArray[np.float64], *, bias: bool) -> HeadWeights:
    """w (1, D) so that w · c is near the numbers (N,), in their unit, from c (N, D).

    Minimises the squared error plus λ times the squared length of what tells texts apart, the intercept being free; λ
    is the one of least error of each text predicted by a fit to all others. `bias`: whether the head may have one.
    """
    centred, deviation = Centred(features, bias=bias), float(numbers.std()) or 1.0
    wanted, constant = numbers / deviation, centred.constant
    remaining = centred.varying - np.outer(constant, constant @ centred.varying / (constant @ constant))
    left, singular, right = np.linalg.svd(remaining, full_matrices=False)
    strength = least_error_left_out(wanted, left, singular, constant)
    coefficients = right.T @ (singular / (singular**2 + strength) * (left.T @ wanted))
    intercept = constant @ (wanted - centred.varying @ coefficients) / (constant @ constant)
    return centred.head(deviation * coefficients[None], np.array([deviation * intercept]))
