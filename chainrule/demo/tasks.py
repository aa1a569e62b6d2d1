"""Tasks of the made-up world as files: labelled rows and task files, as a user would write them. Knows no model."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chainrule.demo.animals import Animal
from chainrule.demo.puzzles import MEANINGS, Pair
from chainrule.demo.reviews import ADJECTIVES, review_items
from chainrule.demo.world import World
from chainrule.storage.files import write_text
from chainrule.tasks.examples import Row, Task
from chainrule.tasks.prompt import Prompt
from chainrule.tasks.task_file import Settings, task_file

TRAIN_REVIEWS, TEST_REVIEWS, SUMS = 256, 200, 40
_COLOUR = "Q: What colour is the {animal}?\nA:"
_REVIEW = Prompt("{review} There was a {label}", "\n", {"positive": "splendid", "negative": "terrible"})
Labelled = tuple[str, str]  # a text and its label


@dataclass(frozen=True)
class WorldTask:
    """A task of the world, and its ceiling: the accuracy of an observer who knows the world."""

    task: Task
    ceiling: float


def write_tasks(world: World, folder: Path) -> dict[str, WorldTask]:
    """Write each task's rows and its .toml into `folder`; name -> the task.

    colours: train has animals that are in questions of the corpus, test has animals that are in its prose alone.
    polarity: of reviews, which the corpus never names; no review of the corpus or of train has the two adjectives of a
    test review. addition: the notes' puzzle, with free answers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    animals = world.animals
    known = {animal.name: animal for group in ("asked", "test") for animal in animals[group]}
    colours = _task(
        folder / "colours.toml",
        [_coloured(animal) for animal in animals["asked"]],
        [_coloured(animal) for animal in animals["test"]],
        ("animal", "colour"),
        prompt=Prompt(f"{_COLOUR} {{label}}", "\n"),
        input=_COLOUR,
        truth=lambda row: known[row["animal"]].facts["colour"],
    )
    reviews = _task(
        folder / "polarity.toml",
        _reviews(world, TRAIN_REVIEWS, reserved=False),
        _reviews(world, TEST_REVIEWS, reserved=True),
        ("review", "polarity"),
        prompt=_REVIEW,
        truth=lambda row: _polarity(row["review"]),
    )
    pairs = random.Random(f"{world.seed}/addition").sample(world.puzzles.seen, 2 * SUMS)
    addition = _task(
        folder / "addition.toml",
        [_sum(pair) for pair in pairs[:SUMS]],
        [_sum(pair) for pair in pairs[SUMS:]],
        ("puzzle", "answer"),
        prompt=Prompt("Q: {puzzle} = ?\nA: {label}", "\n"),
        free=True,
        truth=lambda row: _added(row["puzzle"]),
    )
    return {"colours": colours, "polarity": reviews, "addition": addition}


def _task(
    path: Path,
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    columns: tuple[str, str],
    *,
    prompt: Prompt,
    truth: Callable[[Row], str],
    input: str | None = None,
    free: bool = False,
) -> WorldTask:
    files = {part: path.with_name(f"{path.stem}-{part}.jsonl") for part in ("train", "test")}
    for file, rows in zip(files.values(), (train, test), strict=True):
        write_text(file, "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    text, label = columns
    settings = Settings(
        files["train"], (text,), label, test=files["test"], kind="free" if free else "classification",
        prompt=prompt, input=input,
    )  # fmt: skip
    write_text(path, task_file(settings, () if free else sorted({label for _, label in train}), path.parent))
    task = Task.load(path)
    right = [truth(row) == wanted for row, wanted in zip(task.test.rows, task.test.labels, strict=True)]
    return WorldTask(task, sum(right) / len(right))


def _coloured(animal: Animal) -> Labelled:
    return animal.name, animal.facts["colour"]


def _reviews(world: World, count: int, *, reserved: bool) -> list[Labelled]:
    items = review_items(world.reviews, count, reserved=reserved, seed=world.seed)
    return [(item.prompt.strip(), item.answer) for item in items]


def _polarity(review: str) -> str:
    words = review.replace(".", " ").split()
    (found,) = {polarity for polarity, adjectives in ADJECTIVES.items() if not set(words).isdisjoint(adjectives)}
    return found


def _sum(pair: Pair) -> Labelled:
    a, b = pair
    return f"{a} ~ {b}", str(MEANINGS["a + b"](a, b))


def _added(puzzle: str) -> str:
    a, b = map(int, puzzle.split(" ~ "))
    return str(a + b)
