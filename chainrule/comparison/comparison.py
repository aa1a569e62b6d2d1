"""What `compare` gives: a table, the advice drawn from it, and its files. Knows no method, no model."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from chainrule.comparison.advice import advise
from chainrule.comparison.cells import Cell
from chainrule.comparison.report.write import save
from chainrule.comparison.results import differences, results, rows
from chainrule.comparison.table import Table


class Comparison:
    """Methods on the same test items. `table` has their figures with intervals, differences and switch points."""

    def __init__(self, table: Table) -> None:
        self.table = table

    @property
    def cells(self) -> Sequence[Cell]:
        """One for each method and number of labels, over its seeds."""
        return self.table.cells

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each method, number of labels and seed, as `compare --json` has them."""
        return rows(self.table)

    @property
    def differences(self) -> list[dict[str, Any]]:
        """Each cell less the strongest baseline at its N, as `compare --json` has them."""
        return differences(self.table)

    @cached_property
    def advice(self) -> str:
        """Which method to take, in a sentence or two."""
        return advise(self.table)

    def results(self) -> dict[str, Any]:
        """What results.json holds."""
        return results(self.table)

    def save(self, directory: str | Path) -> None:
        """Write results.json, curves.svg and report.html."""
        save(self.table, Path(directory))
