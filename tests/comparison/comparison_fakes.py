"""Methods whose predictors are right as often as they are told to be, and a task of made-up rows."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import numpy as np

from chainrule.comparison.comparison import Comparison
from chainrule.comparison.grid import Bounds
from chainrule.comparison.methods import METHODS
from chainrule.comparison.methods.method import ALL_KINDS, Method
from chainrule.comparison.run import run
from chainrule.comparison.study import MOST_SHOTS
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.prompt import Prompt

SKILLS = {  # log2(N) -> how often it is right
    "majority": lambda doublings: 0.5,
    "bag-of-words": lambda doublings: 0.5 + 0.025 * doublings,
    "random-weights": lambda doublings: 0.5 + 0.01 * doublings,
    "zero-shot": lambda doublings: 0.66,
    "in-context": lambda doublings: 0.68 + 0.01 * doublings,
    "in-context-nearest": lambda doublings: 0.66 + 0.012 * doublings,
    "head": lambda doublings: 0.53 + 0.04 * doublings,
    "full": lambda doublings: 0.48 + 0.05 * doublings,
}


def made_task(tests: int = 120, trains: int = 64, hostile: bool = False, kind: str = "classification") -> Task:
    def examples(count: int, name: str) -> Examples:
        extra = "<script>alert('&')</script> {text} \u2028 " if hostile else ""
        rows = [{"text": f"{extra}{name} {number}"} for number in range(count)]
        return Examples(rows, [("bad", "good")[number % 2] for number in range(count)], [f"{name}:1"] * count)

    labels = ("bad", "good") if kind == "classification" else ()
    return Task(kind, ("text",), "label", examples(trains, "train"), examples(tests, "test"), labels,
                Prompt("{text}: {label}"))  # fmt: skip


class Fake:
    """Right about a share of the rows, which ones and how sure drawn from its name alone."""

    labels = ("bad", "good")

    def __init__(self, task: Task, method: str, labels: int, seed: int, share: float, shots: int) -> None:
        self.truth = {row["text"]: label for row, label in zip(task.test.rows, task.test.labels, strict=True)}
        self.shots, self.notes = shots, ["a note"] if method == "full" else []
        self.method, self.key, self.share = method, f"{method} {labels} {seed}", share

    def predict_proba(self, rows: Iterable[dict[str, str]]) -> np.ndarray:
        found = []
        for row in rows:
            drawn = int.from_bytes(hashlib.sha256(f"{row['text']}".encode()).digest()[:4], "big")
            of_key = int.from_bytes(hashlib.sha256(f"{self.key} {row['text']}".encode()).digest()[:4], "big")
            hardness = (0.6 * drawn + 0.4 * of_key) / 2**32  # methods fail on the same rows, more or less
            sure = 0.5 + abs(self.share - hardness) / 2 if self.method != "majority" else 0.5
            good = self.truth[row["text"]] == "good"
            right = hardness < self.share if self.method != "majority" else not good
            p = sure if right == good else 1 - sure
            found.append([1 - p, p])
        return np.array(found)

    def predict(self, rows: Iterable[dict[str, str]]) -> list[str]:
        return [self.labels[place] for place in self.predict_proba(rows).argmax(1)]


class Fakes:
    """A study of which the made-up methods make their predictors; after `stop_after` of them it is interrupted."""

    model = "a fake"

    def __init__(self, task: Task, stop_after: int = 10**9, skills: dict[str, Callable[[float], float]] = SKILLS):
        self.task, self.left, self.skills = task, stop_after, skills
        self.made: list[Any] = []
        self.identity = {"model": "fake"}
        self.obstacles: dict[str, str] = {}
        self.most_shots = MOST_SHOTS

    def shots(self, labels: int) -> int:
        return min(labels, self.most_shots)

    def fit(self, name: str, labels: int, seed: int) -> Fake:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.made.append((name, labels, seed))
        share = self.skills.get(name, SKILLS["majority"])(np.log2(max(labels, 1)) + 0.2 * seed)
        shots = self.shots(labels) if name.startswith("in-context") else 0
        return Fake(self.task, name, labels, seed, min(share, 0.93), shots)


def fake_method(method: Method) -> Method:
    """The method as it is in the plan, the table and the report, without its model."""
    name, cost = method.name, 0.001 * (1 + METHODS.index(method))
    return replace(
        method,
        kinds=ALL_KINDS,
        obstacle=lambda fakes: cast(Any, fakes).obstacles.get(name),
        seconds=lambda study, labels, tests: cost * (1 + labels),
        fit=lambda fakes, labels, seed: cast(Any, fakes).fit(name, labels, seed),
        notes=lambda study, predictor, rows: list(predictor.notes),
        shares_features=False,
        megabytes=lambda study: cost,
    )


FAKE_METHODS = tuple(map(fake_method, METHODS))


def run_fakes(fakes: Fakes, bounds: Bounds = Bounds(), **options) -> Comparison:
    return run(fakes, bounds, FAKE_METHODS, **options)
