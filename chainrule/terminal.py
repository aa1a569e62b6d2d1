"""Progress bars, tables and messages in a terminal. Knows no model."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_UNFOLDED = 400  # columns of a line where output is no terminal
_SHORT = 20  # characters; shorter cells are not folded
QUIET_SECONDS = 10.0  # between plain lines, where there is no terminal to draw on
SPARING_SECONDS = 30.0  # before the first of few


def log(line: str) -> None:
    """Print a line on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The one JSON document of --json."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; numbers stand to the right. Where it is no terminal, no line is folded."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _UNFOLDED
    Console(markup=False, highlight=False, width=width).print(_table(columns, rows))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> "Table":
    from rich.table import Table

    table = Table(
        title=title or None,
        title_justify="left",
        show_header=any(columns),
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for index, column in enumerate(columns):
        numeric = all(row[index][:1].isdigit() or row[index][:1] in "-+." for row in rows if row[index])
        longest = max((len(row[index]) for row in rows), default=0)
        least = longest if numeric or longest <= _SHORT else None  # such are never folded, but what stands over them
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", min_width=least)
    for row in rows:
        table.add_row(*row)
    return table


@contextmanager
def live_table(columns: Sequence[str]) -> Iterator[Callable[[Sequence[Sequence[str]], str], None]]:
    """Yield a function of (rows, title) that draws the table anew in a terminal, else says the title now and then."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def plain(rows: Sequence[Sequence[str]], title: str) -> None:
            nonlocal last
            if time.monotonic() - last > QUIET_SECONDS:
                last = time.monotonic()
                log(title)

        yield plain
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True, markup=False, highlight=False), transient=True) as live:
        yield lambda rows, title: live.update(_table(columns, rows, title))


@contextmanager
def progress_bar(
    total: float | None, description: str, *, sparing: bool = False
) -> Iterator[Callable[[float, str], None]]:
    """Yield a function of (done, what to say beside the bar): a bar in a terminal, else a plain line now and then.

    `total` is None where the amount of work is unknown. `sparing`: the first plain line comes after half a
    minute, and each after twice the time of the one before: five in a quarter of an hour.
    """
    if not sys.stderr.isatty():
        started = time.monotonic()
        due = SPARING_SECONDS if sparing else QUIET_SECONDS  # seconds after the start

        def plain(done: float, beside: str) -> None:
            nonlocal due
            passed = time.monotonic() - started
            if passed > due:
                due = 2 * passed if sparing else passed + QUIET_SECONDS
                part = "" if total is None else f" {done / max(total, 1e-9):.0%}"
                log(f"{description}{part}  {beside}")

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[beside]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, beside="")
        yield lambda done, beside: bar.update(task, completed=done, beside=beside)


@contextmanager
def signals_noted() -> Iterator[Callable[[], int | None]]:
    """Within, Ctrl-C and SIGTERM are recorded, to be asked for between two steps; a second one takes effect."""
    noted: int | None = None
    before: Mapping[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = number
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
