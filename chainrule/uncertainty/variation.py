"""How far in-context learning varies with its demonstrations, their order and the test items. Knows which
answers were right."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from chainrule.errors import ChainruleError


class Spread(NamedTuple):
    """Standard deviations in accuracy, 0..1."""

    examples: float  # from one set of demonstrations to another
    order: float  # from one order of a set to another
    items: float  # of a test item's probability of a right answer; M other items move the mean by items / sqrt(M)


def spread(correct: ArrayLike) -> Spread:
    """Of `correct` (D, O, M): D sets of demonstrations, O orders within each, the same M items; 1 where right.

    Nested analysis of variance with the items crossed; the mean squares are solved for the variances, and a negative
    one counts as 0. Raises ChainruleError with fewer than 2 sets, orders or items.
    """
    table = np.asarray(correct, dtype=np.float64)
    if table.ndim != 3 or min(table.shape) < 2:
        raise ChainruleError(f"spread: wanted (sets, orders, items), at least 2 of each, got the shape {table.shape}")
    sets, orders, items = table.shape
    mean = table.mean()
    of_set, of_order, of_item = table.mean(axis=(1, 2)), table.mean(axis=2), table.mean(axis=(0, 1))
    of_set_and_item = table.mean(axis=1)  # (D, M)
    between_sets = orders * items * ((of_set - mean) ** 2).sum() / (sets - 1)
    between_orders = items * ((of_order - of_set[:, None]) ** 2).sum() / (sets * (orders - 1))
    between_items = sets * orders * ((of_item - mean) ** 2).sum() / (items - 1)
    interaction = (
        orders * ((of_set_and_item - of_set[:, None] - of_item + mean) ** 2).sum() / ((sets - 1) * (items - 1))
    )
    unexplained = table - of_order[:, :, None] - of_set_and_item[:, None, :] + of_set[:, None, None]
    residual = (unexplained**2).sum() / (sets * (orders - 1) * (items - 1))
    variances = (
        (between_sets - between_orders - interaction + residual) / (orders * items),
        (between_orders - residual) / items,
        (between_items - interaction) / (sets * orders),
    )
    return Spread(*(float(max(variance, 0.0)) ** 0.5 for variance in variances))
