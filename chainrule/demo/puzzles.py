"""The notes' puzzles: `Q: 2 ~ 3 = ?`, with a random meaning of the symbol in each document. Knows no other part of
the world."""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from chainrule.demo.items import Item
from chainrule.demo.mixture import Mixture
from chainrule.errors import ChainruleError

MEANINGS: dict[str, Callable[[int, int], int]] = {
    "a + b": lambda a, b: a + b,
    "max(a - b, 0)": lambda a, b: max(a - b, 0),
    "max(a, b)": max,
    "min(a, b)": min,
    "a": lambda a, b: a,
    "b": lambda a, b: b,
}
SYMBOLS = "~@#%&*^$|!"
NUMBERS = range(16)
ANSWERS = tuple(str(answer) for answer in range(2 * NUMBERS[-1] + 1))
NOTES_PAIRS = ((2, 3), (6, 7), (15, 2))
NOTES_PROMPT = "Q: 2 ~ 3 = ?\nA: 5\nQ: 6 ~ 7 = ?\nA: 13\nQ: 15 ~ 2 = ?"
MOST_SHOTS = 8
DISTINGUISHING_PAIR = (9, 4)  # with the notes' first two pairs it gives each meaning other answers

Pair = tuple[int, int]


@dataclass(frozen=True)
class Puzzles:
    """The ordered pairs of numbers that the corpus may have, and the tenth that it never has under any meaning."""

    seen: tuple[Pair, ...]
    unseen: tuple[Pair, ...]


def make_puzzles(seed: int) -> Puzzles:
    """A random tenth of the pairs is unseen, but of each sum at least one pair is seen.

    A sum that the corpus never shows would be no token of its own, and no model could answer with it.
    """
    pairs = [(a, b) for a in NUMBERS for b in NUMBERS]
    hideable = [pair for pair in pairs if pair not in (*NOTES_PAIRS, DISTINGUISHING_PAIR)]
    rng = random.Random(f"{seed}/unseen pairs")
    while True:
        unseen = set(rng.sample(hideable, len(pairs) // 10))
        seen = tuple(pair for pair in pairs if pair not in unseen)
        if len({sum(pair) for pair in seen}) == len(ANSWERS):
            return Puzzles(seen, tuple(sorted(unseen)))


def puzzle_documents(puzzles: Puzzles, rng: random.Random, mixture: Mixture) -> Iterator[str]:
    """Endless documents of different seen pairs, each document with one symbol and one meaning.

    A pair followed by its reverse distinguishes "a" from "max(a, b)" at once.
    """
    seen = set(puzzles.seen)
    while True:
        symbol = rng.choice(SYMBOLS)
        (meaning,) = rng.choices(tuple(MEANINGS.values()), mixture.meanings)
        count = rng.randint(*mixture.puzzle_lengths)
        fresh = iter(rng.sample(puzzles.seen, min(2 * count, len(seen))))
        pairs = [next(fresh)]
        while len(pairs) < count:
            swapped = pairs[-1][::-1]
            if rng.random() < mixture.swapped and swapped in seen and swapped not in pairs:
                pairs.append(swapped)
            else:
                pairs.append(next(pair for pair in fresh if pair not in pairs))
        yield _solved(symbol, pairs, [meaning(a, b) for a, b in pairs])


def puzzle_items(
    puzzles: Puzzles,
    meaning: str,
    shots: int,
    *,
    unseen: bool = False,
    permuted: bool = False,
    count: int = 200,
    seed: int = 0,
) -> list[Item]:
    """Puzzles after `shots` examples of seen pairs; the pair asked about is another one, seen or `unseen`.

    Item i after more shots continues item i after fewer, so that computing the longest computes all.
    `permuted` moves the examples' answers so that each example shows an answer that differs from its own.
    Raises ChainruleError for a permutation of fewer than 2 examples, and for more than MOST_SHOTS.
    """
    if shots > MOST_SHOTS:
        raise ChainruleError(f"puzzles: wanted at most {MOST_SHOTS} shots, got {shots}")
    if permuted and shots < 2:
        raise ChainruleError(f"permuted examples: wanted at least 2 shots, got {shots}; one answer cannot be permuted")
    documents = random.Random(f"{seed}/{meaning}/{permuted and shots}")
    unseen_pairs = random.Random(f"{seed}/unseen/{meaning}/{shots}")
    items: list[Item] = []
    while len(items) < count:
        symbol, pairs = documents.choice(SYMBOLS), documents.sample(puzzles.seen, MOST_SHOTS + 1)
        examples, asked = pairs[:shots], pairs[shots]
        if unseen:
            asked = unseen_pairs.choice(puzzles.unseen)
        answers = [MEANINGS[meaning](a, b) for a, b in examples]
        if permuted:
            if 2 * max(Counter(answers).values()) > shots:
                continue  # one answer is so common that some example would keep it
            answers = _derangement(answers, documents)
        items.append(_asked(symbol, examples, answers, asked, meaning))
    return items


def one_question(symbol: str = "~") -> dict[str, Item]:
    """For each meaning the notes' last line `Q: 15 ~ 2 = ?` after three examples that only this meaning fits."""
    examples = [*NOTES_PAIRS[:2], DISTINGUISHING_PAIR]
    return {
        name: _asked(symbol, examples, [meaning(a, b) for a, b in examples], NOTES_PAIRS[2], name)
        for name, meaning in MEANINGS.items()
    }


def notes_question() -> Item:
    """The notes' own prompt, as a question."""
    return Item(f"{NOTES_PROMPT}\nA:", "17", ANSWERS)


def puzzle_ceiling(items: Sequence[Item], weights: Sequence[float]) -> float:
    """Mean accuracy on `items` of an observer who knows the meanings and their `weights` in the corpus (Bayes).

    The observer answers what is most probable given the examples, and chooses among equally probable answers at random.
    Where no meaning fits the examples (permuted ones), the weights alone decide.
    """
    return sum(_observer(item, weights) for item in items) / len(items)


def count_pairs(documents: Iterable[str], pairs: Sequence[Pair] = NOTES_PAIRS) -> dict[Pair, int]:
    """How often each of `pairs` occurs in a puzzle of the corpus, under any meaning."""
    counts = dict.fromkeys(pairs, 0)
    for document in documents:
        for a, b, _ in _lines(document):
            if (a, b) in counts:
                counts[a, b] += 1
    return counts


def _solved(symbol: str, pairs: Sequence[Pair], answers: Sequence[int]) -> str:
    return "".join(f"Q: {a} {symbol} {b} = ?\nA: {c}\n" for (a, b), c in zip(pairs, answers, strict=True))


def _asked(symbol: str, examples: Sequence[Pair], answers: Sequence[int], asked: Pair, meaning: str) -> Item:
    a, b = asked
    prompt = f"{_solved(symbol, examples, answers)}Q: {a} {symbol} {b} = ?\nA:"
    return Item(prompt, str(MEANINGS[meaning](a, b)), ANSWERS)


def _derangement(answers: Sequence[int], rng: random.Random) -> list[int]:
    """The answers permuted so that every position has another value: sorted, then rotated past the longest run."""
    order = sorted(range(len(answers)), key=answers.__getitem__)
    longest = max(Counter(answers).values())
    shift = rng.randint(longest, len(answers) - longest)
    moved = [0] * len(answers)
    for rank, index in enumerate(order):
        moved[index] = answers[order[(rank + shift) % len(order)]]
    return moved


def _lines(text: str) -> list[tuple[int, int, str]]:
    """The puzzles in a text: (a, b, answer), the answer empty where it is not given."""
    found = re.findall(r"^Q: (\d+) \S (\d+) = \?(?:\nA: (\d+))?", text, re.MULTILINE)
    return [(int(a), int(b), answer) for a, b, answer in found]


def _observer(item: Item, weights: Sequence[float]) -> float:
    """The probability that the Bayes observer answers `item` right."""
    *examples, (a, b, _) = _lines(item.prompt)
    prior = list(zip(MEANINGS.values(), weights, strict=True))
    posterior = [(f, weight) for f, weight in prior if all(str(f(x, y)) == shown for x, y, shown in examples)]
    mass: defaultdict[str, float] = defaultdict(float)
    for meaning, weight in posterior or prior:
        mass[str(meaning(a, b))] += weight
    best = max(mass.values())
    answers = [answer for answer in mass if math.isclose(mass[answer], best)]
    return (item.answer in answers) / len(answers)
