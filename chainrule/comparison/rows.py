"""The rows of a comparison and the folder that keeps them: one line a row, appended whole. Knows no method, no model.

Shapes: M test items, C classes.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from chainrule.comparison.grid import Key
from chainrule.errors import FolderError
from chainrule.storage.files import write_text
from chainrule.storage.run_folder import find_record, read_record, require_same
from chainrule.tasks.answers import Answer

ROWS, RECORD = "rows.jsonl", "compare.toml"
_DIGITS = 4  # of a probability, significant ones


@dataclass(frozen=True)
class Outcome:
    """A row: one predictor on the test items. All but the last three are figures of the table."""

    method: str
    labels: int  # N that it was allowed to use
    shots: int  # demonstrations asked for
    seed: int
    accuracy: float  # or the figure that methods are compared by where rows have several labels, or a number
    interval: tuple[float, float]  # 95 %, of this predictor on items like these
    macro_f1: float | None  # None: free answers have no classes
    calibration: Mapping[str, Any] | None  # brier, log_loss, ece, ece_expected, bins; None: no probabilities
    seconds_to_adapt: float
    milliseconds_per_text: float
    notes: Sequence[str]  # warnings, such as texts that were cut
    predictions: Sequence[Answer]  # (M,)
    probabilities: NDArray[np.float32] | None  # (M, C), `rounded`
    megabytes_to_keep: float | None = None  # beside the pretrained model; None: unknown, as in earlier versions' rows
    figures: Mapping[str, float] | None = None  # of several labels at once, or a number: those beside the main one

    @property
    def key(self) -> Key:
        return Key(self.method, self.labels, self.seed)


def rounded(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Probabilities as the file has them, to 4 significant digits, so that none near 0 becomes 0."""
    return np.array(_digits(probabilities), np.float32).reshape(probabilities.shape)


def _digits(probabilities: NDArray[np.floating]) -> list[list[float]]:
    return [[float(f"{value:.{_DIGITS}g}") for value in row] for row in probabilities.tolist()]


class Folder:
    """The folder of a comparison's rows, to which a later run adds.

    `identity` is all that the rows depend on, by name. Raises FolderError where the folder's rows were made with
    something else, naming it, and for a folder that holds no comparison.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        record = find_record(path, (RECORD,), "a comparison")
        known = {name: value for name, value in identity.items() if value is not None}
        if record is not None:
            require_same(
                path, read_record(record, "a comparison"), identity, {"model": "the model", "task": "the task"}
            )
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_text(path / RECORD, tomli_w.dumps(known))

    def read(self) -> dict[Key, Outcome]:
        """The rows so far. A last line that was not written to its end is removed: its row is run again."""
        file = self.path / ROWS
        if not file.is_file():
            return {}
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(file, len(whole))
        found = {}
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                outcome = outcome_of(json.loads(line.decode()))
            except (ValueError, TypeError, KeyError) as error:
                raise FolderError(
                    f"{file}:{number}: wanted a row of a comparison, got {error!r}; remove the line,"
                    " and it is run again"
                ) from None
            found[outcome.key] = outcome
        return found

    def append(self, outcome: Outcome) -> None:
        line = json.dumps(fields_of(outcome), ensure_ascii=False) + "\n"
        with (self.path / ROWS).open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def fields_of(outcome: Outcome) -> dict[str, Any]:
    """A row as JSON has it."""
    fields = {name: value for name, value in vars(outcome).items() if name != "figures" or value is not None}
    if outcome.probabilities is not None:
        fields = {**fields, "probabilities": _digits(outcome.probabilities)}
    return fields


def outcome_of(fields: dict[str, Any]) -> Outcome:
    """The row of such fields."""
    low, high = fields["interval"]
    predictions = [_answer(one) for one in fields["predictions"]]
    of_labels = fields["probabilities"]
    probabilities = None if of_labels is None else np.array(of_labels, np.float32)
    return Outcome(**{**fields, "interval": (low, high), "predictions": predictions, "probabilities": probabilities})


def _answer(found: Any) -> Answer:
    """An answer as JSON has it; few texts are different."""
    if isinstance(found, list):
        return tuple(sys.intern(label) for label in found)
    return sys.intern(found) if isinstance(found, str) else float(found)
