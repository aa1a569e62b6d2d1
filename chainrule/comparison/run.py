"""Runs a comparison row by row, cheapest first, and continues from the rows it has. Knows no method by name.

Shapes: M test items, C classes.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from chainrule.comparison import grid
from chainrule.comparison.cells import Setting
from chainrule.comparison.comparison import Comparison
from chainrule.comparison.grid import Bounds, Planned
from chainrule.comparison.methods import METHODS
from chainrule.comparison.methods.method import Method
from chainrule.comparison.pace import Pace
from chainrule.comparison.plan_in_words import plan_in_words, rows_in_words
from chainrule.comparison.rows import Folder, Outcome
from chainrule.comparison.run_row import run_row
from chainrule.comparison.table import Table
from chainrule.errors import ChainruleError, NotEnoughMemoryError, OptionError
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.figures import MAIN, constant_answer, estimates_of
from chainrule.tasks.measure import held_out

if TYPE_CHECKING:
    from chainrule.comparison.study import Study
    from chainrule.language_model import Pretrained

Value = TypeVar("Value")
_ENOUGH_SEEDS = 5
Work = Callable[[Iterable[Planned]], Iterator[Outcome]]  # rows run, in order


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
    work: Work | None = None,
) -> Comparison:
    """`compare` with these methods. `work` runs the rows elsewhere than here."""
    started = time.monotonic()
    items = held_out(study.task, bounds.limit)
    folder = None if out is None else Folder(out, identity_of(study, bounds.limit))
    known = {} if folder is None else folder.read()
    rows, left_out = planned(study, bounds, methods, len(items))
    for name, reason in left_out.items():
        log(f"{name} is left out: {reason.removeprefix(f'{name}: ')}")
    setting = _setting(study, items)
    done = [known[row.key] for row in rows if row.key in known]
    left = [row for row in rows if row.key not in known]
    for line in plan_in_words(rows, left, bounds.minutes):
        log(line)
    if 1 < bounds.seeds < _ENOUGH_SEEDS:
        log(f"with {bounds.seeds} seeds only large differences are significant; use {_ENOUGH_SEEDS} or more")

    pace = Pace()
    skipped: list[Planned] = []
    running: deque[Planned] = deque()

    def so_far() -> Comparison:
        return Comparison(Table(setting, done, methods, [*running, *left, *skipped], left_out))

    def to_run() -> Iterator[Planned]:
        while left:
            seconds = pace.seconds(left[0])
            if bounds.minutes is not None and time.monotonic() - started + seconds > 60 * bounds.minutes:
                skipped.append(left.pop(0))
                continue
            running.append(left.pop(0))
            pace.begin(running[-1])
            yield running[-1]

    def here(some: Iterable[Planned]) -> Iterator[Outcome | NotEnoughMemoryError]:
        for row in some:
            try:
                yield run_row(study, items, row.method, row.key)
            except NotEnoughMemoryError as error:
                if bounds.methods is not None:  # asked for by name
                    raise
                yield error

    try:
        for outcome in (work or here)(to_run()):
            row = running.popleft()
            if isinstance(outcome, NotEnoughMemoryError):
                name = row.key.method
                left_out[name] = str(outcome)
                log(f"{name} is left out: {outcome}")
                left[:] = [each for each in left if each.key.method != name]
                continue
            pace.note(row, outcome, len(items))
            if folder is not None:
                folder.append(outcome)
            done.append(outcome)
            show(so_far())
    except KeyboardInterrupt:
        if out is not None and done:
            so_far().save(out)
            log(f"stopped after {len(done)} of {len(rows)} rows; the same command continues from there")
        raise
    if skipped:
        which = rows_in_words(skipped, rows)
        late = f"they would end after {bounds.minutes:g} minutes"
        log(f"{len(skipped)} of {len(rows)} rows are left out: {late} ({which})")
    if out is not None:
        so_far().save(out)
    return so_far()


def planned(
    study: "Study", bounds: Bounds, methods: Sequence[Method], tests: int
) -> tuple[list[Planned], dict[str, str]]:
    """The rows that the bounds ask for, the cheapest first, and why methods are left out; ChainruleError where there
    are none."""
    sizes = _sizes(study.task, bounds)  # refused before anything is said
    possible, left_out = _possible(study, bounds, methods)
    rows = grid.plan(study, possible, sizes, bounds.seeds, tests)
    if not rows:
        raise ChainruleError(
            "--sizes: wanted numbers of labels above 0, as all methods chosen learn from labels, got none; add some,"
            " or choose other --methods"
        )
    return rows, left_out


def _tuple(values: Sequence[Value] | None) -> tuple[Value, ...] | None:
    return None if values is None else tuple(values)


def identity_of(study: "Study", limit: int | None) -> dict[str, Any]:
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
