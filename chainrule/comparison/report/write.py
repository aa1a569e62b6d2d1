"""A comparison as files: results.json, curves.svg, and a page that works offline. Knows the table, not how it was made.

Shapes: M test items.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainrule.comparison.advice import NEAR, advise, bracket, choices
from chainrule.comparison.cells import Cell
from chainrule.comparison.methods.method import Role
from chainrule.comparison.printed_table import megabytes_in_words
from chainrule.comparison.report import curves
from chainrule.comparison.results import results
from chainrule.comparison.study import MOST_SHOTS
from chainrule.comparison.table import LEVEL, Table
from chainrule.drawing.charts import svg_file
from chainrule.drawing.pages import render
from chainrule.storage.files import write_json, write_text
from chainrule.tasks import answers as of_tasks

ITEMS = 200  # that the methods disagree on, at most


@dataclass(frozen=True)
class Answer:
    """What one method predicted for one item."""

    method: str
    prediction: str  # in words
    right: bool
    probabilities: Sequence[tuple[str, float]]  # of each label, the most probable first; none for free answers
    of_truth: float | None  # probability of the right label


@dataclass(frozen=True)
class Item:
    """A test item on which the methods disagree."""

    number: int  # among the test items, from 1
    text: Sequence[tuple[str, str]]  # column, text
    truth: str
    answers: Sequence[Answer]


def save(table: Table, directory: Path) -> None:
    """Write results.json, curves.svg and report.html into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "results.json", results(table))
    if table.cells:
        write_text(directory / "curves.svg", svg_file(curves.curves(table), curves.style(table.methods)))
        write_text(directory / "report.html", report(table))


def report(table: Table) -> str:
    """The page: one HTML document with everything in it."""
    low, high = curves.limits(table)
    last = last_cells(table)
    repeated = [cell for cell in table.cells if cell.method.role is Role.PROMPTED and len(cell.seeds) > 1]
    items = disagreements(table, last)
    calibrated = [cell for cell in last if cell.calibration is not None]
    least = curves.least_shown(calibrated) if calibrated else 0.0
    filters = {
        "points": _points, "percent": _percent, "seconds": _seconds, "milliseconds": _milliseconds,
        "megabytes": megabytes_in_words,
    }  # fmt: skip
    values = {
        "table": table,
        "advice": advise(table),
        "measure": table.setting.measure_title,
        "numbers": table.setting.kind == "regression",
        "setting": table.setting,
        "style": curves.style(table.methods),
        "curves": curves.curves(table),
        "methods": [method.name for method in table.methods],
        "lines": [_line(table, cell, low, high) for cell in table.cells],
        "calibrated": [(cell, cell.calibration, curves.reliability(cell, least)) for cell in calibrated],
        "spread": curves.spread(repeated, low, high) if repeated else "",
        "choices": choices(table),
        "near": NEAR,
        "switches": [(one, bracket(one.point)) for one in table.switches],
        "last": last,
        "items": items[:ITEMS],
        "disagreed": len(items),
        "seeds": max(len(cell.seeds) for cell in table.cells),
        "shots": MOST_SHOTS,
        "level": LEVEL,
    }
    return render("chainrule.comparison.report", "report.html", filters, values)


def last_cells(table: Table) -> list[Cell]:
    """Each method with as many labels as it was given."""
    found = {cell.name: cell for cell in table.cells}  # they come by rising N
    return list(found.values())


def disagreements(table: Table, cells: Sequence[Cell]) -> list[Item]:
    """The items that the cells' first seeds do not all answer alike, the most divided first."""
    if table.setting.kind == "regression":
        return []  # two numbers always differ
    firsts = [cell.outcomes[0] for cell in cells if cell.method.role is not Role.CONSTANT]
    predictions = list(zip(*(outcome.predictions for outcome in firsts), strict=True))
    divided = [index for index, answers in enumerate(predictions) if len(set(answers)) > 1]
    divided.sort(key=lambda index: (-_entropy(predictions[index]), index))
    setting = table.setting
    found = []
    for index in divided:
        truth = setting.items.labels[index]
        answers = []
        for outcome in firsts:
            of_labels = [] if outcome.probabilities is None else outcome.probabilities[index].tolist()
            named = list(zip(setting.labels, of_labels, strict=True)) if of_labels else []
            answers.append(
                Answer(
                    outcome.method,
                    of_tasks.in_words(outcome.predictions[index]),
                    _plain(outcome.predictions[index]) == _plain(truth),
                    sorted(named, key=lambda one: -one[1]),
                    None if isinstance(truth, tuple) else dict(named).get(truth),
                )
            )
        row = setting.items.rows[index]
        found.append(
            Item(index + 1, [(column, row[column]) for column in setting.text], of_tasks.in_words(truth), answers)
        )
    return found


def _plain(answer: of_tasks.Answer) -> of_tasks.Answer:
    """Spaces around an answer do not count."""
    return answer.strip() if isinstance(answer, str) else answer


def _entropy(answers: Sequence[of_tasks.Answer]) -> float:
    counts = Counter(answers).values()
    return -sum(count / len(answers) * math.log(count / len(answers)) for count in counts)


def _line(table: Table, cell: Cell, low: float, high: float) -> dict[str, Any]:
    """A line of the table: the cell, its difference to the strongest baseline, and where its bar is drawn, in %."""
    span = high - low
    return {
        "cell": cell,
        "contrast": table.to_strongest_baseline(cell, cell.labels),
        "left": 100 * (cell.accuracy.low - low) / span,
        "width": 100 * (cell.accuracy.high - cell.accuracy.low) / span,
        "mean": 100 * (cell.accuracy.value - low) / span,
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
