"""The rows of a file with their predictions, in memory that does not grow with their number. Knows files and rows, not
how a prediction is made."""

from collections.abc import Iterable, Iterator
from typing import Any

from chainrule.storage.records import Log, OnError, no_log
from chainrule.tasks.answers import Answer
from chainrule.tasks.predictor import Predictor, generates
from chainrule.tasks.prompt import Row
from chainrule.tasks.row_file import InputRows, in_parts


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
            answer = {_key(label): list(label) if isinstance(label, tuple) else label}
            yield answer if named is None else {**answer, "probabilities": named}


def _key(answer: Answer) -> str:
    """What an answer is called in JSON."""
    return "labels" if isinstance(answer, tuple) else "value" if isinstance(answer, float) else "label"


def input_rows(
    predictor: Predictor, source: str, *, encoding: str = "utf-8", on_error: OnError = "stop", log: Log = no_log
) -> InputRows:
    """The rows of a file for a predictor, and the columns that its predictions are: `prediction` and `probability of
    <label>`. Several labels at once are a list in a .jsonl, elsewhere joined by |; a number or a free answer has no
    probabilities."""
    of_labels = () if generates(predictor) else predictor.labels
    added = ["prediction", *(f"probability of {label}" for label in of_labels)]
    return InputRows(source, predictor.columns, added, encoding=encoding, on_error=on_error, log=log)


def prediction_values(found: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Predictions as the values of the added columns."""
    return [_values(prediction) for prediction in found]


def _values(prediction: dict[str, Any]) -> list[Any]:
    """The values of the added columns; [] where there is no prediction."""
    answer = next(iter(prediction.values()))
    if answer is None:
        return []
    return [answer, *(round(found, 6) for found in prediction.get("probabilities", {}).values())]
