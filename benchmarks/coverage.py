"""Simulated coverage of the 95 % intervals of chainrule.uncertainty, and error rates of its tests: docs/statistics.md.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py
    OMP_NUM_THREADS=1 python benchmarks/coverage.py --only family power --minutes 5 --cells cells.jsonl

The cells of whole comparisons (compared, family, power) take minutes. Each has random numbers of its own, and is kept
in --cells when it is done: the same command goes on where --minutes ended it, and gives the same tables.

The simulated world is logistic. Item i is answered rightly by method k at seed s with probability
1 / (1 + exp(-(c + easy_i + own_ki + seed_ks))): easy ~ N(0, 1.75) is the item's difficulty, the same for every method;
own ~ N(0, 1) what suits this method; seed ~ N(0, sigma) what a draw of labels does, sigma in SEED_EFFECTS, which at an
accuracy of .7 is about 1, 4, 7 and 12 points from seed to seed. c is solved so that the expected accuracy is p.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import dataclasses
import itertools
import json
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, stdtrit

from benchmarks import simulated
from benchmarks.simulated import FALLING, NOISY_BASELINE, NOISY_LAST, NOISY_ONCE, centre
from chainrule.storage.files import write_text
from chainrule.uncertainty import accuracy, calibration, difference, macro_f1, switch_point, wilson

SEEDS, ITEMS, ACCURACIES, SEED_EFFECTS = (3, 5, 10), (100, 200, 872), (0.5, 0.7, 0.95), (0.1, 0.3, 0.6, 1.0)
EASY, OWN = 1.75, 1.0
COMPARED_EFFECTS = (simulated.alike(0.1), simulated.alike(0.6), FALLING, NOISY_LAST, NOISY_ONCE)
COMPARED_COLUMNS = ("all", "noisy method", "noisy once")
FAMILY_EFFECTS = (*map(simulated.alike, (0.1, 0.3, 0.6)), NOISY_LAST, NOISY_BASELINE)
POWER_CELLS = (  # S, M, p of all methods but one, points that it is ahead
    (2, 250, 0.4, 40), (2, 250, 0.5, 40), (3, 250, 0.7, 10), (3, 250, 0.85, 10), (5, 872, 0.7, 5), (5, 872, 0.85, 5),
    (5, 872, 0.7, 10),
)  # fmt: skip
BEHIND = 0.03  # how much less accurate the second method of a difference is
PRIOR = np.array([0.5, 0.3, 0.2])  # of the classes of macro-F1
DOCUMENT = Path(__file__).parent.parent / "docs" / "statistics.md"
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()

Experiment = Callable[[int, int, float, float], bool]  # S, M, p, sigma -> whether the interval covered the truth


class OutOfTimeError(Exception):
    """The minutes are over; what was computed is kept."""


class Cells:
    """Simulated cells by what they are of, kept in a file, from which the same command goes on."""

    def __init__(self, path: Path | None, minutes: float) -> None:
        self.path, self.until = path, time.monotonic() + 60 * minutes
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self.known = {one["cell"]: one["found"] for one in map(json.loads, lines)}

    def __call__(self, block: str, *of: Any, make: Callable[[np.random.Generator], Any]) -> Any:
        """What `make` gives for a cell; `of`: all that it depends on. Raises OutOfTimeError."""
        cell = " ".join(map(str, (block, *of)))
        if cell not in self.known:
            if time.monotonic() > self.until:
                raise OutOfTimeError
            self.known[cell] = make(np.random.default_rng(zlib.crc32(cell.encode())))
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"cell": cell, "found": self.known[cell]}) + "\n")
        return self.known[cell]


class World:
    """A random number generator, and answers of simulated methods drawn from it."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.centres: dict[tuple[float, ...], float] = {}
        self.f1s: dict[tuple[float, float], float] = {}

    def centre(self, p: float, *effects: float) -> float:
        return self.centres.setdefault((p, *effects), centre(p, *effects))

    def easy(self, M: int) -> np.ndarray:
        return self.rng.normal(0, EASY, M)

    def right(self, S: int, easy: np.ndarray, p: float, sigma: float, *more: float) -> np.ndarray:
        """(S, M) right or wrong, of a method with expected accuracy p; `more` are effects already in `easy`."""
        M, c = easy.shape[-1], self.centre(p, EASY, OWN, sigma, *more)
        logit = c + easy + self.rng.normal(0, OWN, M) + self.rng.normal(0, sigma, (S, 1))
        return self.rng.random((S, M)) < expit(logit)

    def labels(self, S: int, M: int, p: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Truth (M,) and predictions (S, M) of three classes; a seed also leans to and from each class by sigma."""
        truth = self.rng.choice(len(PRIOR), size=M, p=PRIOR)
        lean = self.rng.normal(0, sigma, (S, len(PRIOR)))[:, truth]
        right = self.right(S, self.easy(M) + lean, p, sigma, sigma)
        wrong = (truth + self.rng.integers(1, len(PRIOR), (S, M))) % len(PRIOR)
        return truth, np.where(right, truth, wrong)

    def expected_f1(self, p: float, sigma: float) -> float:
        """Macro-F1 on endless items, averaged over many seeds."""
        if (p, sigma) not in self.f1s:
            rng = np.random.default_rng(0)
            logit = self.centre(p, EASY, OWN, sigma, sigma) + rng.normal(0, sigma, (20_000, 1))
            logit = logit + rng.normal(0, sigma, (20_000, len(PRIOR)))
            rights = sum(w * expit(logit + np.hypot(EASY, OWN) * x) for x, w in zip(NODES, WEIGHTS, strict=True))
            both, wrong = PRIOR * rights, PRIOR * (1 - rights)
            claimed = both + (wrong.sum(axis=1, keepdims=True) - wrong) / (len(PRIOR) - 1)
            self.f1s[p, sigma] = float((2 * both / (PRIOR + claimed)).mean())
        return self.f1s[p, sigma]

    def accuracy(self, S: int, M: int, p: float, sigma: float) -> bool:
        return covers(accuracy(self.right(S, self.easy(M), p, sigma))[1:], p)

    def satterthwaite(self, S: int, M: int, p: float, sigma: float) -> bool:
        """A simpler alternative: Student's t with the degrees of freedom of `satterthwaite`, in Wilson's interval."""
        right = self.right(S, self.easy(M), p, sigma)
        error, degrees = satterthwaite(right.astype(float))
        found, quantile = right.mean(), stdtrit(degrees, 0.975)
        if error == 0:
            return covers(wilson(found * M, M), p)
        return (found - p) ** 2 <= quantile**2 * error**2 * p * (1 - p) / (found * (1 - found))

    def pooled(self, S: int, M: int, p: float, sigma: float) -> bool:
        """A wrong interval: Wilson's of S x M answers, as if each were a new item and a new seed."""
        return covers(wilson(float(self.right(S, self.easy(M), p, sigma).sum()), S * M), p)

    def difference(self, S: int, M: int, p: float, sigma: float) -> bool:
        easy = self.easy(M)
        found = difference(self.right(S, easy, p, sigma), self.right(S, easy, p - BEHIND, sigma))
        return covers((found.low, found.high), BEHIND)

    def difference_to_fixed(self, S: int, M: int, p: float, sigma: float) -> bool:
        easy = self.easy(M)
        found = difference(self.right(S, easy, p, sigma), self.right(1, easy, p - BEHIND, 0.0))
        return covers((found.low, found.high), BEHIND)

    def macro_f1(self, S: int, M: int, p: float, sigma: float) -> bool:
        return covers(macro_f1(*self.labels(S, M, p, sigma))[1:], self.expected_f1(p, sigma))

    def bootstrapped_f1(self, S: int, M: int, p: float, sigma: float) -> bool:
        """The usual alternative: the two-way percentile bootstrap, 400 resamples of seeds and items."""
        truth, predictions = self.labels(S, M, p, sigma)
        times = self.rng.multinomial(M, np.full(M, 1 / M), 400).astype(float)  # (R, M)
        found = np.zeros((len(times), S))
        for label in range(len(PRIOR)):
            is_label, predicted = truth == label, predictions == label
            both, claimed, there = times @ (is_label & predicted).T, times @ predicted.T, times @ is_label
            found += 2 * both / np.maximum(claimed + there[:, None], 1) / len(PRIOR)
        means = (found * self.rng.multinomial(S, np.full(S, 1 / S), len(times))).sum(axis=1) / S
        return covers(np.quantile(means, [0.025, 0.975]), self.expected_f1(p, sigma))

    def grouped(self, S: int, M: int, p: float, sigma: float, known: bool = True) -> bool:
        """Items come from M / 5 authors of unequal sizes, each easier or harder by N(0, 1)."""
        authors = self.rng.integers(M // 5, size=M)
        easy = self.easy(M) + self.rng.normal(0, 1, M // 5)[authors]
        groups = [str(author) for author in authors] if known else None
        return covers(accuracy(self.right(S, easy, p, sigma, 1.0), groups)[1:], p)

    def ungrouped(self, S: int, M: int, p: float, sigma: float) -> bool:
        return self.grouped(S, M, p, sigma, known=False)

    def bracket(self, S: int, M: int, p: float, sigma: float) -> bool:
        """The second method is ahead from 64 labels on: by -8, -4, 4 and 8 points at 4, 16, 64 and 256."""
        easy, sizes, leads = self.easy(M), (4, 16, 64, 256), (-0.08, -0.04, 0.04, 0.08)
        first = [self.right(S, easy, p, sigma) for _ in sizes]
        second = [self.right(S, easy, p + lead, sigma) for lead in leads]
        found = switch_point(sizes, first, second, resamples=400)
        return (found.low or np.inf) <= 64 <= (found.high or np.inf)


def satterthwaite(table: np.ndarray) -> tuple[float, float]:
    """Standard error of an (S, M) table's mean, and its degrees of freedom (1946)."""
    S, M = table.shape
    mean, of_seed, of_item = table.mean(), table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    a, b = M * ((of_seed - mean) ** 2).sum() / (S - 1), S * ((of_item - mean) ** 2).sum() / (M - 1)
    e = ((table - of_seed - of_item + mean) ** 2).sum() / ((S - 1) * (M - 1))
    spread = a**2 / (S - 1) + b**2 / (M - 1) + e**2 / ((S - 1) * (M - 1))
    degrees = (a + b - e) ** 2 / spread if spread > 0 else 0.0
    return float(max(a, b, a + b - e) / (S * M)) ** 0.5, max(degrees, min(S, M) - 1)


def covers(interval: Iterator[float], truth: float) -> bool:
    low, high = interval
    return bool(low <= truth <= high)


def share(experiment: Experiment, replicates: int, *cell: float) -> float:
    """Of the replicates, in percent."""
    return 100 * sum(experiment(*cell) for _ in range(replicates)) / replicates


def table(header: list[str], rows: list[list[str]], *below: str) -> str:
    """Markdown, and sentences below it."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join([*lines, "", " ".join(below)])


def coverage_table(experiment: Experiment, replicates: int) -> str:
    """A row for each S and M, a column for each p: the mean over the seed effects, and the lowest of them."""
    rows, cells = [], []
    for S, M in itertools.product(SEEDS, ITEMS):
        found = [[share(experiment, replicates, S, M, p, sigma) for sigma in SEED_EFFECTS] for p in ACCURACIES]
        rows.append([str(S), str(M), *(f"{np.mean(some):.1f} ({min(some):.1f})" for some in found)])
        cells += found
    means = zip(SEED_EFFECTS, np.mean(cells, axis=0), strict=True)
    return table(
        ["S", "M", *(f"p = {p}" for p in ACCURACIES)],
        rows,
        f"Mean {np.mean(cells):.1f} %, lowest cell {np.min(cells):.1f} %;",
        "by seed effect " + ", ".join(f"{mean:.1f} % at {sigma}" for sigma, mean in means) + ".",
        f"{replicates} experiments a cell and seed effect.",
    )


def fixed_table(world: World, replicates: int) -> str:
    """S = 1: the predictor is given, so only the items are drawn."""
    experiments = (world.accuracy, world.difference, world.macro_f1)
    rows, cells = [], []
    for M, p in itertools.product(ITEMS, ACCURACIES):
        found = [share(experiment, replicates, 1, M, p, 0.0) for experiment in experiments]
        rows.append([str(M), str(p), *(f"{value:.1f}" for value in found)])
        cells.append(found)
    rows.append(["mean", "", *(f"{value:.1f}" for value in np.mean(cells, axis=0))])
    return table(["M", "p", "accuracy", "difference", "macro-F1"], rows, f"{replicates} experiments a cell.")


def beside_table(experiments: dict[str, Experiment], M: int, replicates: int) -> str:
    """Several methods in the same cells, with p = .7."""
    rows = []
    for S, sigma in itertools.product(SEEDS, SEED_EFFECTS):
        found = [share(experiment, replicates, S, M, 0.7, sigma) for experiment in experiments.values()]
        rows.append([str(S), str(sigma), *(f"{value:.1f}" for value in found)])
    return table(["S", "seed effect", *experiments], rows, f"M = {M}, p = .7; {replicates} experiments a cell.")


def compared_table(cells: Cells, replicates: int) -> str:
    """Coverage in comparisons: for each S and M the mean over p and effects, of all methods and of the noisy one."""
    rows, means, lows = [], [], []
    varying = [k for k in range(simulated.METHODS) if k != simulated.FIXED]
    for S, M in itertools.product((2, *SEEDS), ITEMS):
        found = {
            (p, effects): np.array(
                cells(
                    "compared",
                    S,
                    M,
                    p,
                    effects.name,
                    replicates,
                    make=lambda rng: np.array(simulated.coverage(rng, S, M, p, effects, replicates)).tolist(),  # noqa: B023
                ),
                float,
            )  # (2, K, L)
            for p, effects in itertools.product(ACCURACIES, COMPARED_EFFECTS)
        }
        row = [str(S), str(M)]
        for side in (0, 1):
            of_methods = {key: np.nanmean(both[side][varying]) for key, both in found.items()}
            noisy = [both[side][simulated.LAST].mean() for (_, one), both in found.items() if one is NOISY_LAST]
            once = [both[side][simulated.LAST, 0] for (_, one), both in found.items() if one is NOISY_ONCE]
            row += [f"{np.mean(list(of_methods.values())):.1f} ({min(of_methods.values()):.1f})"]
            row += [f"{np.mean(some):.1f} ({min(some):.1f})" for some in (noisy, once)]
            means += of_methods.values()
            lows += noisy
        rows.append(row)
    header = ["S", "M", *(f"{what}: {which}" for what in ("accuracy", "difference") for which in COMPARED_COLUMNS)]
    return table(
        header,
        rows,
        f"Mean {np.mean(means):.1f} %, lowest cell {np.min(means):.1f} %; of the noisy method {np.mean(lows):.1f} %,",
        f"lowest {np.min(lows):.1f} %. {replicates} experiments for each p and effect, of three numbers of labels.",
    )


def family_table(cells: Cells, replicates: int) -> str:
    def error(S: int, M: int, effects: simulated.Effects) -> float:
        make = lambda rng: simulated.family_error(rng, S, M, 0.7, effects, replicates)  # noqa: E731
        return float(cells("family", S, M, effects.name, replicates, make=make))

    rows = []
    for M in ITEMS:
        rows.append(["1", str(M), f"{error(1, M, simulated.alike(0.0)):.1f}", *[""] * (len(FAMILY_EFFECTS) - 1)])
    for S, M in itertools.product((2, 3, 5), ITEMS):
        errors = [error(S, M, effects) for effects in FAMILY_EFFECTS]
        rows.append([str(S), str(M), *(f"{error:.1f}" for error in errors)])
    here = [float(cell) for row in rows for cell in row[2:] if cell]
    return table(
        ["S", "M", *(effects.name for effects in FAMILY_EFFECTS)],
        rows,
        f"Mean {np.mean(here):.1f} %, highest cell {max(here):.1f} %; {replicates} experiments a cell.",
        "With one seed there is no effect of seeds.",
    )


def power_table(cells: Cells, replicates: int) -> str:
    rows = []
    for S, M, p, points in POWER_CELLS:
        for effect in (0.1, 0.3, 0.6):
            figures = cells(
                "power", S, M, p, points, effect, replicates,
                make=lambda rng: dataclasses.astuple(
                    simulated.power(rng, S, M, p, points / 100, simulated.alike(effect), replicates)  # noqa: B023
                ),
            )  # fmt: skip
            rows.append([str(points), str(S), str(M), str(p), str(effect), *(f"{figure:.0f}" for figure in figures)])
    header = [
        "points",
        "S",
        "M",
        "p",
        "seed effect",
        "found",
        "were variances known",
        "own seeds, all pairs",
        "than all",
    ]
    return table(header, rows, f"{replicates} experiments a row, of three numbers of labels.")


def calibration_table(world: World, replicates: int) -> str:
    rows = []
    for M in ITEMS:
        eces, expected, bars = [], [], []
        for seed in range(replicates):
            p = expit(world.rng.normal(0, 1.5, M))
            found = calibration(np.stack([1 - p, p], axis=1), (world.rng.random(M) < p).astype(int), seed)
            eces.append(found.ece)
            expected.append(found.ece_expected)
            bars += [bar.low <= bar.confidence <= bar.high for bar in found.bins]
        rows.append([str(M), f"{np.mean(eces):.4f}", f"{np.mean(expected):.4f}", f"{100 * np.mean(bars):.1f}"])
    return table(["M", "mean ECE", "mean of `ece_expected`", "coverage of bars"], rows, f"{replicates} experiments.")


def blocks(replicates: int, cells: Cells) -> dict[str, Callable[[], str]]:
    """What writes each block of the document, by its name; slower ones have fewer experiments a cell."""
    half, few = replicates // 2, replicates // 4

    def beside(world: World) -> dict[str, Experiment]:
        return {"this interval": world.accuracy, "Satterthwaite": world.satterthwaite, "pooled": world.pooled}

    def f1(world: World) -> dict[str, Experiment]:
        return {"this interval": world.macro_f1, "bootstrap": world.bootstrapped_f1}

    def groups(world: World) -> dict[str, Experiment]:
        return {"groups known": world.grouped, "unknown": world.ungrouped}

    return {
        "fixed": lambda: fixed_table(World(0), replicates),
        "accuracy": lambda: coverage_table(World(0).accuracy, replicates),
        "beside": lambda: beside_table(beside(World(0)), 200, few),
        "beside-872": lambda: beside_table(beside(World(0)), 872, few),
        "groups": lambda: beside_table(groups(World(0)), 200, few),
        "macro-f1": lambda: coverage_table(World(0).macro_f1, half),
        "bootstrap": lambda: beside_table(f1(World(0)), 200, few),
        "difference": lambda: coverage_table(World(0).difference, replicates),
        "fixed-difference": lambda: coverage_table(World(0).difference_to_fixed, half),
        "compared": lambda: compared_table(cells, replicates // 40),
        "family": lambda: family_table(cells, replicates // 8),
        "power": lambda: power_table(cells, replicates // 20),
        "bracket": lambda: (
            f"The interval covered 64 in {share(World(0).bracket, few, 5, 200, 0.7, 0.3):.1f} % of {few} experiments."
        ),
        "calibration": lambda: calibration_table(World(0), few),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000, help="experiments a cell")
    parser.add_argument("--out", type=Path, default=DOCUMENT, help="where the document with its new blocks is written")
    parser.add_argument("--only", nargs="*", metavar="BLOCK", help="write these blocks alone")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no cell is begun after so many")
    parser.add_argument("--cells", type=Path, help="where cells of whole comparisons are kept")
    options = parser.parse_args()
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, make in blocks(options.replicates, Cells(options.cells, options.minutes)).items():
        if options.only is not None and name not in options.only:
            continue
        try:
            block = make()
        except OutOfTimeError:
            print(f"{name}: cells are left; the same command goes on", flush=True)
            continue
        print(f"\n{name}\n\n{block}", flush=True)
        begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
        before, rest = text.split(begin)
        text = before + begin + block + end + rest.split(end)[1]
    write_text(options.out, text)


if __name__ == "__main__":
    main()
