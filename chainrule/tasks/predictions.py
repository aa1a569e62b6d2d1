"""The rows of a file with their predictions, in memory that does not grow with their number. Knows files and rows, not
how a prediction is made."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from chainrule.storage.records import Log, OnError, no_log
from chainrule.tasks.answers import Answer
from chainrule.tasks.predictor import Predictor, generates
from chainrule.tasks.prompt import Row
from chainrule.tasks.row_file import InputRows, Rows, Written, in_parts, write_rows
from chainrule.tasks.row_file import rows_to_predict as rows_to_predict

Predicted = Written


def predictions(predictor: Predictor, rows: Iterable[Row | str | None]) -> Iterator[dict[str, Any]]:
    """For row after row its `label`, and the `probabilities` of all where the predictor has some.

    Of several labels at once they are `labels`, a list; a number is `value`. Where there is no row, but None, the label
    is None.
    """
    for part in in_parts(rows):
        made = predictor.stream(row for row in part if row is not None)
        for row in part:
            if row is None:
                yield {"label": None}
                continue
            label, found = next(made)
            named = dict(zip(predictor.labels, found.tolist(), strict=True)) if len(found) else None
            said = {_key(label): list(label) if isinstance(label, tuple) else label}
            yield said if named is None else {**said, "probabilities": named}


def _key(answer: Answer) -> str:
    """What an answer is called in JSON."""
    return "labels" if isinstance(answer, tuple) else "value" if isinstance(answer, float) else "label"


def input_rows(
    predictor: Predictor, source: str, *, encoding: str = "utf-8", on_error: OnError = "stop", log: Log = no_log
) -> InputRows:
    """The rows of a file for a predictor, and the columns that its predictions are."""
    of_labels = () if generates(predictor) else predictor.labels
    added = ["prediction", *(f"probability of {label}" for label in of_labels)]
    return InputRows(source, predictor.columns, added, encoding=encoding, on_error=on_error, log=log)


def predict_file(
    predictor: Predictor,
    source: str,
    out: str | Path,
    *,
    encoding: str = "utf-8",
    on_error: OnError = "stop",
    log: Log = no_log,
    show: Callable[[int], None] = lambda rows: None,
) -> Predicted:
    """Write the rows of `source` to `out`, one for one and in their order, each with its prediction.

    `out` is a .csv, .tsv or .jsonl; columns `prediction` and `probability of <label>` are added. Several labels at once
    are a list in a .jsonl, elsewhere joined by |; a number has no probabilities. The prediction of an
    empty line of a .txt is empty. With on_error="skip" so is that of a row that lacks the predictor's columns or their
    text; a row that cannot be read is written as empty cells. `show` is called with the number of rows done. Raises
    DataError for a file of another kind, one that has such a column already, and a row that is wrong: before anything
    is predicted, if `source` can be read twice.
    """
    rows = input_rows(predictor, source, encoding=encoding, on_error=on_error, log=log)

    def values(pieces: Iterable[Rows]) -> Iterator[list[list[Any]]]:
        return (prediction_values(predictions(predictor, piece)) for piece in pieces)

    return write_rows(rows, out, values, show)


def prediction_values(found: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Predictions as the values of the added columns."""
    return [_values(prediction) for prediction in found]


def _values(prediction: dict[str, Any]) -> list[Any]:
    """The values of the added columns; [] where there is no prediction."""
    answer = next(iter(prediction.values()))
    if answer is None:
        return []
    return [answer, *(round(found, 6) for found in prediction.get("probabilities", {}).values())]
