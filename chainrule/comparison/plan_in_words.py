"""The plan of a comparison for a person: its rows, their time, and what budgets of minutes leave out. Runs nothing."""

from collections import Counter
from collections.abc import Sequence

from chainrule.comparison.grid import Planned
from chainrule.comparison.pace import Pace

_BUDGETS = (5.0, 30.0, 120.0)  # minutes that the plan speaks of where none are named


def plan_in_words(rows: Sequence[Planned], left: Sequence[Planned], minutes: float | None) -> list[str]:
    """The plan, a line each: the rows and their time, and those that would end after `minutes`; without, those that a
    few budgets would leave out. `left`: the rows that are not there yet, the cheapest first."""
    sizes = sorted({row.key.labels for row in rows})
    count = f"{len(rows)} rows" if len(left) == len(rows) else f"{len(left)} of {len(rows)} rows are left"
    about = duration(sum(Pace().one_after_another(left)))
    lines = [f"{count}: N = {', '.join(map(str, sizes))} labels; about {about}, cheapest first"]
    for budget in _BUDGETS if minutes is None else (minutes,):
        late = too_late(left, 60 * budget)
        if late:
            would = "would leave" if minutes is None else "leaves"
            lines.append(f"--minutes {budget:g} {would} out {rows_in_words(late, rows)}")
    return lines


def too_late(left: Sequence[Planned], seconds: float) -> list[Planned]:
    """The rows that would end after so many seconds, by their estimates, where they run one after another and those
    that would are passed over."""
    late, end, pace = [], 0.0, Pace()
    for row in left:
        if end + pace.seconds(row) > seconds:
            late.append(row)
        else:
            end += pace.seconds(row)
            pace.begin(row)
    return late


def rows_in_words(some: Sequence[Planned], rows: Sequence[Planned]) -> str:
    """Which of the rows these are: their methods, and the numbers of labels where it is not all of a method, as in
    "full with 16 (3 of 5 seeds), 64 labels; random-weights"."""
    found, whole = (Counter((row.key.method, row.key.labels) for row in each) for each in (some, rows))
    parts = []
    for method in dict.fromkeys(row.key.method for row in some):
        sizes = sorted(labels for name, labels in whole if name == method)
        named = []
        for labels in sizes:
            count, all_seeds = found[method, labels], whole[method, labels]
            if count:
                named.append(f"{labels}" if count == all_seeds else f"{labels} ({count} of {all_seeds} seeds)")
        everything = all(found[method, labels] == whole[method, labels] for labels in sizes)
        parts.append(method if everything else f"{method} with {', '.join(named)} labels")
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """A time for a person.

    >>> [duration(seconds) for seconds in (3.2, 200, 9000)]
    ['3 s', '3 min', '2.5 h']
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
