"""A comparison as files: results.json, curves.svg, and a page that works offline. Knows the table, not how it was made.

Shapes: M test items.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainrule.comparison.advice import NEAR, bracket, choices
from chainrule.comparison.cells import Cell
from chainrule.comparison.grid import BASELINES, SHOTS
from chainrule.comparison.report import curves
from chainrule.comparison.table import LEVEL, Comparison, Contrast
from chainrule.drawing.charts import standing_alone
from chainrule.drawing.pages import render
from chainrule.storage.files import write_json, write_text

ITEMS = 200  # that the methods disagree on, at most


@dataclass(frozen=True)
class Answer:
    """What one method said of one item."""

    method: str
    said: str
    right: bool
    probabilities: Sequence[tuple[str, float]]  # of each label, the most probable first; none for free answers
    of_truth: float | None  # probability of the right label


@dataclass(frozen=True)
class Item:
    """A test item on which the methods disagree."""

    number: int  # its place among the test items, from 1
    text: Sequence[tuple[str, str]]  # column, text
    truth: str
    answers: Sequence[Answer]


def save(comparison: Comparison, directory: Path) -> None:
    """Write results.json, curves.svg and report.html into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "results.json", comparison.results())
    if comparison.cells:
        write_text(directory / "curves.svg", standing_alone(curves.curves(comparison), curves.PALETTE))
        write_text(directory / "report.html", report(comparison))


def report(comparison: Comparison) -> str:
    """The page: one HTML document with everything in it."""
    low, high = curves.limits(comparison)
    last = last_cells(comparison)
    repeated = [cell for cell in comparison.cells if cell.method.startswith("in-context") and len(cell.seeds) > 1]
    items = disagreements(comparison, last)
    calibrated = [cell for cell in last if cell.calibration is not None]
    least = curves.least_shown(calibrated) if calibrated else 0.0
    filters = {"points": _points, "percent": _percent, "seconds": _seconds, "milliseconds": _milliseconds}
    values = {
        "comparison": comparison,
        "setting": comparison.setting,
        "palette": curves.PALETTE,
        "curves": curves.curves(comparison),
        "methods": [cell.method for cell in last],
        "lines": [_line(comparison, cell, low, high) for cell in comparison.cells],
        "calibrated": [(cell, cell.calibration, curves.reliability(cell, least)) for cell in calibrated],
        "spread": curves.spread(repeated, low, high) if repeated else "",
        "choices": choices(comparison),
        "near": NEAR,
        "switches": [(one, bracket(one.point)) for one in comparison.switches],
        "last": last,
        "items": items[:ITEMS],
        "disagreed": len(items),
        "seeds": max(len(cell.seeds) for cell in comparison.cells),
        "shots": SHOTS,
        "level": LEVEL,
    }
    return render("chainrule.comparison.report", "report.html", filters, values)


def last_cells(comparison: Comparison) -> list[Cell]:
    """Each method with as many labels as it was given."""
    found = {cell.method: cell for cell in comparison.cells}  # they come by rising N
    return list(found.values())


def disagreements(comparison: Comparison, cells: Sequence[Cell]) -> list[Item]:
    """The items that the cells' first seeds do not all answer alike, the most divided first."""
    firsts = [cell.outcomes[0] for cell in cells if cell.method != "majority"]  # it reads no item
    said = list(zip(*(outcome.predictions for outcome in firsts), strict=True))
    divided = [place for place, answers in enumerate(said) if len(set(answers)) > 1]
    divided.sort(key=lambda place: (-_entropy(said[place]), place))
    setting = comparison.setting
    found = []
    for place in divided:
        truth = setting.items.labels[place]
        answers = []
        for outcome in firsts:
            of_labels = [] if outcome.probabilities is None else outcome.probabilities[place].tolist()
            named = list(zip(setting.labels, of_labels, strict=True)) if of_labels else []
            answers.append(
                Answer(
                    outcome.method,
                    outcome.predictions[place],
                    outcome.predictions[place].strip() == truth.strip(),
                    sorted(named, key=lambda one: -one[1]),
                    dict(named).get(truth),
                )
            )
        row = setting.items.rows[place]
        found.append(Item(place + 1, [(column, row[column]) for column in setting.text], truth, answers))
    return found


def _entropy(answers: Sequence[str]) -> float:
    counts = Counter(answers).values()
    return -sum(count / len(answers) * math.log(count / len(answers)) for count in counts)


def _line(comparison: Comparison, cell: Cell, low: float, high: float) -> dict[str, Any]:
    """A line of the table: the cell, its difference to the strongest baseline, and where its bar is drawn."""
    baseline = comparison.strongest_baseline(cell.labels)
    contrast: Contrast | None = None
    if baseline is not None and baseline is not cell:
        contrast = comparison.contrast(cell.labels, cell.method, baseline.method)
    span = high - low
    return {
        "cell": cell,
        "contrast": contrast,
        "is_baseline": cell.method in BASELINES,
        "left": 100 * (cell.accuracy.low - low) / span,
        "width": 100 * (cell.accuracy.high - cell.accuracy.low) / span,
        "at": 100 * (cell.accuracy.value - low) / span,
    }


def _points(difference: float) -> str:
    points = round(100 * difference, 1)
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _seconds(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.1f} ms" if seconds >= 0.001 else "0"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _milliseconds(milliseconds: float) -> str:
    return f"{milliseconds:.2g}" if milliseconds < 10 else f"{milliseconds:,.0f}"
