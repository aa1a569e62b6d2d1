"""The table of a comparison as a terminal shows it: its columns, and a row for each cell."""

from chainrule.comparison.table import Table
from chainrule.tasks.answers import Kind
from chainrule.tasks.figures import MAIN, TITLES

COLUMNS = (
    "method", "labels", "shots", "seeds", "right, %", "95 % interval", "to best baseline", "s to adapt", "ms a text",
    "MB to keep",
)  # fmt: skip


def printed_columns(kind: Kind) -> tuple[str, ...]:
    """COLUMNS for a kind of task: the figure that its methods are compared by under its own name."""
    title = TITLES[MAIN[kind]]
    return tuple(f"{title}, %" if name == "right, %" and title != "accuracy" else name for name in COLUMNS)


def printed_rows(table: Table, differences: bool = True) -> list[tuple[str, ...]]:
    """A row for each cell, under COLUMNS; without differences it takes no time, whatever the number of items."""
    found: list[tuple[str, ...]] = []
    for cell in table.cells:
        value, low, high = (100 * end for end in cell.accuracy)
        contrast = table.to_strongest_baseline(cell, cell.labels) if differences else None
        points = round(100 * contrast.difference.value, 1) + 0.0 if contrast else 0.0  # -0.0 is 0
        beside = f"{points:+.1f}{'*' * contrast.significant}" if contrast else ""
        found.append((
            cell.name, str(cell.labels), str(cell.shots or ""), str(len(cell.seeds)), f"{value:.1f}",
            f"{low:.1f} – {high:.1f}", beside, f"{cell.seconds_to_adapt:.1f}", f"{cell.milliseconds_per_text:.2f}",
            megabytes_in_words(cell.megabytes_to_keep),
        ))  # fmt: skip
    return found


def megabytes_in_words(size: float | None) -> str:
    """Megabytes for a person, "" where they are unknown.

    >>> [megabytes_in_words(size) for size in (None, 0.0, 0.0004, 0.0046, 19.5, 538.1)]
    ['', '0', '< 0.001', '0.005', '19.5', '538']
    """
    if size is None:
        return ""
    if 0 < size < 0.0005:
        return "< 0.001"
    return "0" if size == 0 else f"{size:.3f}" if size < 0.1 else f"{size:.1f}" if size < 100 else f"{size:.0f}"
