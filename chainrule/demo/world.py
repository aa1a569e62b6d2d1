"""The generated world of the demo, and the corpus about it, both drawn from a seed. Knows no model."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from chainrule.demo.animals import Animal, make_animals, prose_documents, question_documents
from chainrule.demo.mixture import DEFAULT_MIXTURE, Mixture
from chainrule.demo.puzzles import Puzzles, make_puzzles, puzzle_documents
from chainrule.demo.reviews import Reviews, make_reviews, review_documents


@dataclass(frozen=True)
class World:
    """`animals`: group -> its animals. The corpus has questions about "asked" alone; "validation" and "test" are in its
    prose; "unmentioned" are nowhere in it, and serve to measure chance."""

    seed: int
    animals: dict[str, tuple[Animal, ...]]
    puzzles: Puzzles
    reviews: Reviews


def make_world(seed: int = 0) -> World:
    return World(seed, make_animals(seed), make_puzzles(seed), make_reviews(seed))


def documents(world: World, characters: float = math.inf, mixture: Mixture = DEFAULT_MIXTURE) -> Iterator[str]:
    """The corpus, document by document, each ending with a newline, until `characters` are reached.

    Each kind has its own random numbers; the next document is always of the kind most behind its share.
    """

    def numbers(kind: str) -> random.Random:
        return random.Random(f"{world.seed}/{kind}")

    asked = world.animals["asked"]
    mentioned = asked + world.animals["validation"] + world.animals["test"]
    kinds = {
        "prose": prose_documents(mentioned, numbers("prose"), mixture),
        "questions": question_documents(asked, numbers("questions"), mixture),
        "puzzles": puzzle_documents(world.puzzles, numbers("puzzles"), mixture),
        "reviews": review_documents(world.reviews, numbers("reviews"), mixture),
    }
    shares = {kind: getattr(mixture, kind) for kind in kinds if getattr(mixture, kind) > 0}
    written = dict.fromkeys(shares, 0)
    while sum(written.values()) < characters:
        kind = min(written, key=lambda kind: written[kind] / shares[kind])
        document = next(kinds[kind])
        written[kind] += len(document)
        yield document
