"""Intervals, significance tests and calibration of predictions. Knows which answers were right, no models.

What is estimated is the expected accuracy over draws of N labels from this pool and over test items like these.
`docs/statistics.md` explains each method and publishes its simulated coverage.
"""

from chainrule.uncertainty.differences import Difference, adjusted_together, difference, holm, mcnemar, tango
from chainrule.uncertainty.intervals import Estimate, accuracy, macro_f1, wilson
from chainrule.uncertainty.probabilities import Bin, Calibration, calibration
from chainrule.uncertainty.seed_effects import seed_variances, sum_of
from chainrule.uncertainty.switch import SwitchPoint, switch_point
from chainrule.uncertainty.tables import SeedVariance
from chainrule.uncertainty.variation import Spread, spread

__all__ = [
    "Bin",
    "Calibration",
    "Difference",
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
    "mcnemar",
    "seed_variances",
    "spread",
    "sum_of",
    "switch_point",
    "tango",
    "wilson",
]
