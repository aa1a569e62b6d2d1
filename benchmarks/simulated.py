"""Simulated comparisons: six methods at three numbers of labels whose true accuracies are known. Used by coverage.py.

The world is that of coverage.py. A method answers an item alike at every number of labels in part: of what suits the
method, N(0, 1) on the scale of log odds, four fifths of the variance are the same at all. The first method is the
baseline, the second a predictor that no seed changes, such as zero-shot.

Shapes: K methods, L numbers of labels, S seeds, M items.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from chainrule.comparison.cells import Setting
from chainrule.comparison.methods.method import Colour, Method, Role, always
from chainrule.comparison.rows import Outcome
from chainrule.comparison.table import AHEAD, Table
from chainrule.tasks.examples import Examples
from chainrule.uncertainty import Direction, adjusted_together, difference, holm

LABELS = (16, 64, 256)
METHODS, BASELINE, FIXED, LAST = 6, 0, 1, 5
EASY, OWN, SAME_AT_ALL = 1.75, 1.0, 0.8
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True)
class Effects:
    """What seeds do: standard deviations on the scale of log odds."""

    name: str
    of_method: tuple[float, ...]  # (K,), at the middle number of labels
    fall: float = 0.0  # of its logarithm from one number of labels to the next
    at_first: float | None = None  # the last method's effect at the smallest number of labels, where it is another
    shared: float = 0.0  # correlation of the seeds' effects on different methods


def alike(effect: float) -> Effects:
    return Effects(str(effect), (effect,) * METHODS)


NOISY_LAST = Effects("last 1.0, others 0.1", (0.1,) * 5 + (1.0,))
NOISY_BASELINE = Effects("baseline 1.0, others 0.1", (1.0,) + (0.1,) * 5)
NOISY_ONCE = Effects("last 1.0 at 16 labels, else 0.1", (0.1,) * METHODS, at_first=1.0)
FALLING = Effects("0.6, 0.3, 0.15, correlated", (0.3,) * METHODS, fall=float(np.log(2)), shared=0.5)


def centre(p: float, *effects: float) -> float:
    """c for an expected accuracy of p under normal effects of these standard deviations."""
    total = float(np.linalg.norm(effects))
    return brentq(lambda c: WEIGHTS @ expit(c + total * NODES) - p, -30, 30)


def simulated(rng: np.random.Generator, S: int, M: int, accuracies: Sequence[float], effects: Effects) -> Table:
    """A table of methods with these expected accuracies, (K,), the same at every number of labels."""
    easy = rng.normal(0, EASY, M)
    common = rng.normal(0, 1, (len(LABELS), S, 1))
    methods, outcomes = [_method(k) for k in range(METHODS)], []
    for k, p in enumerate(accuracies):
        own = rng.normal(0, OWN * SAME_AT_ALL**0.5, M)
        for step, labels in enumerate(LABELS[:1] if k == FIXED else LABELS):
            sigma = 0.0 if k == FIXED else effects.of_method[k] * float(np.exp(effects.fall * (1 - step)))
            if k == LAST and step == 0 and effects.at_first is not None:
                sigma = effects.at_first
            there = easy + own + rng.normal(0, OWN * (1 - SAME_AT_ALL) ** 0.5, M)
            seeds = 1 if k == FIXED else S
            luck = effects.shared**0.5 * common[step, :seeds]
            luck = luck + (1 - effects.shared) ** 0.5 * rng.normal(0, 1, (seeds, 1))
            right = rng.random((seeds, M)) < expit(centre(p, EASY, OWN, sigma) + there + sigma * luck)
            outcomes += [_outcome(k, 0 if k == FIXED else labels, seed, row) for seed, row in enumerate(right)]
    items = Examples([{"text": ""}] * M, ["1"] * M, None)
    return Table(Setting("", "", "free", ("text",), (), 10**6, 0.0, items), outcomes, methods)


def _method(k: int) -> Method:
    role = Role.SIMPLE if k == BASELINE else Role.PROMPTED if k == FIXED else Role.FINETUNED
    return Method(
        str(k), str(k), role, Colour("", ""), obstacle=lambda study: None, seconds=lambda study, labels, tests: 0.0,
        fit=_no_fit, seeds_matter=(lambda labels, everything: False) if k == FIXED else always,
        ignores_more_labels=k == FIXED,
    )  # fmt: skip


def _no_fit(study: object, labels: int, seed: int) -> None:
    raise NotImplementedError("the answers are simulated")


def _outcome(k: int, labels: int, seed: int, right: np.ndarray) -> Outcome:
    return Outcome(
        method=str(k), labels=labels, shots=0, seed=seed, accuracy=float(right.mean()), interval=(0.0, 1.0),
        macro_f1=None, calibration=None, seconds_to_adapt=0.0, milliseconds_per_text=0.0, notes=(),
        predictions=["1" if one else "0" for one in right], probabilities=None,
    )  # fmt: skip


def coverage(
    rng: np.random.Generator, S: int, M: int, p: float, effects: Effects, replicates: int
) -> tuple[np.ndarray, np.ndarray]:
    """(K, L) and (K, L), in percent: how often the interval of a method's accuracy, and of its difference to the
    baseline, covers the truth; methods of equal accuracy. NaN where there is none."""
    of_accuracy, of_difference = np.zeros((METHODS, len(LABELS))), np.zeros((METHODS, len(LABELS)))
    for _ in range(replicates):
        table = simulated(rng, S, M, [p] * METHODS, effects)
        for k, step in itertools.product(range(METHODS), range(len(LABELS))):
            low, high = table.with_labels(LABELS[step])[str(k)].accuracy[1:]
            of_accuracy[k, step] += low <= p <= high
            contrast = table.contrast(LABELS[step], str(k), str(BASELINE))
            of_difference[k, step] += contrast is not None and contrast.difference.low <= 0 <= contrast.difference.high
    of_difference[BASELINE] = np.nan
    return 100 * of_accuracy / replicates, 100 * of_difference / replicates


def family_error(rng: np.random.Generator, S: int, M: int, p: float, effects: Effects, replicates: int) -> float:
    """How often, in percent, anything is significant among methods of equal accuracy."""
    tables = (simulated(rng, S, M, [p] * METHODS, effects) for _ in range(replicates))
    return 100 * sum(any(one.significant for one in table.contrasts) for table in tables) / replicates


@dataclass(frozen=True)
class Power:
    """How often, in percent, the last method is found to be better: it is, by so many points, than all others."""

    than_baseline: float
    known: float  # than the baseline, were all variances known: no test of this family finds it more often
    before: float  # than the baseline, by Student's t of each pair's own seeds, adjusted for all pairs by Holm
    than_all: float  # that it is significantly better than each of the others


def power(rng: np.random.Generator, S: int, M: int, p: float, gap: float, effects: Effects, replicates: int) -> Power:
    tables = [simulated(rng, S, M, [p] * LAST + [p + gap], effects) for _ in range(replicates)]
    means = np.array([[cell.value for cell in table.cells] for table in tables])
    covariance = np.cov(means.T)  # (cells, cells), of the true errors
    found = []
    for table in tables:
        hardest = [table.hardest_rival(labels) for labels in LABELS]
        found.append((
            np.mean([_better(table, labels) for labels in LABELS]),
            _known(table, covariance),
            _by_own_seeds(table),
            np.mean([one is not None and one.significant and one.a == str(LAST) for one in hardest]),
        ))  # fmt: skip
    return Power(*(100 * np.mean(found, axis=0)).tolist())


def _better(table: Table, labels: int) -> bool:
    contrast = table.contrast(labels, str(LAST), str(BASELINE))
    return contrast is not None and contrast.significant and contrast.difference.value > 0


def _known(table: Table, covariance: np.ndarray) -> float:
    """The share of the L, by the normal distribution with the true covariance."""
    cells = list(table.cells)
    signs = np.zeros((len(table.contrasts), len(cells)))
    for row, contrast in zip(signs, table.contrasts, strict=True):
        there = table.with_labels(contrast.labels)
        row[cells.index(there[contrast.a])], row[cells.index(there[contrast.b])] = 1.0, -1.0
    errors = signs @ covariance @ signs.T
    differences = np.array([contrast.difference.value for contrast in table.contrasts])
    baseline = [AHEAD if contrast.b == str(BASELINE) else 0.5 for contrast in table.contrasts]
    adjusted = adjusted_together(
        (2 * ndtr(-np.abs(differences) / np.sqrt(np.maximum(np.diag(errors), 1e-12)))).tolist(),
        errors,
        [Direction(one > 0, share) for one, share in zip(differences, baseline, strict=True)],
    )
    names = [(contrast.a, contrast.b) for contrast in table.contrasts]
    return float(np.mean([p <= 0.05 for p, pair in zip(adjusted, names, strict=True) if pair == (str(LAST), "0")]))


def _by_own_seeds(table: Table) -> float:
    pairs = [(labels, a, b) for labels in LABELS for a, b in itertools.combinations(range(METHODS), 2)]
    cells = {labels: table.with_labels(labels) for labels in LABELS}
    p_values = [difference(cells[n][str(a)].correct, cells[n][str(b)].correct).p_value for n, a, b in pairs]
    adjusted = dict(zip(pairs, holm(p_values), strict=True))
    return float(np.mean([adjusted[labels, BASELINE, LAST] <= 0.05 for labels in LABELS]))
