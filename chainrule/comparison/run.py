"""Runs a comparison row by row, cheapest first, and continues from the rows it has. Knows no method by name.

Shapes: M test items, C classes.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from chainrule.comparison import grid
from chainrule.comparison.cells import Setting
from chainrule.comparison.comparison import Comparison
from chainrule.comparison.grid import Bounds, Planned
from chainrule.comparison.methods import METHODS
from chainrule.comparison.methods.method import Method
from chainrule.comparison.rows import Folder, Outcome, rounded
from chainrule.comparison.table import Table
from chainrule.errors import ChainruleError, OptionError
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.figures import MAIN, constant_answer, estimates_of
from chainrule.tasks.measure import held_out
from chainrule.uncertainty import accuracy, calibration, macro_f1

if TYPE_CHECKING:
    from chainrule.comparison.study import Study
    from chainrule.language_model import Pretrained

Value = TypeVar("Value")
_ENOUGH_SEEDS = 5


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
    log: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Every way to adapt `lm` to the task, at every number of labels, on the same test items.

    out: a folder that keeps the rows and gets results.json, curves.svg and report.html; the same call continues from
    what it holds. methods: names of some (`chainrule.comparison.methods` has all); sizes: the numbers of labels N;
    limit: test items; minutes: rows that would end later are left out. `log` is called with the plan and with what
    happens, a line each, and `show` with the comparison after each row.

    Raises ChainruleError for bounds out of range, for a named method that the task does not allow, and where `out`
    holds the rows of another model, task or limit.
    """
    from chainrule.comparison.study import Study

    bounds = Bounds(_tuple(methods), _tuple(sizes), seeds, limit, minutes)
    return run(Study(lm, task), bounds, out=None if out is None else Path(out), show=show, log=log)


def run(
    study: "Study",
    bounds: Bounds,
    methods: Sequence[Method] = METHODS,
    *,
    out: Path | None = None,
    show: Callable[[Comparison], None] = lambda comparison: None,
    log: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """`compare` with these methods."""
    started = time.monotonic()
    items = held_out(study.task, bounds.limit)
    folder = None if out is None else Folder(out, _identity(study, bounds.limit))
    known = {} if folder is None else folder.read()
    sizes = _sizes(study.task, bounds)  # refused before anything is said
    possible, left_out = _possible(study, bounds, methods)
    for name, reason in left_out.items():
        log(f"{name} is left out: {reason.removeprefix(f'{name}: ')}")
    rows = grid.plan(study, possible, sizes, bounds.seeds, len(items))
    if not rows:
        raise ChainruleError(
            "--sizes: wanted numbers of labels above 0, as all methods chosen learn from labels, got none; add some,"
            " or choose other --methods"
        )
    setting = _setting(study, items)
    done = [known[row.key] for row in rows if row.key in known]
    left = [row for row in rows if row.key not in known]
    log(_plan_in_words(rows, left))
    if 1 < bounds.seeds < _ENOUGH_SEEDS:
        log(f"with {bounds.seeds} seeds only large differences are significant; use {_ENOUGH_SEEDS} or more")

    pace = Pace()
    skipped: list[Planned] = []

    def so_far() -> Comparison:
        return Comparison(Table(setting, done, methods, pace.corrected([*left, *skipped]), left_out))

    try:
        while left:
            row = left[0]
            seconds = pace.seconds(row)
            if bounds.minutes is not None and time.monotonic() - started + seconds > 60 * bounds.minutes:
                skipped.append(left.pop(0))
                continue
            outcome = _outcome(study, items, row)
            pace.note(row, outcome, len(items))
            if folder is not None:
                folder.append(outcome)
            done.append(outcome)
            left.pop(0)
            show(so_far())
    except KeyboardInterrupt:
        if out is not None and done:
            so_far().save(out)
            log(f"stopped after {len(done)} of {len(rows)} rows; the same command continues from there")
        raise
    if skipped:
        log(f"{len(skipped)} of {len(rows)} rows are left out: they would end after {bounds.minutes:g} minutes")
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


def _identity(study: "Study", limit: int | None) -> dict[str, Any]:
    """All that the rows depend on, by name."""
    return {**study.identity, "task": _hash(study.task), "limit": limit}


def _hash(task: Task) -> str:
    """Of all in the task that a row may depend on: the examples and the prompt."""
    prompt = task.prompt and [task.prompt.template, task.prompt.separator, sorted(task.prompt.words.items())]
    digest = hashlib.sha256(json.dumps([task.kind, task.text, task.label, prompt, task.input]).encode())
    for examples in (task.train, task.test):
        for row, label in zip(examples.rows, examples.labels, strict=True):
            digest.update(json.dumps([[row[column] for column in task.text], label]).encode())
        digest.update(json.dumps(examples.groups).encode())
    return digest.hexdigest()[:16]


def _possible(study: "Study", bounds: Bounds, methods: Sequence[Method]) -> tuple[list[Method], dict[str, str]]:
    """The methods to run, and why others that are for such tasks cannot be; ChainruleError for one that was asked for
    by name."""
    wanted = [method for method in methods if bounds.methods is None or method.name in bounds.methods]
    for method in wanted if bounds.methods is not None else ():
        if study.task.kind not in method.kinds:
            others = ", ".join(other.name for other in methods if study.task.kind in other.kinds)
            raise OptionError(
                f"--methods: wanted some of {others} for a task of kind {study.task.kind!r}, got {method.name}"
            )
    wanted = [method for method in wanted if study.task.kind in method.kinds]
    obstacles = {method.name: method.obstacle(study) for method in wanted}
    left_out = {name: obstacle for name, obstacle in obstacles.items() if obstacle is not None}
    if bounds.methods is not None and left_out:
        raise ChainruleError(next(iter(left_out.values())))
    return [method for method in wanted if method.name not in left_out], left_out


def _sizes(task: Task, bounds: Bounds) -> tuple[int, ...]:
    """The N of the grid."""
    if bounds.sizes is None:
        return grid.grid_sizes(task.smallest, len(task.train))
    return grid.checked_sizes(bounds.sizes, task.fewest, len(task.train))


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


def _setting(study: "Study", items: Examples) -> Setting:
    task = study.task
    constant, shares = constant_answer(task.kind, task.labels, task.train)
    if task.kind in ("multilabel", "regression"):
        answers, alike = [[constant] * len(items)], np.tile(shares, (1, len(items), 1))
        chance = estimates_of(task.kind, task.labels, items, answers, alike)[MAIN[task.kind]].value
    else:
        chance = float(np.mean([label == constant for label in items.labels]))
    return Setting(
        name="task" if task.path is None else task.path.stem,
        model=study.model,
        kind=task.kind,
        text=task.text,
        labels=task.labels,
        everything=len(task.train),
        chance=chance,
        items=items,
    )


def _outcome(study: "Study", items: Examples, row: Planned) -> Outcome:
    """The row, run: its method fitted, the test items answered, and the answers judged."""
    method, labels, seed = row.method, row.key.labels, row.key.seed
    shared = study.share(labels, seed, items.rows) if method.shares_features else (0.0, 0.0)
    start = time.perf_counter()
    predictor = method.fit(study, labels, seed)
    fitted = time.perf_counter()
    kind, of_labels = study.task.kind, np.empty((len(items), 0))
    if kind == "classification":
        found = predictor.predict_proba(items.rows)  # (M, C)
        predictions = [predictor.labels[index] for index in found.argmax(1)]
    elif kind in ("multilabel", "regression"):
        answered = list(predictor.stream(items.rows))
        predictions, of_labels = [answer for answer, _ in answered], np.array([found for _, found in answered])
    else:
        predictions = predictor.predict(items.rows)
    end = time.perf_counter()

    f1 = calibrated = probabilities = figures = None
    if kind in ("multilabel", "regression"):
        probabilities = rounded(of_labels) if kind == "multilabel" else None
        estimates = estimates_of(kind, study.task.labels, items, [predictions], np.array([of_labels]))
        estimate = estimates.pop(MAIN[kind])
        figures = {name: one.value for name, one in estimates.items()}
        f1 = figures.pop("macro_f1", None)
    else:
        correct = [one.strip() == label.strip() for one, label in zip(predictions, items.labels, strict=True)]
        estimate = accuracy(np.array(correct), items.groups)
    if kind == "classification":
        number = {label: index for index, label in enumerate(study.task.labels)}
        columns = [list(predictor.labels).index(label) for label in study.task.labels]
        truth = np.array([number[label] for label in items.labels])
        f1 = macro_f1(truth, np.array([number[label] for label in predictions])).value
        measured = calibration(found[:, columns], truth)
        calibrated = {**measured._asdict(), "bins": [one._asdict() for one in measured.bins]}
        probabilities = rounded(found[:, columns])
    adapting, predicting = shared
    return Outcome(
        method=method.name,
        labels=labels,
        shots=getattr(predictor, "shots", 0),
        seed=seed,
        accuracy=estimate.value,
        interval=(estimate.low, estimate.high),
        macro_f1=f1,
        calibration=calibrated,
        seconds_to_adapt=adapting + fitted - start,
        milliseconds_per_text=1000 * (predicting + end - fitted) / len(items),
        notes=method.notes(study, predictor, items.rows),
        predictions=predictions,
        probabilities=probabilities,
        megabytes_to_keep=method.megabytes(study),
        figures=figures,
    )
