"""Which method to take, in a sentence or two computed from a table. Knows the table alone.

At each N some methods do not differ significantly from the best. The cheapest of them that is not far behind is taken:
with few seeds even large differences are not significant.
"""

from collections.abc import Mapping
from typing import NamedTuple

from chainrule.comparison.cells import Cell
from chainrule.comparison.methods.method import Method, Role
from chainrule.comparison.table import Switch, Table
from chainrule.uncertainty import SwitchPoint

NEAR = 0.05  # of accuracy: a method further behind the best is not taken in its place, even if not significantly worse


class Choice(NamedTuple):
    """What to take at N labels."""

    labels: int
    best: Cell
    equals: dict[str, Cell]  # by name: not significantly different from the best, which is among them

    @property
    def constant(self) -> Cell | None:
        """The equal that gives the same answer whatever the text is; None where there is none."""
        return next((cell for cell in self.equals.values() if cell.method.role is Role.CONSTANT), None)

    @property
    def near(self) -> dict[str, Cell]:
        """The equals that are not far behind."""
        least = self.best.accuracy.value - NEAR
        return {name: cell for name, cell in self.equals.items() if cell.accuracy.value >= least}

    def cheapest(self, items: int) -> Cell:
        """The one near the best that adapts and answers the test items in the least time."""
        return _cheapest(self.near, items)


def choices(table: Table) -> list[Choice]:
    """One at each N with more than one method."""
    found = []
    for labels in table.sizes:
        cells = table.with_labels(labels)
        if len(cells) > 1:
            best = max(cells.values(), key=lambda cell: cell.accuracy.value)
            equals = {
                name: cell for name, cell in cells.items() if cell is best or not _differ(table, labels, best, cell)
            }
            found.append(Choice(labels, best, equals))
    return found


def advise(table: Table) -> str:
    """What to take with few and with many labels, then what the model adds to the strongest simple baseline.

    Neighbouring N get one answer where some methods are near the best at all of them: the cheapest of these.
    """
    found = choices(table)
    if not found:
        return "There is nothing to compare yet: one method alone was measured."
    items = len(table.setting.items)
    taken = "; ".join(_span_in_words(span, items) for span in _spans(found))
    verdict = _verdict(table, found[-1].labels)
    return f"{_grounds(table)}: {taken}.{' ' if verdict else ''}{verdict}"


def _spans(found: list[Choice]) -> list[list[Choice]]:
    """As few as can be, from the smallest N on."""
    spans: list[list[Choice]] = []
    for choice in found:
        last = spans[-1] if spans else []
        alike = last and (last[0].constant is None) == (choice.constant is None)
        if alike and _in_common([*last, choice]):
            last.append(choice)
        else:
            spans.append([choice])
    return spans


def _in_common(span: list[Choice]) -> list[str]:
    """The names of the methods that are near the best at all N of the span."""
    return [name for name in span[-1].near if all(name in choice.near for choice in span)]


def _span_in_words(span: list[Choice], items: int) -> str:
    last = span[-1]
    low, high = span[0].labels, last.labels
    labels = f"with {high:,} labels" if low == high else f"with {low:,} to {high:,} labels"
    at_largest = "" if low == high else f" at {high:,}"
    if last.constant is not None:
        return f"{labels} no method is significantly better than {_accuracy(last.constant, at_largest)}"
    taken = _cheapest({name: last.equals[name] for name in _in_common(span)}, items)
    advice = f"{labels} take {_accuracy(taken, at_largest)}"
    if taken is not last.best:
        return f"{advice}, not significantly worse than the best, {_accuracy(last.best)}"
    return advice if len(last.equals) > 1 else f"{advice}, significantly better than all others"


def _accuracy(cell: Cell, where: str = "") -> str:
    return f"{cell.method.title} ({100 * cell.accuracy.value:.1f} %{where})"


def _cheapest(cells: Mapping[str, Cell], items: int) -> Cell:
    """By the time measured; but a prompt without demonstrations is cheaper than any with, whatever noise there is."""
    prompted = [cell for cell in cells.values() if cell.method.role is Role.PROMPTED]
    shortest = min((cell.shots for cell in prompted), default=0)
    left = [cell for cell in cells.values() if shortest > 0 or cell not in prompted or cell.shots == 0]
    return min(left, key=lambda cell: _seconds(cell, items))


def _seconds(cell: Cell, items: int) -> float:
    """What a row of the cell costs: adapting, and answering the test items."""
    return cell.seconds_to_adapt + cell.milliseconds_per_text * items / 1000


def _differ(table: Table, labels: int, one: Cell, other: Cell) -> bool:
    contrast = table.contrast(labels, one.name, other.name)
    return contrast is not None and contrast.significant


def _grounds(table: Table) -> str:
    seeds = max(len(cell.seeds) for cell in table.cells)
    return (
        f"On {len(table.setting.items):,} test items ({seeds} seed{'s' * (seeds > 1)},"
        f" {len(table.contrasts)} comparisons)"
        + ("" if table.setting.measure == "accuracy" else f", by {table.setting.measure_title}")
    )


def _verdict(table: Table, largest: int) -> str:
    """Whether anything beats the baseline; where it does, from where on finetuning stays ahead of prompting."""
    baseline = _baseline(table)
    if baseline is not None:
        ahead = [labels for labels in table.sizes if _beaten(table, labels, baseline)]
        if not ahead:
            return f"No method that uses the model is significantly better than {baseline.title}."
        if ahead[-1] < largest:
            return (
                f"With more than {ahead[-1]:,} labels no method that uses the model is significantly better than"
                f" {baseline.title}."
            )
    return _switch_in_words(table)


def _baseline(table: Table) -> Method | None:
    """What a language model must beat to be worth it: a simple method, else the constant answer."""
    for role in (Role.SIMPLE, Role.CONSTANT):
        for method in table.methods:
            if method.role is role:
                return method
    return None


def _beaten(table: Table, labels: int, baseline: Method) -> bool:
    """Whether a way to adapt the model is significantly better than the baseline at N."""
    adapted = [method for method in table.methods if not method.role.is_baseline]
    contrasts = (table.contrast(labels, method.name, baseline.name) for method in adapted)
    return any(one is not None and one.significant and one.difference.value > 0 for one in contrasts)


def _switch_in_words(table: Table) -> str:
    """From the best prompted method to the best finetuned one; best by the mean over their common N."""
    methods = {method.name: method for method in table.methods}
    pairs = [
        one for one in table.switches if (methods[one.a].role, methods[one.b].role) == (Role.PROMPTED, Role.FINETUNED)
    ]
    if not pairs:
        return ""
    chosen = max(pairs, key=lambda one: (_mean(table, one, one.a) + _mean(table, one, one.b), one.a, one.b))
    a, b = methods[chosen.a].title, methods[chosen.b].title
    b = b[0].upper() + b[1:]
    if chosen.point.at is None:
        return f"{b} does not get ahead of {a} with up to {chosen.sizes[-1]:,} labels."
    return f"{b} stays ahead of {a} from {chosen.point.at:,} labels on{bracket(chosen.point)}."


def bracket(point: SwitchPoint) -> str:
    """The interval of a switch point in words; nothing where all resamples agree on the size."""
    if point.low == point.high:
        return ""
    if point.low is None or point.high is None:
        return f" (95 %: from {point.low:,} on, or never)" if point.low is not None else " (or never)"
    return f" (95 %: between {point.low:,} and {point.high:,})"


def _mean(table: Table, switch: Switch, name: str) -> float:
    values = [table.with_labels(size)[name].accuracy.value for size in switch.sizes]
    return sum(values) / len(values)
