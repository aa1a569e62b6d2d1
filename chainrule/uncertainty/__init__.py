"""Intervals, significance tests and calibration of predictions. Knows which answers were right, no models.

What is estimated is the expected accuracy over draws of N labels from this pool and over test items like these.
`docs/statistics.md` explains each method and publishes its simulated coverage.
"""

from chainrule.uncertainty.differences import Difference, Direction, adjusted_together, difference, holm, mcnemar, tango
from chainrule.uncertainty.intervals import Estimate, accuracy, macro_f1, wilson
from chainrule.uncertainty.label_sets import macro_f1_of_labels, micro_f1, ranking_precision
from chainrule.uncertainty.numbers import r_squared, rmse, spearman
from chainrule.uncertainty.probabilities import Bin, Calibration, calibration
from chainrule.uncertainty.seed_effects import seed_variances, sum_if_equal, sum_of
from chainrule.uncertainty.switch import SwitchPoint, switch_point
from chainrule.uncertainty.tables import SeedVariance
from chainrule.uncertainty.variation import Spread, spread

__all__ = [
    "Bin",
    "Calibration",
    "Difference",
    "Direction",
    "Estimate",
    "SeedVariance",
    "Spread",
    "SwitchPoint",
    "accuracy",
    "adjusted_together",
    "calibration",
    "difference",
    "holm",
    "macro_f1",
    "macro_f1_of_labels",
    "mcnemar",
    "micro_f1",
    "r_squared",
    "ranking_precision",
    "rmse",
    "seed_variances",
    "spearman",
    "spread",
    "sum_if_equal",
    "sum_of",
    "switch_point",
    "tango",
    "wilson",
]
