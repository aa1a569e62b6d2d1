"""A comparison's rows run by workers, or in parts by several commands and joined. Knows no method.

Which rows a part has depends on their names alone: the order of the plan, the cheapest first, depends on how fast the
machine is.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.comparison.grid import Bounds, Key, Planned
from chainrule.comparison.methods import METHODS
from chainrule.comparison.rows import Folder, Outcome, fields_of, outcome_of
from chainrule.comparison.run import Work, identity_of, planned
from chainrule.comparison.run_row import run_row
from chainrule.errors import OptionError
from chainrule.model.formats.same_model import ForWorkers
from chainrule.model_source import ModelSource
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.measure import held_out
from chainrule.workers.options import Part
from chainrule.workers.parts import Joined, identity, write_part

if TYPE_CHECKING:
    from chainrule.comparison.study import Study

KeyWork = Callable[[Iterable[Key]], Iterator[dict[str, Any]]]  # from keys to the fields of their rows, in order


@dataclass(frozen=True)
class Running:
    """Makes, in a worker, the function from a row's key to the row's fields."""

    model: ForWorkers[ModelSource]
    task: Task
    limit: int | None

    def __call__(self) -> Callable[[Key], dict[str, Any]]:
        from chainrule.comparison.study import Study

        lm = self.model.checked().load()
        return row_function(Study(lm, self.task), held_out(self.task, self.limit))


def row_function(study: "Study", items: Examples) -> Callable[[Key], dict[str, Any]]:
    """From a row's key to its fields, as JSON has them."""
    methods = {method.name: method for method in METHODS}
    return lambda key: fields_of(run_row(study, items, methods[key.method], key))


def by_workers(work: KeyWork) -> Work:
    """What workers do of keys, as `run` takes it."""

    def rows(some: Iterable[Planned]) -> Iterator[Outcome]:
        return (outcome_of(fields) for fields in work(row.key for row in some))

    return rows


def run_part(study: "Study", bounds: Bounds, out: Path, part: Part, work: KeyWork | None = None) -> int:
    """Run this part's rows, here or by `work`, and write its file beside `out`; their number. Errors as in `run` and
    `write_part`."""
    items = held_out(study.task, bounds.limit)
    work = work or partial(map, row_function(study, items))
    return write_part(out, part, _made_with(study, bounds), work, _keys(study, bounds, items))


def join_rows(study: "Study", bounds: Bounds, out: Path) -> Joined:
    """Add the rows of the parts beside `out` to the comparison in it: `run` finds them there. Errors as in `Joined`.

    Returns the parts, to be removed when the comparison is written.
    """
    made_with = _made_with(study, bounds)
    keys = _keys(study, bounds, held_out(study.task, bounds.limit))
    joined = Joined(out, made_with)
    try:
        outcomes = [outcome_of(fields) for fields in joined.work(keys)]
    finally:
        joined.close()
    folder = Folder(out, identity_of(study, bounds.limit))
    known = folder.read()
    for outcome in outcomes:
        if outcome.key not in known:
            folder.append(outcome)
    return joined


def _keys(study: "Study", bounds: Bounds, items: Examples) -> list[Key]:
    """The keys of all rows, in an order that is the same on every machine: of one method at once, so that they are
    spread over the parts."""
    rows, _ = planned(study, bounds, METHODS, len(items))
    order = {method.name: number for number, method in enumerate(METHODS)}
    return sorted((row.key for row in rows), key=lambda key: (order[key.method], key.labels, key.seed))


def _made_with(study: "Study", bounds: Bounds) -> dict[str, Any]:
    if bounds.minutes is not None:
        raise OptionError("--minutes: wanted none with --part and --join, as each part has its own clock; leave it out")
    asked = {"methods": bounds.methods, "sizes": bounds.sizes, "seeds": bounds.seeds}
    return identity("compare", **identity_of(study, bounds.limit), **asked)
