"""What the rows say together: cells, the differences between them, and where one method overtakes another.

Knows what was predicted, not by whom or how. Shapes: S seeds, M test items.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrule.comparison.cells import Cell, Setting
from chainrule.comparison.grid import BASELINES, FINETUNED, METHODS, PROMPTED, Key, Planned, still_holds
from chainrule.comparison.rows import Outcome
from chainrule.uncertainty import Difference, SwitchPoint, difference, holm, switch_point

LEVEL = 0.05  # of the whole family of comparisons
COLUMNS = (
    "method", "labels", "shots", "seeds", "right, %", "95 % interval", "to best baseline", "s to adapt", "ms a text",
)  # fmt: skip


class Contrast(NamedTuple):
    """Two methods on the same items at the same N, and with the same seeds' labels."""

    labels: int
    a: str
    b: str
    seeds: int
    difference: Difference  # of a less b
    adjusted: float  # its p-value among all the comparisons (Holm)

    @property
    def told_apart(self) -> bool:
        return self.adjusted <= LEVEL


class Switch(NamedTuple):
    """From how many labels on b stays ahead of a, on the sizes where both were measured."""

    a: str
    b: str
    sizes: Sequence[int]
    seeds: int
    point: SwitchPoint


class Comparison:
    """A table of methods, made from rows; whatever order they came in, the same rows make the same table.

    `left`: the rows that were planned and have not been run; `left_out`: methods that were not, and why.
    """

    def __init__(
        self,
        setting: Setting,
        outcomes: Sequence[Outcome],
        left: Sequence[Planned] = (),
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.setting, self.left, self.left_out = setting, tuple(left), dict(left_out or {})
        self.outcomes = sorted(outcomes, key=lambda outcome: _place(outcome.key))
        together: dict[tuple[str, int], list[Outcome]] = {}
        for outcome in self.outcomes:
            together.setdefault((outcome.method, outcome.labels), []).append(outcome)
        self._cells = {key: Cell(some, setting) for key, some in together.items()}

    @property
    def cells(self) -> list[Cell]:
        return list(self._cells.values())

    @property
    def sizes(self) -> list[int]:
        """The N above 0 at which anything was measured."""
        return sorted({cell.labels for cell in self.cells} - {0})

    def at(self, labels: int) -> dict[str, Cell]:
        """The cell of each method that may use N labels; of prompts that do not change any more, their last one."""
        found = {}
        for method in METHODS:
            known = [cell.labels for cell in self.cells if cell.method == method and cell.labels <= labels]
            if known and (max(known) == labels or still_holds(method)):
                found[method] = self._cells[method, max(known)]
        return found

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows as `compare --json` has them."""
        return [
            {
                "method": outcome.method,
                "labels": outcome.labels,
                "shots": outcome.shots,
                "seed": outcome.seed,
                "accuracy": outcome.accuracy,
                "interval": list(outcome.interval),
                "macro_f1": outcome.macro_f1,
                "calibration": outcome.calibration,
                "seconds_to_adapt": outcome.seconds_to_adapt,
                "milliseconds_per_text": outcome.milliseconds_per_text,
            }
            for outcome in self.outcomes
        ]

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """All pairs at all N: the family whose p-values are adjusted. A pair that does not change is in it once."""
        found: list[Contrast] = []
        for labels in self.sizes:
            for one, other in combinations(self.at(labels).values(), 2):
                tables = _same_seeds(one, other)
                if labels in (one.labels, other.labels) and tables is not None:
                    a, b = tables
                    told = difference(a, b, self.setting.items.groups)
                    found.append(Contrast(labels, one.method, other.method, max(len(a), len(b)), told, told.p_value))
        adjusted = holm([contrast.difference.p_value for contrast in found])
        return [contrast._replace(adjusted=value) for contrast, value in zip(found, adjusted, strict=True)]

    def contrast(self, labels: int, a: str, b: str) -> Contrast | None:
        """a less b where both may use N labels; None where they were not compared."""
        cells = self.at(labels)
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
        baselines = [cell for method, cell in self.at(labels).items() if method in BASELINES]
        return max(baselines, key=lambda cell: cell.accuracy.value, default=None)

    @cached_property
    def switches(self) -> list[Switch]:
        """From prompting to finetuning, from prompting to the bag of words, and from the bag of words to finetuning."""
        bag = "bag-of-words"
        pairs = [(a, b) for a in PROMPTED for b in (*FINETUNED, bag)] + [(bag, b) for b in FINETUNED]
        return [switch for a, b in pairs if (switch := self._switch(a, b)) is not None]

    def _switch(self, a: str, b: str) -> Switch | None:
        cells = {size: self.at(size) for size in self.sizes}
        sizes = [size for size in self.sizes if a in cells[size] and b in cells[size]]
        pairs = [(cells[size][a], cells[size][b]) for size in sizes]
        drawn = [set(cell.seeds) for pair in pairs for cell in pair if not cell.fixed]
        seeds = sorted(set.intersection(*drawn)) if drawn else [0]
        if len(sizes) < 2 or not seeds:
            return None
        first, second = (np.array([_of_seeds(pair[side], seeds) for pair in pairs]) for side in (0, 1))
        return Switch(a, b, sizes, len(seeds), switch_point(sizes, first, second, groups=self.setting.items.groups))

    @property
    def differences(self) -> list[dict[str, Any]]:
        """Each cell less the strongest baseline at its N, as `compare --json` has them."""
        found = []
        for labels in self.sizes:
            baseline = self.strongest_baseline(labels)
            for method in self.at(labels) if baseline is not None else ():
                contrast = self.contrast(labels, method, baseline.method) if baseline is not None else None
                if contrast is not None:
                    found.append(_as_json(contrast))
        return found

    def text(self, differences: bool = True) -> list[tuple[str, ...]]:
        """The table for a terminal, under `COLUMNS`; without differences it takes no time, however many the items."""
        found: list[tuple[str, ...]] = []
        for cell in self.cells:
            value, low, high = (100 * end for end in cell.accuracy)
            baseline = self.strongest_baseline(cell.labels) if differences else None
            contrast = baseline and self.contrast(cell.labels, cell.method, baseline.method)
            points = round(100 * contrast.difference.value, 1) + 0.0 if contrast else 0.0  # -0.0 is 0
            told = f"{points:+.1f}{'*' * contrast.told_apart}" if contrast else ""
            found.append((
                cell.method, str(cell.labels), str(cell.shots or ""), str(len(cell.seeds)), f"{value:.1f}",
                f"{low:.1f} – {high:.1f}", told, f"{cell.seconds_to_adapt:.1f}", f"{cell.milliseconds_per_text:.2f}",
            ))  # fmt: skip
        return found

    @property
    def advice(self) -> str:
        from chainrule.comparison.advice import advise

        return advise(self)

    def results(self) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "task": self.setting.name,
            "model": self.setting.model,
            "n": len(self.setting.items),
            "labels": self.setting.everything,
            "chance": self.setting.chance,
            "advice": self.advice,
            "rows": self.rows,
            "cells": [_cell_as_json(cell) for cell in self.cells],
            "differences": self.differences,
            "comparisons": len(self.contrasts),
            "pairs": [_as_json(contrast) for contrast in self.contrasts],
            "switch_points": [
                {"from": one.a, "to": one.b, "sizes": list(one.sizes), "seeds": one.seeds, **one.point._asdict()}
                for one in self.switches
            ],
            "left": [list(row.key) for row in self.left],
            "left_out": self.left_out,
        }

    def save(self, directory: str | Path) -> None:
        """Write results.json, curves.svg and report.html."""
        from chainrule.comparison.report.write import save

        save(self, Path(directory))


def _place(key: Key) -> tuple[int, int, int]:
    return METHODS.index(key.method), key.labels, key.seed


def _of_seeds(cell: Cell, seeds: Sequence[int]) -> NDArray[np.bool_]:
    """(S, M) of these seeds; a predictor that no seed changes is the same for each."""
    places = [0 if cell.fixed else cell.seeds.index(seed) for seed in seeds]
    correct: NDArray[np.bool_] = cell.correct[places]
    return correct


def _same_seeds(one: Cell, other: Cell) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """What both got right, seed for seed, (S, M) or (1, M) each; None where they have no seed in common."""
    if one.fixed or other.fixed:
        return one.correct, other.correct
    seeds = sorted(set(one.seeds) & set(other.seeds))
    return (_of_seeds(one, seeds), _of_seeds(other, seeds)) if seeds else None


def _as_json(contrast: Contrast) -> dict[str, Any]:
    value, low, high, p_value = contrast.difference
    return {
        "labels": contrast.labels, "method": contrast.a, "than": contrast.b, "seeds": contrast.seeds,
        "difference": value, "interval": [low, high], "p_value": p_value, "adjusted_p_value": contrast.adjusted,
    }  # fmt: skip


def _cell_as_json(cell: Cell) -> dict[str, Any]:
    f1, probable = cell.macro_f1, cell.calibration
    return {
        "method": cell.method, "labels": cell.labels, "shots": cell.shots, "seeds": len(cell.seeds),
        "accuracy": cell.accuracy.value, "interval": list(cell.accuracy[1:]),
        "macro_f1": None if f1 is None else f1.value,
        "macro_f1_interval_approximate": None if f1 is None else list(f1[1:]),
        "calibration": None if probable is None else probable._asdict(),
        "seconds_to_adapt": cell.seconds_to_adapt, "milliseconds_per_text": cell.milliseconds_per_text,
        "notes": cell.notes,
    }  # fmt: skip
