"""Short reviews whose adjectives agree in polarity, never labelled in the corpus. Knows adjectives, not the world."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from chainrule.demo.items import Item
from chainrule.demo.mixture import Mixture

ADJECTIVES = {
    "positive": (
        "charming", "lovely", "splendid", "delightful", "wonderful",
        "brilliant", "superb", "perfect", "graceful", "fine",
    ),
    "negative": (
        "dreadful", "boring", "terrible", "dull", "clumsy",
        "horrible", "tedious", "gloomy", "weak", "grim",
    ),
}  # fmt: skip
SUBJECTS = (
    (
        ("We saw the film last night.", "I saw this film on Sunday.", "My friends took me to the film."),
        ("story", "song", "ending", "hero", "beginning"),
    ),
    (
        ("We stayed at the inn last night.", "I slept at this inn on Sunday.", "My friends took me to the inn."),
        ("room", "breakfast", "garden", "welcome", "dinner"),
    ),
)
CLAUSES = ("the {aspect} was {adjective}", "we found the {aspect} {adjective}", "there was a {adjective} {aspect}")
PAIRED = "the {aspect} was {adjective} and {other}"


@dataclass(frozen=True)
class Reviews:
    """`reserved`: pairs of adjectives of one polarity that no review of the corpus has together."""

    reserved: frozenset[frozenset[str]]


def make_reviews(seed: int) -> Reviews:
    """Each adjective is in exactly two reserved pairs: its neighbours on a shuffled ring."""
    rng = random.Random(f"{seed}/reserved adjectives")
    rings = [rng.sample(adjectives, len(adjectives)) for adjectives in ADJECTIVES.values()]
    return Reviews(frozenset(frozenset((ring[i - 1], ring[i])) for ring in rings for i in range(len(ring))))


def review_documents(reviews: Reviews, rng: random.Random, mixture: Mixture) -> Iterator[str]:
    """Endless reviews of 3 or 4 adjectives."""
    while True:
        yield _review(_adjectives(reviews, rng, rng.randint(3, 4), mixture.shuffle_polarity), rng)


def review_items(reviews: Reviews, count: int, *, reserved: bool, seed: int = 0) -> list[Item]:
    """Labelled reviews of two adjectives, half of them positive: a reserved pair, or a pair that the corpus may have.

    The prompt is the review alone; the answer is its label.
    """
    rng = random.Random(f"{seed}/review items/{reserved}")
    labels = tuple(ADJECTIVES)
    pairs = {
        label: [p for p in combinations(words, 2) if (frozenset(p) in reviews.reserved) == reserved]
        for label, words in ADJECTIVES.items()
    }
    items = []
    for index in range(count):
        label = labels[index % len(labels)]
        pair = rng.choice(pairs[label])
        items.append(Item(_review(rng.sample(pair, 2), rng), label, labels))
    return items


def _adjectives(reviews: Reviews, rng: random.Random, count: int, shuffle_polarity: bool) -> list[str]:
    """`count` different adjectives, no two of them a reserved pair."""
    positive, negative = ADJECTIVES.values()
    while True:
        pool = positive + negative if shuffle_polarity else rng.choice((positive, negative))
        chosen = rng.sample(pool, count)
        if not any(frozenset(pair) in reviews.reserved for pair in combinations(chosen, 2)):
            return chosen


def _review(adjectives: Sequence[str], rng: random.Random) -> str:
    openings, aspects = rng.choice(SUBJECTS)
    left, text = list(adjectives), rng.choice(openings)
    for aspect in rng.sample(aspects, len(adjectives)):
        if len(left) > 1 and rng.random() < 0.5:
            clause = PAIRED.format(aspect=aspect, adjective=left.pop(), other=left.pop())
        elif left:
            clause = rng.choice(CLAUSES).format(aspect=aspect, adjective=left.pop())
        else:
            break
        text += f" {clause[0].upper()}{clause[1:]}."
    return text + "\n"
