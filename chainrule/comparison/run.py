"""Runs a comparison row by row, cheapest first, and goes on from the rows it has. Knows no method but by its name.

Shapes: M test items, C classes.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from chainrule.comparison import grid
from chainrule.comparison.cells import Setting
from chainrule.comparison.grid import METHODS, Bounds, Key, Planned
from chainrule.comparison.rows import Folder, Outcome, rounded
from chainrule.comparison.table import Comparison
from chainrule.errors import ChainruleError
from chainrule.tasks.examples import Examples, Row, Task
from chainrule.tasks.measure import held_out
from chainrule.uncertainty import accuracy, calibration, macro_f1

if TYPE_CHECKING:
    from chainrule.comparison.methods import Predictor, Shared
    from chainrule.language_model import Pretrained

Value = TypeVar("Value")
_ENOUGH_SEEDS = 5


class Makers(Protocol):
    """What `run` asks of the methods; `methods.Methods` answers with a language model's."""

    @property
    def model(self) -> str:
        """The model in words."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What the rows depend on beside the task, by name."""

    @property
    def room(self) -> int:
        """How many demonstrations fit into a prompt."""

    def obstacle(self, method: str) -> str | None:
        """Why the method cannot be run; None where it can."""

    def shared(self, method: str, labels: int, seed: int, rows: Sequence[Row]) -> "Shared":
        """Do what a row shares with others, once, and say what it takes a row that shares with none."""

    def make(self, method: str, labels: int, shots: int, seed: int) -> "Predictor": ...

    def notes(self, predictor: "Predictor", rows: Sequence[Row]) -> list[str]:
        """What befell these rows when they were predicted."""

    def seconds(self, method: str, labels: int, shots: int, tests: int) -> float:
        """What a row takes, estimated."""


def compare(
    lm: "Pretrained",
    task: Task,
    *,
    out: str | Path | None = None,
    methods: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    seeds: int = 5,
    limit: int | None = None,
    minutes: float | None = None,
    show: Callable[[Comparison], None] = lambda comparison: None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Every way to adapt `lm` to the task, at every number of labels, on the same test items.

    out: a folder that keeps the rows and gets results.json, curves.svg and report.html; the same call goes on from what
    it holds. methods: some of `grid.METHODS`; sizes: the numbers of labels N; limit: test items; minutes: rows that
    would end later are left out. `say` is told the plan and what happens, `show` is given the table after each row.

    Raises ChainruleError for bounds out of range, for a named method that the task does not allow, and where `out`
    holds the rows of another model, task or limit.
    """
    from chainrule.comparison.methods import Methods

    bounds = Bounds(_tuple(methods), _tuple(sizes), seeds, limit, minutes)
    return run(Methods(lm, task), task, bounds, out=None if out is None else Path(out), show=show, say=say)


def run(
    makers: Makers,
    task: Task,
    bounds: Bounds,
    *,
    out: Path | None = None,
    show: Callable[[Comparison], None] = lambda comparison: None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """`compare` with whatever makes the predictors."""
    started = time.monotonic()
    items = held_out(task, bounds.limit)
    folder = None if out is None else Folder(out, _identity(makers, task, bounds.limit))
    known = {} if folder is None else folder.read()
    methods, left_out = _possible(makers, bounds)
    for method, reason in left_out.items():
        say(f"{method} is left out: {reason}")
    rows = _planned(makers, task, methods, bounds, len(items))
    if not rows:
        raise ChainruleError(
            "compare: wanted rows to run, got none: without labels there is zero-shot alone; name sizes"
        )
    setting = _setting(makers, task, items)
    done = [known[row.key] for row in rows if row.key in known]
    left = [row for row in rows if row.key not in known]
    say(_plan_in_words(rows, left))
    if 1 < bounds.seeds < _ENOUGH_SEEDS:
        say(f"with {bounds.seeds} seeds only large differences can be told from chance; {_ENOUGH_SEEDS} show more")

    pace = Pace()
    skipped: list[Planned] = []

    def so_far() -> Comparison:
        return Comparison(setting, done, pace.corrected([*left, *skipped]), left_out)

    try:
        while left:
            row = left[0]
            seconds = pace.seconds(row)
            if bounds.minutes is not None and time.monotonic() - started + seconds > 60 * bounds.minutes:
                skipped.append(left.pop(0))
                continue
            outcome = _outcome(makers, task, items, row)
            pace.note(row, outcome, len(items))
            if folder is not None:
                folder.append(outcome)
            done.append(outcome)
            left.pop(0)
            show(so_far())
    except KeyboardInterrupt:
        if out is not None and done:
            so_far().save(out)
            say(f"stopped after {len(done)} of {len(rows)} rows; the same command goes on from there")
        raise
    if skipped:
        say(f"{len(skipped)} of {len(rows)} rows are left out: they would end after {bounds.minutes:g} minutes")
    if out is not None:
        so_far().save(out)
    return so_far()


def _tuple(values: Sequence[Value] | None) -> tuple[Value, ...] | None:
    return None if values is None else tuple(values)


class Pace:
    """Estimates, corrected by what rows of the same method really took."""

    def __init__(self) -> None:
        self._factor: dict[str, float] = {}

    def note(self, row: Planned, outcome: Outcome, tests: int) -> None:
        took = outcome.seconds_to_adapt + outcome.milliseconds_per_text * tests / 1000
        self._factor[row.key.method] = took / max(row.seconds, 1e-6)

    def seconds(self, row: Planned) -> float:
        return row.seconds * self._factor.get(row.key.method, 1.0)

    def corrected(self, rows: Sequence[Planned]) -> list[Planned]:
        return [row._replace(seconds=self.seconds(row)) for row in rows]


def _identity(makers: Makers, task: Task, limit: int | None) -> dict[str, Any]:
    """All that the rows depend on, by name."""
    return {**makers.identity, "task": _hash(task), "limit": limit}


def _hash(task: Task) -> str:
    """Of all that a row may depend on: the examples, and how they are asked about."""
    prompt = task.prompt and [task.prompt.template, task.prompt.separator, sorted(task.prompt.words.items())]
    digest = hashlib.sha256(json.dumps([task.kind, task.text, task.label, prompt, task.input]).encode())
    for examples in (task.train, task.test):
        for row, label in zip(examples.rows, examples.labels, strict=True):
            digest.update(json.dumps([[row[column] for column in task.text], label]).encode())
        digest.update(json.dumps(examples.groups).encode())
    return digest.hexdigest()[:16]


def _possible(makers: Makers, bounds: Bounds) -> tuple[list[str], dict[str, str]]:
    """The methods to run, and why the others cannot be; ChainruleError for one that was asked for by name."""
    reasons = {method: makers.obstacle(method) for method in bounds.methods or METHODS}
    left_out = {method: reason for method, reason in reasons.items() if reason is not None}
    if bounds.methods is not None and left_out:
        raise ChainruleError(next(iter(left_out.values())))
    return [method for method in reasons if method not in left_out], left_out


def _planned(makers: Makers, task: Task, methods: Sequence[str], bounds: Bounds, tests: int) -> list[Planned]:
    everything = len(task.train)
    if bounds.sizes is None:
        sizes = grid.grid_sizes(task.smallest, everything)
    else:
        sizes = grid.checked_sizes(bounds.sizes, max(1, len(task.labels)), everything)
    return grid.plan(
        methods,
        sizes,
        bounds.seeds,
        everything=everything,
        room=makers.room if any(method.startswith("in-context") for method in methods) else 0,
        seconds=lambda method, labels, shots: makers.seconds(method, labels, shots, tests),
    )


def _plan_in_words(rows: Sequence[Planned], left: Sequence[Planned]) -> str:
    sizes = sorted({row.key.labels for row in rows})
    count = f"{len(rows)} rows" if len(left) == len(rows) else f"{len(left)} of {len(rows)} rows are left"
    about = duration(sum(row.seconds for row in left))
    return f"{count}: N = {', '.join(map(str, sizes))} labels; about {about}, cheapest first"


def duration(seconds: float) -> str:
    """A time for a person.

    >>> [duration(seconds) for seconds in (3.2, 200, 9000)]
    ['3 s', '3 min', '2.5 h']
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _setting(makers: Makers, task: Task, items: Examples) -> Setting:
    most_frequent, _ = Counter(sorted(task.train.labels)).most_common(1)[0]
    return Setting(
        name="task" if task.path is None else task.path.stem,
        model=makers.model,
        kind=task.kind,
        text=task.text,
        labels=task.labels,
        everything=len(task.train),
        chance=float(np.mean([label == most_frequent for label in items.labels])),
        items=items,
    )


def _outcome(makers: Makers, task: Task, items: Examples, row: Planned) -> Outcome:
    """The row, run: its predictor made and asked, and what is to be said of the answers."""
    key: Key = row.key
    shared = makers.shared(key.method, key.labels, key.seed, items.rows)
    start = time.perf_counter()
    predictor = makers.make(key.method, key.labels, row.shots, key.seed)
    made = time.perf_counter()
    if task.kind == "classification":
        found = predictor.predict_proba(items.rows)  # (M, C)
        predictions = [predictor.labels[place] for place in found.argmax(1)]
    else:
        predictions = predictor.predict(items.rows)
    end = time.perf_counter()

    correct = [one.strip() == label.strip() for one, label in zip(predictions, items.labels, strict=True)]
    estimate = accuracy(np.array(correct), items.groups)
    f1 = probable = probabilities = None
    if task.kind == "classification":
        number = {label: place for place, label in enumerate(task.labels)}
        columns = [list(predictor.labels).index(label) for label in task.labels]
        truth = np.array([number[label] for label in items.labels])
        f1 = macro_f1(truth, np.array([number[label] for label in predictions])).value
        measured = calibration(found[:, columns], truth)
        probable = {**measured._asdict(), "bins": [one._asdict() for one in measured.bins]}
        probabilities = rounded(found[:, columns])
    return Outcome(
        method=key.method,
        labels=key.labels,
        shots=row.shots,
        seed=key.seed,
        accuracy=estimate.value,
        interval=(estimate.low, estimate.high),
        macro_f1=f1,
        calibration=probable,
        seconds_to_adapt=shared.adapting + made - start,
        milliseconds_per_text=1000 * (shared.predicting + end - made) / len(items),
        notes=makers.notes(predictor, items.rows),
        predictions=predictions,
        probabilities=probabilities,
    )
