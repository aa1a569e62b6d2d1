"""What a table says, in a sentence or two computed from it. Knows the table alone.

At each N there are the methods that cannot be told from the best, and the cheapest of these is what to take, as long as
it is not far behind: few seeds tell little apart, and what cannot be told from the best need not be as good.
"""

from collections.abc import Mapping
from typing import NamedTuple

from chainrule.comparison.cells import Cell
from chainrule.comparison.grid import FINETUNED, PROMPTED
from chainrule.comparison.table import Comparison, Switch
from chainrule.uncertainty import SwitchPoint

NAMES = {
    "zero-shot": "zero-shot",
    "in-context": "in-context",
    "in-context-nearest": "in-context with the nearest examples",
    "head": "the linear head",
    "full": "full finetuning",
    "majority": "always answering the most frequent label",
    "bag-of-words": "the bag of words",
    "random-weights": "the same network from random weights",
}
NEAR = 0.05  # of accuracy: what is further behind the best is not taken in its place, told apart or not


class Choice(NamedTuple):
    """What to take at N labels."""

    labels: int
    best: Cell
    equals: dict[str, Cell]  # by method: cannot be told from the best, which is among them

    @property
    def nothing_learned(self) -> bool:
        """Whether always answering the most frequent label cannot be told from the best."""
        return "majority" in self.equals

    @property
    def near(self) -> dict[str, Cell]:
        """Those of the equals that are not far behind."""
        least = self.best.accuracy.value - NEAR
        return {method: cell for method, cell in self.equals.items() if cell.accuracy.value >= least}

    def cheapest(self, items: int) -> Cell:
        """The one of those that adapts and answers the test items in the least time."""
        return _cheapest(self.near, items)


def choices(comparison: Comparison) -> list[Choice]:
    """One at each N with more than one method."""
    found = []
    for labels in comparison.sizes:
        cells = comparison.at(labels)
        if len(cells) > 1:
            best = max(cells.values(), key=lambda cell: cell.accuracy.value)
            equals = {
                method: cell
                for method, cell in cells.items()
                if cell is best or not _told_apart(comparison, labels, best, cell)
            }
            found.append(Choice(labels, best, equals))
    return found


def advise(comparison: Comparison) -> str:
    """What to take with few and with many labels, then what the model is worth beside the bag of words.

    Neighbouring N that have methods in common which cannot be told from the best, and are near it, get one answer: the
    cheapest of these.
    """
    found = choices(comparison)
    if not found:
        return "There is nothing to compare yet: one method alone was measured."
    items = len(comparison.setting.items)
    taken = "; ".join(_span_in_words(span, items) for span in _spans(found))
    verdict = _verdict(comparison, found[-1].labels)
    return f"{_grounds(comparison)}: {taken}.{' ' if verdict else ''}{verdict}"


def _spans(found: list[Choice]) -> list[list[Choice]]:
    """As few as can be, from the smallest N on."""
    spans: list[list[Choice]] = []
    for choice in found:
        last = spans[-1] if spans else []
        if last and last[0].nothing_learned == choice.nothing_learned and _in_common([*last, choice]):
            last.append(choice)
        else:
            spans.append([choice])
    return spans


def _in_common(span: list[Choice]) -> list[str]:
    """The methods that nowhere in the span can be told from the best, nor are far behind it."""
    return [method for method in span[-1].near if all(method in choice.near for choice in span)]


def _span_in_words(span: list[Choice], items: int) -> str:
    last = span[-1]
    low, high = span[0].labels, last.labels
    labels = f"with {high:,} labels" if low == high else f"with {low:,} to {high:,} labels"
    at = "" if low == high else f" at {high:,}"
    if last.nothing_learned:
        reached = _percent(last.equals["majority"].accuracy.value)
        return f"{labels} no method can be told from {NAMES['majority']} ({reached}{at})"
    taken = _cheapest({method: last.equals[method] for method in _in_common(span)}, items)
    told = f"{labels} take {NAMES[taken.method]} ({_percent(taken.accuracy.value)}{at})"
    if taken is not last.best:
        best = f"{NAMES[last.best.method]} ({_percent(last.best.accuracy.value)})"
        return f"{told}, which cannot be told from the best, {best}"
    return told if len(last.equals) > 1 else f"{told}, which is ahead of all others"


def _cheapest(cells: Mapping[str, Cell], items: int) -> Cell:
    """By the clock; but zero-shot reads less than any prompt with demonstrations, whatever a short measurement says."""
    asked = "zero-shot" in cells
    left = [cell for method, cell in cells.items() if not (asked and method in PROMPTED and method != "zero-shot")]
    return min(left, key=lambda cell: _seconds(cell, items))


def _seconds(cell: Cell, items: int) -> float:
    """What a row of the cell costs: adapting, and answering the test items."""
    return cell.seconds_to_adapt + cell.milliseconds_per_text * items / 1000


def _told_apart(comparison: Comparison, labels: int, one: Cell, other: Cell) -> bool:
    contrast = comparison.contrast(labels, one.method, other.method)
    return contrast is not None and contrast.told_apart


def _grounds(comparison: Comparison) -> str:
    seeds = max(len(cell.seeds) for cell in comparison.cells)
    return (
        f"On {len(comparison.setting.items):,} test items ({seeds} seed{'s' * (seeds > 1)},"
        f" {len(comparison.contrasts)} comparisons)"
    )


def _verdict(comparison: Comparison, largest: int) -> str:
    """Whether anything beats the baseline; where it does, from where on finetuning stays ahead of prompting."""
    measured = {cell.method for cell in comparison.cells}
    baseline = next((method for method in ("bag-of-words", "majority") if method in measured), None)
    if baseline is not None:
        ahead = [labels for labels in comparison.sizes if _beaten(comparison, labels, baseline)]
        if not ahead:
            return f"Nothing beats {NAMES[baseline]} here, as far as this can tell."
        if ahead[-1] < largest:
            return f"Nothing beats {NAMES[baseline]} with more than {ahead[-1]:,} labels, as far as this can tell."
    return _switch_in_words(comparison)


def _beaten(comparison: Comparison, labels: int, baseline: str) -> bool:
    """Whether a way to adapt the model is told apart from the baseline at N, and better."""
    contrasts = (comparison.contrast(labels, method, baseline) for method in (*PROMPTED, *FINETUNED))
    return any(one is not None and one.told_apart and one.difference.value > 0 for one in contrasts)


def _switch_in_words(comparison: Comparison) -> str:
    """From the best prompted method to the best finetuned one; best by the mean over their common N."""
    pairs = [one for one in comparison.switches if one.a in PROMPTED and one.b in FINETUNED]
    if not pairs:
        return ""
    chosen = max(pairs, key=lambda one: (_mean(comparison, one, one.a) + _mean(comparison, one, one.b), one.a, one.b))
    a, b = NAMES[chosen.a], NAMES[chosen.b]
    if chosen.point.at is None:
        return f"{_capital(b)} does not get ahead of {a} with up to {chosen.sizes[-1]:,} labels."
    return f"{_capital(b)} stays ahead of {a} from {chosen.point.at:,} labels on{bracket(chosen.point)}."


def bracket(point: SwitchPoint) -> str:
    """How sure the switch point is, in words; nothing where all resamples agree on the size."""
    if point.low == point.high:
        return ""
    if point.low is None or point.high is None:
        return f" (95 %: from {point.low:,} on, or never)" if point.low is not None else " (or never)"
    return f" (95 %: between {point.low:,} and {point.high:,})"


def _mean(comparison: Comparison, switch: Switch, method: str) -> float:
    values = [comparison.at(size)[method].accuracy.value for size in switch.sizes]
    return sum(values) / len(values)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
