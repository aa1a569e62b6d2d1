"""Which method to take, in a sentence or two computed from a table. Knows the table alone.

At each N some methods cannot be ruled out as the best. Of those that are not far behind (with few seeds even large
differences are not significant) the cheapest is taken, or one that takes hardly longer and is more often right.
"""

from collections.abc import Mapping
from typing import NamedTuple

from chainrule.comparison.cells import Cell
from chainrule.comparison.methods.method import Role
from chainrule.comparison.table import LEVEL, Switch, Table
from chainrule.uncertainty import SwitchPoint

NEAR = 0.05  # of accuracy: a method further behind the best is not taken in its place, even if not significantly worse
QUICK = 10.0  # seconds: what takes less is no cheaper


class Choice(NamedTuple):
    """What to take at N labels."""

    labels: int
    best: Cell
    equals: dict[str, Cell]  # by name: may be the best with 95 % confidence; the best by its mean is among them
    ahead: bool  # whether the best is significantly better than all others
    constant: Cell | None
    """The one that gives the same answer whatever the text is, where nothing is better; None where something is."""

    @property
    def near(self) -> dict[str, Cell]:
        """The equals that are not far behind."""
        least = self.best.accuracy.value - NEAR
        return {name: cell for name, cell in self.equals.items() if cell.accuracy.value >= least}

    def cheapest(self, items: int) -> Cell:
        """The most accurate one near the best that adapts and answers the test items in hardly more than the least
        time."""
        return _cheapest(self.near, items)


def choices(table: Table) -> list[Choice]:
    """One at each N with more than one method."""
    found = []
    for labels in table.sizes:
        cells, best = table.with_labels(labels), table.best(labels)
        if len(cells) > 1 and best is not None:
            constant = _unbeaten_constant(table, labels)
            equals = {
                name: cell
                for name, cell in cells.items()
                if cell is best
                or not (_ruled_out(table, labels, best, cell) or (cell.method.role is Role.CONSTANT and not constant))
            }
            hardest = table.hardest_rival(labels)
            ahead = hardest is not None and hardest.significant and len(equals) == 1
            found.append(Choice(labels, best, equals, ahead, constant))
    return found


def _ruled_out(table: Table, labels: int, best: Cell, cell: Cell) -> bool:
    """Whether the cell is ruled out as the best: with probability .95 the best of K methods is ruled out by none of the
    other K - 1 (multiple comparisons with the best: Hsu, 1984; here by Bonferroni)."""
    contrast = table.contrast(labels, best.name, cell.name)
    rivals = len(table.with_labels(labels)) - 1
    return contrast is not None and rivals * contrast.p_value <= LEVEL


def _unbeaten_constant(table: Table, labels: int) -> Cell | None:
    """The constant answer, where no interval excludes that the method is no better than it."""
    cells = table.with_labels(labels)
    constant = next((cell for cell in cells.values() if cell.method.role is Role.CONSTANT), None)
    if constant is None or any(cell.accuracy.low > constant.accuracy.value for cell in cells.values()):
        return None
    contrasts = (table.contrast(labels, name, constant.name) for name in cells)
    return None if any(one is not None and one.difference.low > 0 for one in contrasts) else constant


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
    return f"{advice}, significantly better than all others" if last.ahead else advice


def _accuracy(cell: Cell, where: str = "") -> str:
    return f"{cell.method.title} ({100 * cell.accuracy.value:.1f} %{where})"


def _cheapest(cells: Mapping[str, Cell], items: int) -> Cell:
    """The most accurate of those that take at most twice the least time, or twice QUICK: the clock tells no smaller
    differences. But a prompt without demonstrations is cheaper than any with."""
    prompted = [cell for cell in cells.values() if cell.method.role is Role.PROMPTED]
    shortest = min((cell.shots for cell in prompted), default=0)
    left = [cell for cell in cells.values() if shortest > 0 or cell not in prompted or cell.shots == 0]
    longest = 2 * max(QUICK, min(_seconds(cell, items) for cell in left))
    return max((cell for cell in left if _seconds(cell, items) <= longest), key=lambda cell: cell.value)


def _seconds(cell: Cell, items: int) -> float:
    """What a row of the cell costs: adapting, and answering the test items."""
    return cell.seconds_to_adapt + cell.milliseconds_per_text * items / 1000


def _grounds(table: Table) -> str:
    seeds = max(len(cell.seeds) for cell in table.cells)
    return (
        f"On {len(table.setting.items):,} test items ({seeds} seed{'s' * (seeds > 1)},"
        f" {len(table.contrasts)} comparison{'s' * (len(table.contrasts) != 1)})"
        + ("" if table.setting.measure == "accuracy" else f", by {table.setting.measure_title}")
    )


def _verdict(table: Table, largest: int) -> str:
    """Whether anything beats the baselines; where it does, from where on finetuning stays ahead of prompting."""
    strongest = {labels: cell for labels in table.sizes if (cell := table.strongest_baseline(labels)) is not None}
    if strongest:
        ahead = [labels for labels, cell in strongest.items() if _beaten(table, labels, cell)]
        where = f"With more than {ahead[-1]:,} labels no" if ahead else "No"
        titles = {cell.method.title for labels, cell in strongest.items() if not ahead or labels > ahead[-1]}
        if not ahead or ahead[-1] < largest:
            baseline = titles.pop() if len(titles) == 1 else "the strongest baseline"
            return f"{where} method that uses the model is significantly better than {baseline}."
    return _switch_in_words(table)


def _beaten(table: Table, labels: int, baseline: Cell) -> bool:
    """Whether a way to adapt the model is significantly better than the strongest baseline at N; than the constant
    answer, whether the interval of one excludes that it is not."""
    adapted = [cell for cell in table.with_labels(labels).values() if not cell.method.role.is_baseline]
    contrasts = (table.contrast(labels, cell.name, baseline.name) for cell in adapted)
    if any(one is not None and one.significant and one.difference.value > 0 for one in contrasts):
        return True
    return bool(adapted) and baseline.method.role is Role.CONSTANT and _unbeaten_constant(table, labels) is None


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
