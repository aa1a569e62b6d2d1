"""The demo as one page that works offline, and puzzles.svg, made from results.json. Knows no model."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chainrule.comparison.methods import METHODS
from chainrule.comparison.report.curves import style
from chainrule.demo.figures import ALL, QUESTIONS, after
from chainrule.demo.puzzles import MEANINGS, MOST_SHOTS, NOTES_PROMPT
from chainrule.drawing import charts
from chainrule.drawing.charts import Axis, Box
from chainrule.drawing.pages import render
from chainrule.pretraining.curve import losses_drawing
from chainrule.storage.files import write_text

SURPRISING = 8.0  # nats: tokens of this surprisal or more have the strongest colour
NOTES_ANSWER = "17"
_ASKED = {
    "cloze": ("A sentence to complete", "in a wording never used for that animal"),
    "open_questions": ("Open questions", "in a format known from other animals"),
    "yes_no_questions": ("Yes/no questions", "in a format known from other animals"),
    "unasked_questions": ("A kind of question never asked", "about size, of which no question ever was"),
}
_TASKS = {
    "colours": ("What colour is the animal?", "of animals that are in the corpus's prose and in none of its questions"),
    "polarity": ("Is the review positive?", "of reviews; the corpus never names a review's polarity"),
}

Results = Mapping[str, Any]
Shown = Mapping[str, Any]  # a figure as results.json has it


def write(out: Path) -> None:
    """Make out/index.html and out/puzzles.svg from out/results.json."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    write_text(out / "index.html", page(results))
    together = examples_drawing(results["puzzle_curve"], "Puzzles of all meanings")
    write_text(out / "puzzles.svg", charts.svg_file(together))


def page(results: Results) -> str:
    losses = results["losses"]
    values = {
        "results": results,
        "style": style(METHODS),
        "loss_curve": losses_drawing(losses["training"], losses["validation"]),
        "start": math.log(results["model"]["vocabulary_size"]),
        "surprising": SURPRISING,
        "notes_prompt": NOTES_PROMPT,
        "notes_right": results["notes_prompt"].removeprefix("A:").strip() == NOTES_ANSWER,
        "notes_answer": NOTES_ANSWER,
        "questions": [(*words, results[name], _control(results, name)) for name, words in _ASKED.items()],
        "meanings": [_meaning(results, meaning) for meaning in MEANINGS],
        "most_shots": MOST_SHOTS,
        "together": results[after(ALL, MOST_SHOTS)],
        "tasks": [_task(results, name) for name in _TASKS],
    }
    filters = {"percent": _percent, "count": charts.short_count, "probability": _probability}
    return render("chainrule.demo", "page.html", filters, values)


def examples_drawing(curve: Sequence[Shown], title: str) -> str:
    """Right answers against examples in the prompt, with 95 % intervals; the Bayes ceiling dashed, chance dotted."""
    width, height = 400, 240
    box = Box(left=58, top=14, right=width - 12, bottom=height - 30)
    x, y = Axis(0, len(curve) - 1, box.left + 8, box.right - 6), Axis(0, 1, box.bottom, box.top)

    def points(values: Sequence[float]) -> list[charts.Point]:
        return [(x(shots), y(value)) for shots, value in enumerate(values)]

    means = points([figure["accuracy"] for figure in curve])
    below, above = (points([figure["interval"][end] for figure in curve]) for end in (0, 1))
    tooltips = [f"after {shots}: {_in_words(figure)}" for shots, figure in enumerate(curve)]
    drawn = [
        *charts.rows(box, y, {share: f"{100 * share:.0f} %" for share in (0.0, 0.5, 1.0)}),
        *charts.columns(box, x, {shots: str(shots) for shots in range(len(curve))}),
        charts.line(points([figure["chance"] for figure in curve]), "chance"),
        charts.line(points([figure["ceiling"] for figure in curve]), "ceiling"),
        '<g class="in-context">',
        charts.band(above, below),
        charts.line(means),
        *(charts.dot("point", mean, 4, words) for mean, words in zip(means, tooltips, strict=True)),
        "</g>",
    ]
    return charts.svg(width, height, f"{title}: right answers against examples in the prompt", drawn)


def _control(results: Results, name: str) -> Shown | None:
    control = QUESTIONS[name]
    return None if control is None else results[control]


def _meaning(results: Results, meaning: str) -> dict[str, Any]:
    """One of the small charts, and the figures under it."""
    curve = [results[after(meaning, shots)] for shots in range(MOST_SHOTS + 1)]
    return {
        "name": meaning,
        "drawn": examples_drawing(curve, meaning),
        "last": curve[-1],
        "unseen": results[after(meaning, MOST_SHOTS, "unseen pairs")],
        "permuted": results[after(meaning, MOST_SHOTS, "permuted")],
    }


def _task(results: Results, task: str) -> dict[str, Any]:
    """A task's cells as a table: a line a method, a column a number of labels."""
    entries = [entry for entry in results["grid"] if entry["task"] == task]
    mixed = [entry for entry in results.get("mixed_polarities", []) if entry["task"] == task]
    title, about = _TASKS[task]
    return {
        "name": task,
        "title": title,
        "about": about,
        "figure": entries[0],  # n, chance and ceiling are the same in all
        "sizes": sorted({entry["labels"] for entry in entries}),
        "lines": _by_method(entries),
        "mixed": _by_method(mixed),
    }


def _by_method(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    lines: dict[str, dict[int, Mapping[str, Any]]] = {}
    for entry in entries:
        lines.setdefault(entry["adaptation"].split(",")[0], {})[entry["labels"]] = entry
    return lines


def _in_words(figure: Shown) -> str:
    low, high = figure["interval"]
    beside = f"ceiling {_percent(figure['ceiling'])}, chance {_percent(figure['chance'])}"
    return f"{_percent(figure['accuracy'])} % (95 %: {_percent(low)} to {_percent(high)}; {beside})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _probability(log_prob: float) -> str:
    p = math.exp(log_prob)
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"
