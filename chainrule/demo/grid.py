"""The tasks of the world under every adaptation, by `compare`. Knows tasks, not how the model was pretrained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainrule.comparison.comparison import Comparison
from chainrule.comparison.run import compare
from chainrule.demo.ask import Figure
from chainrule.demo.tasks import WorldTask
from chainrule.language_model import LanguageModel
from chainrule.terminal import progress_bar

METHODS = ("zero-shot", "in-context", "head", "full", "bag-of-words", "random-weights")
CONTROL_METHODS = ("zero-shot", "head", "full")  # those that pretraining helps
SIZES = {"colours": (16,), "polarity": (4, 16, 64)}  # labels


@dataclass(frozen=True)
class Entry:
    """A cell of the grid: a task under an adaptation."""

    task: str
    adaptation: str
    labels: int
    figure: Figure

    def as_json(self) -> dict[str, Any]:
        return {"task": self.task, "adaptation": self.adaptation, "labels": self.labels, **vars(self.figure)}


def compare_tasks(
    language_model: LanguageModel,
    tasks: Mapping[str, WorldTask],
    out: Path,
    *,
    seeds: int,
    methods: Sequence[str] = METHODS,
    sizes: Mapping[str, Sequence[int]] = SIZES,
) -> list[Entry]:
    """The cells of the tasks that have classes; each task's report is in `out`/<its name>, and is
    continued."""
    entries = []
    for name, few in sizes.items():
        with progress_bar(1.0, f"comparing on {name}", sparing=True) as bar:

            def show(comparison: Comparison, bar: Any = bar) -> None:
                done, left = len(comparison.table.outcomes), len(comparison.table.left)
                bar(done / (done + left), f"rows left: {left}")

            comparison = compare(
                language_model, tasks[name].task, out=out / name, methods=methods, sizes=few, seeds=seeds, show=show
            )
        entries += _entries(name, comparison, tasks[name].ceiling)
    return entries


def _entries(name: str, comparison: Comparison, ceiling: float) -> list[Entry]:
    setting = comparison.table.setting
    n, chance = len(setting.items), setting.chance
    return [
        Entry(
            name,
            _adaptation(cell.name, cell.shots),
            cell.labels,
            Figure(cell.accuracy.value, n, chance, (cell.accuracy.low, cell.accuracy.high), ceiling),
        )
        for cell in comparison.cells
    ]


def _adaptation(method: str, shots: int) -> str:
    return f"in-context, {shots} shown" if shots else method


def puzzle_entries(curve: Sequence[Figure]) -> list[Entry]:
    """The puzzles' cells: their answers are free, so only prompting can give them."""
    return [Entry("puzzles", _adaptation("zero-shot", shots), shots, figure) for shots, figure in enumerate(curve)]
