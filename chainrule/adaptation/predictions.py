"""Rows of a file and what a predictor says of them, in memory that does not grow with their number. Knows files and
rows, not how the predictions come about.

Shapes: C labels.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chainrule.adaptation.examples import Row, checked_row
from chainrule.files import whole_file
from chainrule.text.records import Record, kind, read_records

_JSON = (".jsonl", ".ndjson")


class Predictor(Protocol):
    """What every adaptation gives."""

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def columns(self) -> Sequence[str]:
        """Those of a row that it reads."""

    def stream(self, rows: Iterable[Row | str]) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Label and probabilities (C,), row by row; no probabilities where an answer is generated."""


def predictions(predictor: Predictor, rows: Iterable[Row | str]) -> Iterator[dict[str, Any]]:
    """For row after row its `label`, and the `probabilities` of all where the predictor has some."""
    for label, found in predictor.stream(rows):
        named = dict(zip(predictor.labels, found.tolist(), strict=True)) if len(found) else None
        yield {"label": label} if named is None else {"label": label, "probabilities": named}


def predict_file(
    predictor: Predictor,
    source: str,
    out: Path,
    *,
    encoding: str = "utf-8",
    show: Callable[[int], None] = lambda rows: None,
) -> int:
    """Write the rows of `source` to `out`, each with its prediction, and return how many they are.

    `out` is a .csv, .tsv or .jsonl; columns `prediction` and `probability of <label>` are added. `show` is called with
    the rows done. Raises ValueError, with nothing written, for a file of another kind, one that has such a column
    already, and a row that cannot be read or lacks the predictor's columns.
    """
    if kind(str(out)) not in (".csv", ".tsv", *_JSON):
        raise ValueError(f"--out {out}: wanted a file ending in .csv, .tsv or .jsonl, got another; rename it")
    records, asked = tee(read_records(source, encoding=encoding))
    columns = predictor.columns
    rows = (checked_row(record.fields, columns, f"{record.source}:{record.line}") for record in asked)
    made = predictions(predictor, rows)
    count = 0
    as_it_came = kind(str(out)) in _JSON
    with whole_file(out) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        write = _writer(file, kind(str(out)))
        for record, prediction in zip(records, made, strict=True):
            write((record.values if as_it_came else record.fields) | _added(record, prediction))
            count += 1
            show(count)
    return count


def _added(record: Record, prediction: dict[str, Any]) -> dict[str, Any]:
    """The columns that a row gets; ValueError where it has one of that name."""
    added = {"prediction": prediction["label"]}
    for label, probability in prediction.get("probabilities", {}).items():
        added[f"probability of {label}"] = round(probability, 6)
    for column in added:
        if column in record.fields:
            raise ValueError(
                f"{record.source}:{record.line}: wanted rows without a column {column!r}, which is to be added;"
                " rename or remove it"
            )
    return added


def _writer(file: IO[str], suffix: str) -> Callable[[dict[str, Any]], object]:
    if suffix in _JSON:
        return lambda row: file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    table: csv.DictWriter[str] | None = None

    def write(row: dict[str, Any]) -> None:
        nonlocal table
        if table is None:
            delimiter = "\t" if suffix == ".tsv" else ","
            table = csv.DictWriter(file, list(row), delimiter=delimiter, lineterminator="\n")
            table.writeheader()
        try:
            table.writerow(row)
        except ValueError as error:  # rows of a .jsonl may have other columns
            raise ValueError(
                f"--out: wanted rows that all have the first one's columns ({error}); use .jsonl"
            ) from None

    return write
