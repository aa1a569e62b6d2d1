"""The table of a comparison: its cells, the differences between methods, and where one overtakes another.

Knows predictions, not how they were made, nor how a table is worded or drawn. Shapes: S seeds, M test items.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrule.comparison.cells import Cell, Setting
from chainrule.comparison.grid import Planned
from chainrule.comparison.methods import METHODS
from chainrule.comparison.methods.method import Method, Role
from chainrule.comparison.rows import Outcome
from chainrule.tasks.answers import Kind
from chainrule.tasks.figures import MAIN, TITLES
from chainrule.uncertainty import Difference, SwitchPoint, difference, holm, switch_point

LEVEL = 0.05  # of the whole family of comparisons
COLUMNS = (
    "method", "labels", "shots", "seeds", "right, %", "95 % interval", "to best baseline", "s to adapt", "ms a text",
    "MB to keep",
)  # fmt: skip


def columns_of(kind: Kind) -> tuple[str, ...]:
    """COLUMNS for a kind of task: the figure that its methods are compared by under its own name."""
    title = TITLES[MAIN[kind]]
    return tuple(f"{title}, %" if name == "right, %" and title != "accuracy" else name for name in COLUMNS)


class Contrast(NamedTuple):
    """Two methods on the same items at the same N, and with the same seeds' labels."""

    labels: int
    a: str
    b: str
    seeds: int
    difference: Difference  # of a less b
    adjusted: float  # its p-value among all the comparisons (Holm)

    @property
    def significant(self) -> bool:
        return self.adjusted <= LEVEL


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
        self._cells = {key: Cell(methods[order[key[0]]], some, setting) for key, some in together.items()}

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
        """All pairs at all N: the family whose p-values are adjusted. A pair that does not change is in it once."""
        found: list[Contrast] = []
        for labels in self.sizes:
            for one, other in combinations(self.with_labels(labels).values(), 2):
                correct = _same_seeds(one, other)
                if labels in (one.labels, other.labels) and correct is not None:
                    a, b = correct
                    measured = difference(a, b, self.setting.items.groups)
                    seeds = max(len(a), len(b))
                    found.append(Contrast(labels, one.name, other.name, seeds, measured, measured.p_value))
        adjusted = holm([contrast.difference.p_value for contrast in found])
        return [contrast._replace(adjusted=value) for contrast, value in zip(found, adjusted, strict=True)]

    def contrast(self, labels: int, a: str, b: str) -> Contrast | None:
        """a less b where both may use N labels; None where they were not compared."""
        cells = self.with_labels(labels)
        if a not in cells or b not in cells:
            return None
        found = self._contrast_of.get((max(cells[a].labels, cells[b].labels), frozenset((a, b))))
        if found is None or found.a == a:
            return found
        value, low, high, p_value = found.difference
        return found._replace(a=a, b=b, difference=Difference(-value, -high, -low, p_value))

    @cached_property
    def _contrast_of(self) -> dict[tuple[int, frozenset[str]], Contrast]:
        return {(contrast.labels, frozenset((contrast.a, contrast.b))): contrast for contrast in self.contrasts}

    def strongest_baseline(self, labels: int) -> Cell | None:
        baselines = [cell for cell in self.with_labels(labels).values() if cell.method.role.is_baseline]
        return max(baselines, key=lambda cell: cell.accuracy.value, default=None)

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
        drawn = [set(cell.seeds) for pair in pairs for cell in pair if not cell.fixed]
        seeds = sorted(set.intersection(*drawn)) if drawn else [0]
        if len(sizes) < 2 or not seeds:
            return None
        first, second = (np.array([_of_seeds(pair[side], seeds) for pair in pairs]) for side in (0, 1))
        return Switch(a, b, sizes, len(seeds), switch_point(sizes, first, second, groups=self.setting.items.groups))

    def text(self, differences: bool = True) -> list[tuple[str, ...]]:
        """The table for a terminal, under `columns_of`; without differences it takes no time, whatever the items."""
        found: list[tuple[str, ...]] = []
        for cell in self.cells:
            value, low, high = (100 * end for end in cell.accuracy)
            contrast = self.to_strongest_baseline(cell, cell.labels) if differences else None
            points = round(100 * contrast.difference.value, 1) + 0.0 if contrast else 0.0  # -0.0 is 0
            beside = f"{points:+.1f}{'*' * contrast.significant}" if contrast else ""
            found.append((
                cell.name, str(cell.labels), str(cell.shots or ""), str(len(cell.seeds)), f"{value:.1f}",
                f"{low:.1f} – {high:.1f}", beside, f"{cell.seconds_to_adapt:.1f}", f"{cell.milliseconds_per_text:.2f}",
                megabytes_in_words(cell.megabytes_to_keep),
            ))  # fmt: skip
        return found


def megabytes_in_words(size: float | None) -> str:
    """
    >>> [megabytes_in_words(size) for size in (None, 0.0, 0.0046, 19.5, 538.1)]
    ['', '0', '0.005', '19.5', '538']
    """
    if size is None:
        return ""
    return "0" if size == 0 else f"{size:.3f}" if size < 0.1 else f"{size:.1f}" if size < 100 else f"{size:.0f}"


def _of_seeds(cell: Cell, seeds: Sequence[int]) -> NDArray[np.bool_]:
    """(S, M) of these seeds; a predictor that no seed changes is the same for each."""
    correct: NDArray[np.bool_] = cell.correct[[0 if cell.fixed else cell.seeds.index(seed) for seed in seeds]]
    return correct


def _same_seeds(one: Cell, other: Cell) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """What both got right, seed for seed, (S, M) or (1, M) each; None where they have no seed in common."""
    if one.fixed or other.fixed:
        return one.correct, other.correct
    seeds = sorted(set(one.seeds) & set(other.seeds))
    return (_of_seeds(one, seeds), _of_seeds(other, seeds)) if seeds else None
