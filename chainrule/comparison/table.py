"""The table of a comparison: its cells, the differences between methods, and where one overtakes another.

Knows predictions, not how they were made, nor how a table is worded or drawn. Shapes: S seeds, M test items.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrule.comparison.cells import Cell, Setting
from chainrule.comparison.grid import Planned
from chainrule.comparison.methods import METHODS
from chainrule.comparison.methods.method import Method, Role
from chainrule.comparison.rows import Outcome
from chainrule.uncertainty import (
    Difference,
    Direction,
    SeedVariance,
    SwitchPoint,
    adjusted_together,
    difference,
    seed_variances,
    sum_if_equal,
    sum_of,
    switch_point,
)
from chainrule.uncertainty.tables import by_group

LEVEL = 0.05  # of the whole family of comparisons
AHEAD = 0.9  # of a method's level against the strongest baseline: for its being better, which the advice speaks of


class Contrast(NamedTuple):
    """Two methods on the same items at the same N, and with the same seeds' labels."""

    labels: int
    a: str
    b: str
    seeds: int
    difference: Difference  # of a less b
    p_value: float  # of equal accuracies (`sum_if_equal`); no less than that of the difference, whose interval it is
    adjusted: float | None = None  # its p-value among all of the family; None: it is not in the family

    @property
    def significant(self) -> bool:
        return self.adjusted is not None and self.adjusted <= LEVEL


class Switch(NamedTuple):
    """From how many labels on b stays ahead of a, on the sizes where both were measured."""

    a: str
    b: str
    sizes: Sequence[int]
    seeds: int
    point: SwitchPoint


class Table:
    """The cells of some methods, made from rows; whatever order they came in, the same rows make the same table.

    `methods`: all that it may have, in their order. `left`: the rows that were planned and have not been run;
    `left_out`: the names of methods that were not planned, and why.
    """

    def __init__(
        self,
        setting: Setting,
        outcomes: Sequence[Outcome],
        methods: Sequence[Method] = METHODS,
        left: Sequence[Planned] = (),
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.setting, self.left, self.left_out = setting, tuple(left), dict(left_out or {})
        order = {method.name: index for index, method in enumerate(methods)}
        self.outcomes = sorted(outcomes, key=lambda outcome: (order[outcome.method], outcome.labels, outcome.seed))
        together: dict[tuple[str, int], list[Outcome]] = {}
        for outcome in self.outcomes:
            together.setdefault((outcome.method, outcome.labels), []).append(outcome)
        self._cells = {
            key: Cell(methods[order[key[0]]], some, setting, lambda: self._seed_variances)
            for key, some in together.items()
        }
        self._differences: dict[tuple[int, str, str], Contrast] = {}

    @cached_property
    def _seed_variances(self) -> dict[tuple[str, int], SeedVariance]:
        """Of each cell that varies from seed to seed, by method and N, as all of them tell it; of accuracies alone."""
        if self.setting.kind in ("multilabel", "regression"):
            return {}
        vary = [cell for cell in self.cells if len(cell.right) > 1]
        tables = [by_group(cell.right.astype(np.float64), self.setting.items.groups) for cell in vary]
        found = seed_variances(tables, [cell.name for cell in vary], [cell.labels for cell in vary])
        return {(cell.name, cell.labels): variance for cell, variance in zip(vary, found, strict=True)}

    @property
    def cells(self) -> list[Cell]:
        """By method, then by N."""
        return list(self._cells.values())

    @cached_property
    def methods(self) -> list[Method]:
        """Those that were measured."""
        return list({cell.name: cell.method for cell in self.cells}.values())

    @property
    def sizes(self) -> list[int]:
        """The N above 0 at which anything was measured."""
        return sorted({cell.labels for cell in self.cells} - {0})

    def with_labels(self, labels: int) -> dict[str, Cell]:
        """The cell of each method where it may use N labels, by its name; of one that ignores more labels, its last."""
        found = {}
        for method in self.methods:
            known = [cell.labels for cell in self.cells if cell.method is method and cell.labels <= labels]
            if known and (max(known) == labels or method.ignores_more_labels):
                found[method.name] = self._cells[method.name, max(known)]
        return found

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """The family whose p-values are adjusted: what is said of methods. At each N, each method against the strongest
        baseline, and the best method against the one that is hardest to tell from it. What more labels do not change
        is in it once.
        """
        family: dict[_Pair, Contrast] = {}
        p_values: list[float] = []
        directions: list[Direction] = []
        for labels in self.sizes:
            strongest = self.strongest_baseline(labels)
            for contrast, p_value in self.claims(labels):
                if _pair(contrast) not in family:
                    family[_pair(contrast)] = contrast
                    p_values.append(p_value)
                    to_baseline = strongest is not None and contrast.b == strongest.name
                    directions.append(Direction(contrast.difference.value > 0, AHEAD if to_baseline else 0.5))
        found = list(family.values())
        adjusted = adjusted_together(p_values, self._covariance(found), directions)
        return [contrast._replace(adjusted=value) for contrast, value in zip(found, adjusted, strict=True)]

    def claims(self, labels: int) -> list[tuple[Contrast, float]]:
        """What is tested at N, with p-values that hold although the strongest and the best are those of this table.

        A method ahead of the strongest of B baselines is ahead of all B, whichever is truly the strongest: p stands.
        One that is behind the strongest may be behind one of B that was lucky: B times p. That the best method is
        better than all others is tested by its least certain difference, and p stands (Gutmann, Maymin, 1987).
        """
        cells = self.with_labels(labels)
        found = []
        strongest = self.strongest_baseline(labels)
        if strongest is not None:
            baselines = sum(cell.method.role.is_baseline for cell in cells.values())
            for cell in cells.values():
                contrast = None if cell is strongest else self._measured(labels, cell.name, strongest.name)
                if contrast is not None:
                    times = 1 if contrast.difference.value > 0 else baselines
                    found.append((contrast, min(1.0, times * contrast.p_value)))
        hardest = self._hardest(labels)
        return found if hardest is None else [*found, (hardest, hardest.p_value)]

    def hardest_rival(self, labels: int) -> Contrast | None:
        """The best method at N less the one that is hardest to tell from it."""
        hardest = self._hardest(labels)
        return None if hardest is None else self.contrast(labels, hardest.a, hardest.b)

    def _hardest(self, labels: int) -> Contrast | None:
        best = self.best(labels)
        names = [] if best is None else [name for name in self.with_labels(labels) if name != best.name]
        measured = [self._measured(labels, best.name, name) for name in names if best is not None]
        found = [contrast for contrast in measured if contrast is not None]
        return max(found, key=lambda contrast: contrast.p_value, default=None)

    def _covariance(self, contrasts: Sequence[Contrast]) -> NDArray[np.float64]:
        """(n, n), of the errors of differences: cells share items, and some differences share a cell."""
        cells = self.cells
        index = {id(cell): number for number, cell in enumerate(cells)}
        signs = np.zeros((len(contrasts), len(cells)))
        for row, contrast in zip(signs, contrasts, strict=True):
            there = self.with_labels(contrast.labels)
            row[index[id(there[contrast.a])]], row[index[id(there[contrast.b])]] = 1.0, -1.0
        if not cells:
            return np.zeros((0, 0))
        means = np.stack([by_group(cell.right.mean(axis=0)[None], self.setting.items.groups)[0] for cell in cells])
        means -= means.mean(axis=1, keepdims=True)
        seeds = [
            0.0 if cell.seed_variance is None else cell.seed_variance.typical() / len(cell.right) for cell in cells
        ]
        found: NDArray[np.float64] = signs @ (means @ means.T / means.shape[1] ** 2 + np.diag(seeds)) @ signs.T
        return found

    def best(self, labels: int) -> Cell | None:
        return max(self.with_labels(labels).values(), key=lambda cell: cell.value, default=None)

    def contrast(self, labels: int, a: str, b: str) -> Contrast | None:
        """a less b where both may use N labels; None where they cannot be compared."""
        measured = self._measured(labels, a, b)
        if measured is None:
            return None
        adjusted = self._adjusted.get(_pair(measured))
        return measured._replace(adjusted=adjusted)

    @cached_property
    def _adjusted(self) -> dict["_Pair", float | None]:
        return {_pair(contrast): contrast.adjusted for contrast in self.contrasts}

    def _measured(self, labels: int, a: str, b: str) -> Contrast | None:
        """The difference alone, at the smallest N from which neither changes."""
        cells = self.with_labels(labels)
        if a not in cells or b not in cells or a == b:
            return None
        one, other = cells[a], cells[b]
        key = max(one.labels, other.labels), a, b
        if key not in self._differences:
            correct = _same_seeds(one, other)
            if correct is None:
                return None
            measured, p_value = _difference(one, other, correct, self.setting.items.groups)
            turned = measured._replace(value=-measured.value, low=-measured.high, high=-measured.low)
            alone = one.unchanging or other.unchanging
            seeds = max(len(one.seeds), len(other.seeds)) if alone else len(correct[0])
            self._differences[key] = Contrast(key[0], a, b, seeds, measured, p_value)
            self._differences[key[0], b, a] = Contrast(key[0], b, a, seeds, turned, p_value)
        return self._differences[key]

    def strongest_baseline(self, labels: int) -> Cell | None:
        baselines = [cell for cell in self.with_labels(labels).values() if cell.method.role.is_baseline]
        return max(baselines, key=lambda cell: cell.value, default=None)

    def to_strongest_baseline(self, cell: Cell, labels: int) -> Contrast | None:
        """The cell less the strongest baseline with N labels; None for that baseline itself."""
        baseline = self.strongest_baseline(labels)
        return None if baseline is None else self.contrast(labels, cell.name, baseline.name)

    @cached_property
    def switches(self) -> list[Switch]:
        """From prompting to finetuning, from prompting to a simple method, and from a simple method to finetuning."""
        prompted, finetuned, simple = (
            [method.name for method in self.methods if method.role is role]
            for role in (Role.PROMPTED, Role.FINETUNED, Role.SIMPLE)
        )
        pairs = [(a, b) for a in prompted for b in (*finetuned, *simple)] + [(a, b) for a in simple for b in finetuned]
        return [switch for a, b in pairs if (switch := self._switch(a, b)) is not None]

    def _switch(self, a: str, b: str) -> Switch | None:
        cells = {size: self.with_labels(size) for size in self.sizes}
        sizes = [size for size in self.sizes if a in cells[size] and b in cells[size]]
        pairs = [(cells[size][a], cells[size][b]) for size in sizes]
        drawn = [set(cell.seeds) for pair in pairs for cell in pair if not cell.unchanging]
        seeds = sorted(set.intersection(*drawn)) if drawn else [0]
        if len(sizes) < 2 or not seeds:
            return None
        first, second = (np.array([_of_seeds(pair[side], seeds) for pair in pairs]) for side in (0, 1))
        return Switch(a, b, sizes, len(seeds), switch_point(sizes, first, second, groups=self.setting.items.groups))


_Pair = tuple[int, frozenset[str]]


def _pair(contrast: Contrast) -> _Pair:
    return contrast.labels, frozenset((contrast.a, contrast.b))


def _of_seeds(cell: Cell, seeds: Sequence[int]) -> NDArray[np.bool_]:
    """(S, M) of these seeds; a predictor that no seed changes is the same for each."""
    rows = [0 if cell.unchanging else cell.seeds.index(seed) for seed in seeds]
    correct: NDArray[np.bool_] = cell.correct[rows]
    return correct


def _same_seeds(one: Cell, other: Cell) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """What both got right, seed for seed, (S, M) or (1, M) each; None where they have no seed in common."""
    if one.unchanging or other.unchanging:
        return one.right, other.right
    seeds = sorted(set(one.seeds) & set(other.seeds))
    return (_of_seeds(one, seeds), _of_seeds(other, seeds)) if seeds else None


def _difference(
    one: Cell, other: Cell, correct: tuple[NDArray[np.bool_], NDArray[np.bool_]], groups: Sequence[str] | None
) -> tuple[Difference, float]:
    """The difference of what both got right, and the p-value of equal accuracies."""
    a, b = one.seed_variance, other.seed_variance
    found = difference(*correct, groups, sum_of(a, b))
    if a is None and b is None:
        return found, found.p_value
    first, second = (by_group(cell.right.astype(np.float64), groups) for cell in (one, other))
    return found, max(found.p_value, difference(*correct, groups, sum_if_equal(first, second, a, b)).p_value)
