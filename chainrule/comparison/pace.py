"""How long the rows of a comparison take: estimates, corrected by what others took. Runs nothing."""

from collections.abc import Sequence
from copy import deepcopy

from chainrule.comparison.grid import Planned
from chainrule.comparison.rows import Outcome


class Pace:
    """What a row takes after those that were begun: a text's features, which some methods share, are computed once."""

    def __init__(self) -> None:
        self._factor: dict[str, float] = {}  # by method: what a row took, over its estimate
        self._read: dict[int, int] = {}  # by seed: how many labels' features are there; with any, the test items' are

    def begin(self, row: Planned) -> None:
        """The row is run: what it shares is there for others."""
        if row.seconds_a_text:
            self._read[row.key.seed] = max(row.key.labels, self._read.get(row.key.seed, 0))

    def note(self, row: Planned, outcome: Outcome, tests: int) -> None:
        """What a row took, which counts all that it shares."""
        took = outcome.seconds_to_adapt + outcome.milliseconds_per_text * tests / 1000
        self._factor[row.key.method] = took / max(row.seconds, 1e-6)

    def seconds(self, row: Planned) -> float:
        """What the row would take now."""
        known = row.tests + min(row.key.labels, self._read.get(row.key.seed, 0)) if self._read else 0
        return max(0.0, row.seconds - known * row.seconds_a_text) * self._factor.get(row.key.method, 1.0)

    def one_after_another(self, rows: Sequence[Planned]) -> list[float]:
        """The seconds of each row, were they all run now in this order."""
        pace, found = deepcopy(self), []
        for row in rows:
            found.append(pace.seconds(row))
            pace.begin(row)
        return found
