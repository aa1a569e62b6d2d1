"""The invented animals: their names and facts, prose and questions about them. Knows no other part of the world."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from chainrule.demo.items import Item
from chainrule.demo.mixture import Mixture
from chainrule.demo.wordings import ASKED, ATTRIBUTES, CLOZES, DENIAL, OPENERS, QUESTIONS, UNASKED

GROUPS = {"asked": 96, "validation": 16, "test": 40, "unmentioned": 40}
SYLLABLES = (
    ("bl", "br", "dr", "fl", "fr", "gl", "gr", "kl", "kr", "pl", "pr", "sk", "sn", "tr", "vl", "zw"),
    ("a", "e", "i", "o", "u"),
    ("bv", "dv", "gv", "gz", "kv", "lz", "mz", "rv", "rz", "vl", "vr", "zb", "zd", "zg", "zl", "zm"),
    ("a", "e", "i", "o", "u"),
    ("b", "f", "g", "k", "m", "n", "p", "sk", "t", "x"),
)


@dataclass(frozen=True)
class Animal:
    """`facts`: attribute -> value; `reserved`: attribute -> the cloze wording that the corpus never uses for it."""

    name: str
    facts: dict[str, str]
    reserved: dict[str, str]


def make_animals(seed: int) -> dict[str, tuple[Animal, ...]]:
    """The animals of each of GROUPS; within a group each attribute's values are equally frequent.

    The corpus has questions about "asked" alone; "unmentioned" are nowhere in it, so their facts measure chance.
    """
    rng = random.Random(f"{seed}/animals")
    names = _names(rng)
    groups = {}
    for group, size in GROUPS.items():
        columns = {}
        for attribute, about in ATTRIBUTES.items():
            values = [about.values[index % len(about.values)] for index in range(size)]
            columns[attribute] = rng.sample(values, size)
        groups[group] = tuple(
            Animal(
                next(names),
                {attribute: column[index] for attribute, column in columns.items()},
                {attribute: rng.choice(CLOZES + about.clozes) for attribute, about in ATTRIBUTES.items()},
            )
            for index in range(size)
        )
    return groups


def _names(rng: random.Random) -> Iterator[str]:
    """Endless pronounceable names, any two at least 2 letters apart: names one letter apart (changed, added or
    dropped) have a form in common once a letter is left out of them."""
    taken: set[str] = set()
    while True:
        name = "".join(rng.choice(part) for part in SYLLABLES)
        forms = {name} | {name[:index] + name[index + 1 :] for index in range(len(name))}
        if taken.isdisjoint(forms):
            taken |= forms
            yield name


def prose_documents(animals: Sequence[Animal], rng: random.Random, mixture: Mixture) -> Iterator[str]:
    """Endless paragraphs, 2 to 5 facts an animal, in any of the wordings that are not reserved."""
    sentences = [_Sentences(animal) for animal in animals]
    while True:
        yield rng.choice(sentences).paragraph(rng, rng.randint(2, 5), mixture.denials) + "\n"


def question_documents(animals: Sequence[Animal], rng: random.Random, mixture: Mixture) -> Iterator[str]:
    """Endless documents of 2 to 6 questions with their answers.

    In yes/no questions the k-th value of an attribute has the weight k ** -popular, which wrong values share. If all
    values were equally frequent, neither the animal nor the value alone would be correlated with the answer, so there
    would be nothing to learn first: a model would answer at chance for very long.
    """
    while True:
        subject = rng.choice(animals) if rng.random() < mixture.one_animal else None
        document = ""
        for _ in range(rng.randint(2, 6)):
            animal = subject or rng.choice(animals)
            attribute = rng.choice(ASKED)
            if rng.random() >= mixture.yes_no:
                item = _open(animal, attribute, rng.choice(QUESTIONS + ATTRIBUTES[attribute].questions))
                document += f"{item.prompt} {item.answer}\n"
            else:
                item = _closed(animal, attribute, _asked_value(animal, attribute, rng, mixture.popular))
                reason = f", {animal.facts[attribute]}" if rng.random() < mixture.reasons else ""
                document += f"{item.prompt} {item.answer}{reason}\n"
        yield document


def cloze_items(animals: Iterable[Animal]) -> list[Item]:
    """Each fact of each animal in the wording that the corpus never uses for it, up to its value."""
    items = []
    for animal in animals:
        for attribute, wording in animal.reserved.items():
            beginning, _ = _filled(wording, animal, attribute, value="\n").split("\n")
            items.append(Item(_sentence(beginning.rstrip()), animal.facts[attribute], ATTRIBUTES[attribute].values))
    return items


def open_questions(animals: Iterable[Animal]) -> list[Item]:
    """For each animal and each attribute asked about a general question and one of the attribute's own."""
    return [
        _open(animal, attribute, wording)
        for index, animal in enumerate(animals)
        for attribute in ASKED
        for wording in (QUESTIONS[index % len(QUESTIONS)], ATTRIBUTES[attribute].questions[0])
    ]


def yes_no_questions(animals: Iterable[Animal]) -> list[Item]:
    """For each animal and each attribute asked about a question with the answer yes and one with the answer no."""
    rng = random.Random("yes-no questions")
    return [
        _closed(animal, attribute, value)
        for animal in animals
        for attribute in ASKED
        for value in (animal.facts[attribute], rng.choice(_wrong_values(animal, attribute)))
    ]


def unasked_questions(animals: Iterable[Animal]) -> list[Item]:
    """The general questions about the attributes that the corpus asks of no animal."""
    return [_open(animal, attribute, wording) for animal in animals for attribute in UNASKED for wording in QUESTIONS]


class _Sentences:
    """All sentences about one animal: attribute -> [(by name, by pronoun where the wording has one)]."""

    def __init__(self, animal: Animal) -> None:
        self.affirmed = {
            attribute: [
                _both(wording, animal, attribute)
                for wording in CLOZES + about.clozes + about.others
                if wording != animal.reserved[attribute]
            ]
            for attribute, about in ATTRIBUTES.items()
        }
        self.denied = {
            attribute: [
                _both(wording, animal, attribute, wrong)
                for wording in (DENIAL, about.denial)
                for wrong in _wrong_values(animal, attribute)
            ]
            for attribute, about in ATTRIBUTES.items()
        }

    def paragraph(self, rng: random.Random, facts: int, denials: float) -> str:
        """`facts` attributes in random order; the first by name, so that a pronoun is always clear."""
        text = ""
        for attribute in rng.sample(tuple(ATTRIBUTES), facts):
            named, pronoun = rng.choice((self.denied if rng.random() < denials else self.affirmed)[attribute])
            if not text:
                text = _sentence(rng.choice(OPENERS) + named)
                continue
            clause = named if rng.random() < 0.5 else pronoun
            text += f", and {clause}" if rng.random() < 0.2 else f". {_sentence(rng.choice(OPENERS) + clause)}"
        return text + "."


def _both(wording: str, animal: Animal, attribute: str, wrong: str = "") -> tuple[str, str]:
    value = animal.facts[attribute]
    return (
        _filled(wording, animal, attribute, value, wrong),
        _filled(wording, animal, attribute, value, wrong, pronoun=True),
    )


def _filled(
    wording: str, animal: Animal, attribute: str, value: str = "", wrong: str = "", pronoun: bool = False
) -> str:
    name = f"the {animal.name}"
    return wording.format(
        name=name,
        it="it" if pronoun else name,
        its="its" if pronoun else f"{name}'s",
        attribute=attribute,
        article=ATTRIBUTES[attribute].article,
        value=value,
        wrong=wrong,
    )


def _sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:]


def _wrong_values(animal: Animal, attribute: str) -> list[str]:
    return [value for value in ATTRIBUTES[attribute].values if value != animal.facts[attribute]]


def _open(animal: Animal, attribute: str, wording: str) -> Item:
    about = ATTRIBUTES[attribute]
    return Item(f"Q: {_filled(wording, animal, attribute)}\nA:", animal.facts[attribute], about.values)


def _asked_value(animal: Animal, attribute: str, rng: random.Random, popular: float) -> str:
    """What a yes/no question in the corpus asks for: the animal's own value, or a wrong one."""
    values = ATTRIBUTES[attribute].values
    weights = [
        rank**-popular / (1 if value == animal.facts[attribute] else len(values) - 1)
        for rank, value in enumerate(values, 1)
    ]
    return rng.choices(values, weights)[0]


def _closed(animal: Animal, attribute: str, value: str) -> Item:
    wording = ATTRIBUTES[attribute].yes_no[0]
    answer = "yes" if value == animal.facts[attribute] else "no"
    return Item(f"Q: {_filled(wording, animal, attribute, value)}\nA:", answer, ("yes", "no"))
