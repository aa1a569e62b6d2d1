"""A comparison's table as results.json and `compare --json` have it. Knows the keys, not how a figure was made."""

from typing import Any

from chainrule.comparison.advice import advise
from chainrule.comparison.cells import Cell
from chainrule.comparison.table import Contrast, Table


def results(table: Table) -> dict[str, Any]:
    """What results.json holds."""
    return {
        "task": table.setting.name,
        "model": table.setting.model,
        "n": len(table.setting.items),
        "labels": table.setting.everything,
        "chance": table.setting.chance,
        **({} if table.setting.measure == "accuracy" else {"measure": table.setting.measure}),
        "advice": advise(table),
        "rows": rows(table),
        "cells": [_cell(cell, table.setting.measure) for cell in table.cells],
        "differences": differences(table),
        "comparisons": len(table.contrasts),
        "pairs": [_contrast(contrast) for contrast in table.contrasts],
        "switch_points": [
            {"from": one.a, "to": one.b, "sizes": list(one.sizes), "seeds": one.seeds, **one.point._asdict()}
            for one in table.switches
        ],
        "left": [list(row.key) for row in table.left],
        "left_out": table.left_out,
    }


def rows(table: Table) -> list[dict[str, Any]]:
    """The figures of each row; predictions and probabilities are in rows.jsonl alone."""
    return [
        {
            "method": outcome.method, "labels": outcome.labels, "shots": outcome.shots, "seed": outcome.seed,
            table.setting.measure: outcome.accuracy, "interval": list(outcome.interval), "macro_f1": outcome.macro_f1,
            **(outcome.figures or {}), "calibration": outcome.calibration, "seconds_to_adapt": outcome.seconds_to_adapt,
            "milliseconds_per_text": outcome.milliseconds_per_text, **_kept(outcome.megabytes_to_keep),
        }
        for outcome in table.outcomes
    ]  # fmt: skip


def _kept(megabytes: float | None) -> dict[str, float]:
    """Nothing where it is unknown, as in rows of earlier versions."""
    return {} if megabytes is None else {"megabytes_to_keep": megabytes}


def differences(table: Table) -> list[dict[str, Any]]:
    """Each cell less the strongest baseline with as many labels."""
    cells = [(cell, labels) for labels in table.sizes for cell in table.with_labels(labels).values()]
    contrasts = (table.to_strongest_baseline(cell, labels) for cell, labels in cells)
    return [_contrast(contrast) for contrast in contrasts if contrast is not None]


def _contrast(contrast: Contrast) -> dict[str, Any]:
    value, low, high, p_value = contrast.difference
    return {
        "labels": contrast.labels, "method": contrast.a, "than": contrast.b, "seeds": contrast.seeds,
        "difference": value, "interval": [low, high], "p_value": p_value, "adjusted_p_value": contrast.adjusted,
    }  # fmt: skip


def _cell(cell: Cell, measure: str) -> dict[str, Any]:
    f1, calibration = cell.macro_f1, cell.calibration
    beside = {name: one for name, one in cell.figures.items() if name not in (measure, "macro_f1")}
    return {
        "method": cell.name, "labels": cell.labels, "shots": cell.shots, "seeds": len(cell.seeds),
        measure: cell.accuracy.value, "interval": list(cell.accuracy[1:]),
        **{name: one.value for name, one in beside.items()},
        **{f"{name}_interval": list(one[1:]) for name, one in beside.items()},
        "macro_f1": None if f1 is None else f1.value,
        "macro_f1_interval_approximate": None if f1 is None else list(f1[1:]),
        "calibration": None if calibration is None else calibration._asdict(),
        "seconds_to_adapt": cell.seconds_to_adapt, "milliseconds_per_text": cell.milliseconds_per_text,
        **_kept(cell.megabytes_to_keep), "notes": cell.notes,
    }  # fmt: skip
