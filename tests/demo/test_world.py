"""Laws of the generated world: what its corpus never says, what is balanced, and what an ideal observer would know."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations, islice, pairwise
from pathlib import Path

import pytest

from chainrule.demo import puzzles as room
from chainrule.demo.animals import (
    GROUPS,
    cloze_items,
    make_animals,
    open_questions,
    unasked_questions,
    yes_no_questions,
)
from chainrule.demo.items import Item, chance
from chainrule.demo.mixture import DEFAULT_MIXTURE, Mixture
from chainrule.demo.pretrain import PLAN, world_tokenizer, write_corpus
from chainrule.demo.puzzles import MEANINGS, NOTES_PAIRS, count_pairs, one_question, puzzle_ceiling, puzzle_items
from chainrule.demo.reviews import ADJECTIVES, SUBJECTS, review_items
from chainrule.demo.wordings import ASKED, ATTRIBUTES, CLOZES, DENIAL, OPENERS
from chainrule.demo.world import documents, make_world
from chainrule.tokens.tokenizer import load_tokenizer

WORLD = make_world(0)
UNIFORM = (1,) * len(MEANINGS)
HELD_OUT = [animal for group in ("validation", "test") for animal in WORLD.animals[group]]
POLARITY = {adjective: polarity for polarity, adjectives in ADJECTIVES.items() for adjective in adjectives}
OPENINGS = tuple(opening for openings, _ in SUBJECTS for opening in openings)


def kind_of(document: str) -> str:
    if re.match(r"Q: \d", document):
        return "puzzles"
    if "Q:" in document:
        return "questions"
    return "reviews" if document.startswith(OPENINGS) else "prose"


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[str]]:
    """A whole default corpus, by kind."""
    kinds: dict[str, list[str]] = {"prose": [], "questions": [], "puzzles": [], "reviews": []}
    for document in documents(WORLD, 12e6):
        kinds[kind_of(document)].append(document)
    return kinds


def words(documents: list[str]) -> set[str]:
    return set(re.findall(r"[a-z]+", " ".join(documents).lower()))


def within_one_letter(a: str, b: str) -> bool:
    """Whether one change, addition or removal of a letter at most makes `b` of `a`, by trying every one of them."""
    letters = set(a + b)
    edited = {a[:i] + letter + a[i + keep :] for i in range(len(a) + 1) for letter in letters | {""} for keep in (0, 1)}
    return b in edited | {a}


# --- determinism ---


def digest(seed: int) -> str:
    return hashlib.sha256("".join(documents(make_world(seed), 300_000)).encode()).hexdigest()


def test_the_same_seed_makes_the_same_world_and_corpus_in_another_process_too():
    code = (
        "import hashlib; from chainrule.demo.world import documents, make_world\n"
        "print(hashlib.sha256(''.join(documents(make_world(3), 300_000)).encode()).hexdigest())"
    )
    elsewhere = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": h}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for h in ("1", "2")
    ]
    assert make_world(3) == make_world(3)
    assert [digest(3)] * 2 == elsewhere


def test_another_seed_makes_another_world():
    a, b = make_world(0), make_world(1)
    assert digest(0) != digest(1)
    assert {animal.name for animal in a.animals["test"]} != {animal.name for animal in b.animals["test"]}
    assert a.puzzles.unseen != b.puzzles.unseen and a.reviews.reserved != b.reviews.reserved


def test_a_longer_corpus_begins_with_the_shorter_one():
    short = list(documents(WORLD, 20_000))
    assert short == list(islice(documents(WORLD), len(short)))
    assert 20_000 <= sum(map(len, short)) < 22_000


# --- the mixture ---


@pytest.mark.parametrize("mixture", [DEFAULT_MIXTURE, Mixture(prose=1, questions=3, puzzles=0, reviews=1)])
def test_shares_are_of_characters(mixture: Mixture):
    written = Counter[str]()
    for document in documents(WORLD, 1e6, mixture):
        written[kind_of(document)] += len(document)
    shares = {kind: getattr(mixture, kind) for kind in ("prose", "questions", "puzzles", "reviews")}
    for kind, share in shares.items():
        assert abs(written[kind] / written.total() - share / sum(shares.values())) < 0.02


def test_the_default_corpus_is_documents_of_lines_in_a_small_vocabulary(corpus):
    everything = [document for kind in corpus.values() for document in kind]
    assert all(document.endswith("\n") and not document.endswith(" \n") for document in everything)
    assert 300 <= len(words(everything)) <= 700
    assert sum(map(len, everything)) >= 12e6


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"prose": -1.0}, "shares"),
        ({"prose": 0.0, "questions": 0.0, "puzzles": 0.0, "reviews": 0.0}, "shares"),
        ({"yes_no": 1.5}, "yes_no"),
        ({"denials": float("nan")}, "denials"),
        ({"puzzle_lengths": (0, 9)}, "puzzle_lengths"),
        ({"puzzle_lengths": (5, 4)}, "puzzle_lengths"),
        ({"meanings": (1.0, 1.0)}, "meanings"),
        ({"meanings": (0.0,) * 6}, "meanings"),
    ],
)
def test_a_mixture_out_of_range_is_refused_by_name(knobs, named):
    with pytest.raises(ValueError, match=f"^mixture: wanted .*{named}.* got [^\n]*$"):
        Mixture(**knobs)


# --- animals ---


@pytest.mark.parametrize("seed", range(3))
def test_names_are_two_letters_apart_and_no_word_of_the_corpus(seed: int):
    names = [animal.name for group in make_animals(seed).values() for animal in group]
    assert len(names) == sum(GROUPS.values()) and all(name.isalpha() and name.islower() for name in names)
    assert within_one_letter("cat", "cart") and within_one_letter("cart", "cat") and within_one_letter("cat", "cut")
    assert not within_one_letter("cat", "coot")
    assert not any(within_one_letter(a, b) for a, b in combinations(names, 2) if abs(len(a) - len(b)) < 2)


@pytest.mark.parametrize("group", GROUPS)
def test_values_are_balanced_in_each_group(group: str):
    for attribute, about in ATTRIBUTES.items():
        counts = Counter(animal.facts[attribute] for animal in WORLD.animals[group])
        assert set(counts) == set(about.values) and max(counts.values()) == min(counts.values())


def test_attributes_are_independent():
    """The commonest value of one attribute, given another's, is about as common as chance has it."""
    animals = [animal for group in WORLD.animals.values() for animal in group]
    for a, b in combinations(ATTRIBUTES, 2):
        together = Counter((animal.facts[a], animal.facts[b]) for animal in animals)
        assert max(together.values()) < 2 * len(animals) / 4 / 4


def test_no_question_names_an_animal_held_out_and_nothing_names_the_unmentioned(corpus):
    """Nothing that asks anything, in form or by a question mark, shares a document with a held-out name."""
    held_out = {animal.name for animal in HELD_OUT}
    asking = [d for kind in corpus.values() for d in kind if re.search(r"Q:|A:|\?", d)]
    assert words(asking).isdisjoint(held_out)
    assert words(asking) >= {animal.name for animal in WORLD.animals["asked"]}
    assert words(corpus["prose"]) >= held_out | {animal.name for animal in WORLD.animals["asked"]}
    unmentioned = [animal.name for animal in WORLD.animals["unmentioned"]]
    everything = "".join(d for kind in corpus.values() for d in kind).lower()
    assert not any(name in everything for name in unmentioned)


def test_no_question_asks_for_the_unasked_attribute_but_prose_uses_its_word(corpus):
    asked = words([line for d in corpus["questions"] for line in d.splitlines() if line.startswith(("Q:", "A:"))])
    assert "size" not in asked and asked.isdisjoint(ATTRIBUTES["size"].values)
    assert asked >= {*ASKED, "yes", "no"}
    assert "size" in words(corpus["prose"])


def test_the_reserved_wording_is_never_used_for_its_animal_by_name_or_pronoun():
    told: dict[str, set[str]] = {}
    openers = "|".join(sorted((opener for opener in OPENERS if opener), key=len, reverse=True))
    name = None
    names = {animal.name for animal in (*HELD_OUT, *WORLD.animals["asked"])}
    for document in documents(WORLD, 4e6, replace(DEFAULT_MIXTURE, questions=0, puzzles=0, reviews=0)):
        for clause in re.split(r"\. |, and ", document.split("\n")[0].removesuffix(".")):
            clause = re.sub(f"^({openers})", "", clause[0].lower() + clause[1:])
            name = next((word for word in re.findall(r"\w+", clause) if word in names), name)
            told.setdefault(name, set()).add(clause)
    for animal in (*HELD_OUT, *WORLD.animals["asked"]):
        for attribute, about in ATTRIBUTES.items():
            for wording in (*CLOZES, *about.clozes):
                value = animal.facts[attribute]
                forms = {
                    wording.format(
                        name=f"the {animal.name}",
                        it=it,
                        its=its,
                        attribute=attribute,
                        article=about.article,
                        value=value,
                    )
                    for it, its in ((f"the {animal.name}", f"the {animal.name}'s"), ("it", "its"))
                }
                used = not forms.isdisjoint(told[animal.name])
                assert used == (wording != animal.reserved[attribute]), (forms, attribute)


def test_a_cloze_prompt_of_a_held_out_animal_never_occurs(corpus):
    prose = "".join(corpus["prose"]).lower()
    items = cloze_items(WORLD.animals["test"])
    assert len(items) == len(WORLD.animals["test"]) * len(ATTRIBUTES) >= 200
    assert not any(re.search(re.escape(item.prompt.lower()) + r"\b", prose) for item in items)


def test_there_are_eight_wordings_and_the_beginning_of_a_cloze_belongs_to_one_alone():
    def filled(wording: str, attribute: str) -> str:
        about = ATTRIBUTES[attribute]
        return wording.format(
            name="the x", it="the x", its="the x's", attribute=attribute, article=about.article, value="\n", wrong="w"
        )

    sentences, beginnings = [], []
    for attribute, about in ATTRIBUTES.items():
        assert len(about.values) == 4 and len({*CLOZES, *about.clozes, *about.others}) >= 8
        sentences += [filled(w, attribute) for w in (*CLOZES, *about.clozes, *about.others, DENIAL, about.denial)]
        beginnings += [filled(w, attribute).removesuffix("\n") for w in (*CLOZES, *about.clozes)]
    for beginning in beginnings:
        assert sum(sentence.startswith(beginning) for sentence in sentences) == 1, beginning


def test_answers_in_the_corpus_are_true_and_some_values_are_asked_about_more_than_others(corpus):
    animals = {animal.name: animal for animal in WORLD.animals["asked"]}
    values = {value: attribute for attribute in ASKED for value in ATTRIBUTES[attribute].values}
    said, asked = Counter[str](), Counter[str]()
    for document in corpus["questions"]:
        for question, answer in re.findall(r"^Q: (.*)\nA: (.*)$", document, re.MULTILINE):
            spoken = re.findall(r"\w+", question)
            (animal,) = (animals[word] for word in spoken if word in animals)
            answer, _, reason = answer.partition(", ")
            if answer not in ("yes", "no"):
                assert answer in animal.facts.values()
                continue
            (value,) = (word for word in spoken if word in values)
            assert reason in ("", animal.facts[values[value]])
            true = animal.facts[values[value]] == value
            assert answer == ("yes" if true else "no")
            said[answer] += 1
            asked[value] += 1
    assert 0.35 < said["yes"] / said.total() < 0.5
    for attribute in ASKED:
        counts = [asked[value] for value in ATTRIBUTES[attribute].values]
        assert counts == sorted(counts, reverse=True) and counts[0] > 2 * counts[-1] > 0


def test_without_popular_values_yes_is_as_likely_as_no_and_wrong_values_are_alike():
    mixture = Mixture(prose=0, puzzles=0, reviews=0, yes_no=1, popular=0, reasons=0)
    said, asked = Counter[str](), Counter[str]()
    for document in documents(WORLD, 1_000_000, mixture):
        for question, answer in re.findall(r"^Q: (.*)\nA: (.*)$", document, re.MULTILINE):
            said[answer] += 1
            asked.update(set(re.findall(r"\w+", question)) & set(ATTRIBUTES["colour"].values))
    assert abs(said["yes"] / said.total() - 0.5) < 0.02
    assert max(asked.values()) < 1.3 * min(asked.values()) and len(asked) == 4


@pytest.mark.parametrize("group", ["validation", "test", "unmentioned"])
def test_items_are_balanced_and_written_as_in_the_corpus(group: str, corpus):
    animals = WORLD.animals[group]
    wordings, kinds = cloze_items(animals), (open_questions(animals), unasked_questions(animals))
    assert chance(yes_no_questions(animals)) == 0.5
    assert all(chance(items) == pytest.approx(1 / 4) for items in (wordings, *kinds))
    every = [*wordings, *kinds[0], *kinds[1], *yes_no_questions(animals)]
    assert all(item.prompt == item.prompt.strip() and item.answer in item.options for item in every)
    if group == "test":
        assert len(kinds[0]) >= 200 and len(kinds[1]) >= 100 and len(yes_no_questions(animals)) >= 200

    # With an animal's name in place of another's, each question stands in the corpus.
    names = "|".join(animal.name for group in WORLD.animals.values() for animal in group)
    asked = {re.sub(names, "X", question) for d in corpus["questions"] for question in re.findall(r"Q: .*\nA:", d)}
    for item in (*kinds[0], *yes_no_questions(animals)):
        assert re.sub(names, "X", item.prompt) in asked
    for item in kinds[1]:
        assert re.sub(names, "X", item.prompt).replace("size", "colour") in asked


# --- items ---


def test_chance_is_the_commonest_answer_of_each_kind():
    kinds = {("a", "b"): "aab", ("c", "d"): "cdd"}
    assert chance([Item("", answer, options) for options, answers in kinds.items() for answer in answers]) == 4 / 6
    with pytest.raises(ValueError, match="chance: wanted at least one item"):
        chance([])


# --- puzzles ---


def test_puzzles_are_in_the_notes_format_with_one_symbol_and_one_meaning_a_document(corpus):
    meanings = Counter[str]()
    symbols, lengths = set(), set()
    for document in corpus["puzzles"]:
        assert re.fullmatch(r"(Q: \d+ (\S) \d+ = \?\nA: \d+\n)(Q: \d+ \2 \d+ = \?\nA: \d+\n)*", document)
        rows = [tuple(map(int, row)) for row in re.findall(r"Q: (\d+) \S (\d+) = \?\nA: (\d+)", document)]
        assert len({(a, b) for a, b, _ in rows}) == len(rows) and all(0 <= n < 16 for a, b, _ in rows for n in (a, b))
        fitting = [name for name, meaning in MEANINGS.items() if all(meaning(a, b) == c for a, b, c in rows)]
        assert fitting
        if len(fitting) == 1 and len(rows) == 9:
            meanings[fitting[0]] += 1
        symbols.add(document.split()[2])
        lengths.add(len(rows))
    assert "~" in symbols and len(symbols) == 10 and lengths == set(range(4, 10))
    shares = {name: meanings[name] / weight for name, weight in zip(MEANINGS, DEFAULT_MIXTURE.meanings, strict=True)}
    assert set(meanings) == set(MEANINGS) and max(shares.values()) < 1.2 * min(shares.values())


def test_a_tenth_of_the_pairs_never_occurs_and_every_other_does(corpus):
    puzzles = WORLD.puzzles
    assert len(puzzles.unseen) == 25 and len(puzzles.seen) == 231 and not set(puzzles.seen) & set(puzzles.unseen)
    counts = count_pairs(corpus["puzzles"], puzzles.seen + puzzles.unseen)
    assert all(counts[pair] > 0 for pair in puzzles.seen)
    assert all(counts[pair] == 0 for pair in puzzles.unseen)


@pytest.mark.parametrize("seed", range(20))
def test_the_notes_pairs_are_seen_whatever_the_seed(seed: int):
    seen = make_world(seed).puzzles.seen
    assert {*NOTES_PAIRS, room.DISTINGUISHING_PAIR} <= set(seen)
    only = replace(DEFAULT_MIXTURE, prose=0.0, questions=0.0, reviews=0.0)  # no kind depends on the others
    assert all(count > 0 for count in count_pairs(islice(documents(make_world(seed), mixture=only), 9_000)).values())


@pytest.mark.parametrize("seed", range(50))
def test_each_sum_is_that_of_a_seen_pair_whatever_the_seed(seed: int):
    assert {str(a + b) for a, b in make_world(seed).puzzles.seen} == set(room.ANSWERS)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_number_is_one_token_so_that_eight_examples_fit_the_context(seed: int, tmp_path: Path):
    write_corpus(make_world(seed), tmp_path, 1_600_000)  # more than the tokenizer is made from
    tokenizer = load_tokenizer(world_tokenizer(tmp_path, PLAN))
    assert [answer for answer in room.ANSWERS if len(tokenizer.encode(f" {answer}")) > 1] == []
    question = puzzle_items(make_world(seed).puzzles, "a + b", room.MOST_SHOTS, count=1)[0]
    tokens = [tokenizer.bos_id, *tokenizer.encode(f"{question.prompt} {question.answer}\n")]
    assert len(tokens) - 1 <= PLAN.context  # the last one is not read


def test_pairs_are_counted_under_any_meaning_and_nowhere_else():
    corpus = ["Q: 2 ~ 3 = ?\nA: 5\nQ: 12 ~ 3 = ?\nA: 15\n", "Q: 15 # 2 = ?\nA: 2\nQ: 2 # 3 = ?\nA: 3\n", "2 ~ 3 = ?"]
    assert count_pairs(corpus) == {(2, 3): 2, (6, 7): 0, (15, 2): 1}


def test_the_frequencies_of_meanings_are_the_mixtures():
    mixture = Mixture(prose=0, questions=0, reviews=0, meanings=(0, 1, 0, 0, 0, 0))
    for document in documents(WORLD, 20_000, mixture):
        for a, b, c in re.findall(r"Q: (\d+) \S (\d+) = \?\nA: (\d+)", document):
            assert max(int(a) - int(b), 0) == int(c)


def test_one_question_has_the_notes_four_answers_and_its_examples_tell_the_meaning():
    items = one_question()
    assert {name: item.answer for name, item in items.items()} == {
        "a + b": "17", "max(a - b, 0)": "13", "max(a, b)": "15", "min(a, b)": "2", "a": "15", "b": "2"
    }  # fmt: skip
    assert all(item.prompt.endswith("\nQ: 15 ~ 2 = ?\nA:") for item in items.values())
    assert items["a + b"].prompt.startswith(room.NOTES_PROMPT.removesuffix("Q: 15 ~ 2 = ?"))
    assert puzzle_ceiling(list(items.values()), UNIFORM) == 1.0


def rows_of(item: Item) -> list[tuple[int, int, str]]:
    rows = re.findall(r"Q: (\d+) \S (\d+) = \?\nA:(?: (\d+))?", item.prompt)
    return [(int(a), int(b), c) for a, b, c in rows]


@pytest.mark.parametrize("meaning", MEANINGS)
@pytest.mark.parametrize("unseen", [False, True])
def test_puzzle_items_have_seen_examples_and_ask_for_another_pair(meaning: str, unseen: bool):
    for shots in (0, 1, 3, 8):
        items = puzzle_items(WORLD.puzzles, meaning, shots, unseen=unseen)
        assert len(items) == 200 and items == puzzle_items(WORLD.puzzles, meaning, shots, unseen=unseen)
        for item in items:
            *examples, (a, b, nothing) = rows_of(item)
            assert len(examples) == shots and nothing == "" and item.prompt.endswith("= ?\nA:")
            assert item.answer == str(MEANINGS[meaning](a, b)) and item.answer in item.options
            assert all(c == str(MEANINGS[meaning](x, y)) for x, y, c in examples)
            assert {(x, y) for x, y, _ in examples} <= set(WORLD.puzzles.seen) - {(a, b)}
            assert (a, b) in (WORLD.puzzles.unseen if unseen else WORLD.puzzles.seen)


@pytest.mark.parametrize("meaning", MEANINGS)
@pytest.mark.parametrize("shots", [2, 3, 8])
def test_permuted_examples_hold_each_others_answers_and_none_its_own(meaning: str, shots: int):
    for item in puzzle_items(WORLD.puzzles, meaning, shots, permuted=True):
        *examples, (a, b, _) = rows_of(item)
        own = [str(MEANINGS[meaning](x, y)) for x, y, _ in examples]
        shown = [c for _, _, c in examples]
        assert sorted(own) == sorted(shown) and all(x != y for x, y in zip(own, shown, strict=True))
        assert item.answer == str(MEANINGS[meaning](a, b))


def test_fewer_than_two_examples_cannot_be_permuted():
    with pytest.raises(ValueError, match="wanted at least 2 shots, got 1"):
        puzzle_items(WORLD.puzzles, "a", 1, permuted=True)


def asked_under_each_meaning(examples: list[tuple[int, int]], asked: tuple[int, int]) -> dict[str, Item]:
    items = {}
    for name, meaning in MEANINGS.items():
        shown = "".join(f"Q: {a} # {b} = ?\nA: {meaning(a, b)}\n" for a, b in examples)
        prompt = f"{shown}Q: {asked[0]} # {asked[1]} = ?\nA:"
        items[name] = Item(prompt, str(meaning(*asked)), room.ANSWERS)
    return items


@pytest.mark.parametrize("weights", [UNIFORM, (3, 1, 1, 2, 1, 1)])
@pytest.mark.parametrize("shots", [0, 1, 2])
def test_the_ceiling_is_the_mass_of_the_best_answer_to_each_thing_shown(shots: int, weights: tuple[int, ...]):
    """Brute force: over all meanings it is Σ over what is shown of max over answers of p(shown, answer)."""
    for pairs in pairwise(WORLD.puzzles.seen[::7]):
        examples, asked = [*pairs][:shots], (11, 5)
        items = asked_under_each_meaning(examples, asked)
        joint = Counter[tuple[str, str]]()
        for weight, item in zip(weights, items.values(), strict=True):
            joint[item.prompt, item.answer] += weight
        best = sum(max(m for (shown, _), m in joint.items() if shown == prompt) for prompt in {p for p, _ in joint})
        met = [item for weight, item in zip(weights, items.values(), strict=True) for _ in range(weight)]
        assert puzzle_ceiling(met, weights) == pytest.approx(best / sum(weights))


def test_the_ceiling_is_the_weights_without_examples_and_one_where_examples_tell():
    addition = asked_under_each_meaning([], (15, 2))["a + b"]
    assert puzzle_ceiling([addition], UNIFORM) == 0.0  # 15 and 2 have two meanings each, 17 one
    assert puzzle_ceiling([addition], (3, 1, 1, 1, 1, 1)) == 1.0
    assert puzzle_ceiling([addition], (2, 1, 1, 1, 1, 1)) == pytest.approx(1 / 3)  # a tie of 17, 15 and 2
    for meaning in MEANINGS:
        ceilings = [puzzle_ceiling(puzzle_items(WORLD.puzzles, meaning, shots), UNIFORM) for shots in (0, 3, 8)]
        assert ceilings[0] < 0.6 and ceilings[1] > 0.85 and ceilings[2] > 0.98
    assert puzzle_ceiling(puzzle_items(WORLD.puzzles, "a + b", 3), UNIFORM) > 0.99


def test_permuted_examples_leave_the_observer_what_he_knew_without_any():
    for shots in (3, 8):
        assert puzzle_ceiling(puzzle_items(WORLD.puzzles, "a + b", shots, permuted=True), UNIFORM) < 0.15
    assert puzzle_ceiling(puzzle_items(WORLD.puzzles, "a + b", 0), UNIFORM) < 0.15


# --- reviews ---


def adjectives_of(review: str) -> list[str]:
    return [word for word in re.findall(r"\w+", review) if word in POLARITY]


@pytest.mark.parametrize("shuffled", [False, True])
def test_reviews_agree_in_polarity_unless_shuffled_and_never_hold_a_reserved_pair(shuffled: bool):
    mixture = replace(DEFAULT_MIXTURE, prose=0, questions=0, puzzles=0, shuffle_polarity=shuffled)
    reviews = list(documents(WORLD, 1e6, mixture))
    pairs, mixed = Counter[frozenset[str]](), 0
    for review in reviews:
        adjectives = adjectives_of(review)
        assert 3 <= len(set(adjectives)) == len(adjectives) <= 4
        mixed += len({POLARITY[adjective] for adjective in adjectives}) > 1
        pairs.update(frozenset(pair) for pair in combinations(adjectives, 2))
    assert not WORLD.reviews.reserved & pairs.keys()
    assert len(pairs) == (20 * 19 if shuffled else 2 * 10 * 9) / 2 - len(WORLD.reviews.reserved)
    assert mixed > len(reviews) / 2 if shuffled else mixed == 0
    assert words(reviews).isdisjoint(ADJECTIVES)


def test_reserved_pairs_are_of_one_polarity_and_every_adjective_is_in_two():
    assert all(len({POLARITY[adjective] for adjective in pair}) == 1 for pair in WORLD.reviews.reserved)
    assert Counter(a for pair in WORLD.reviews.reserved for a in pair) == dict.fromkeys(POLARITY, 2)


@pytest.mark.parametrize("reserved", [False, True])
def test_labelled_reviews_hold_a_reserved_pair_or_none(reserved: bool):
    items = review_items(WORLD.reviews, 100, reserved=reserved)
    assert len(items) == 100 and chance(items) == 0.5
    for item in items:
        pair = adjectives_of(item.prompt)
        assert (frozenset(pair) in WORLD.reviews.reserved) == reserved
        assert len(pair) == 2 and {POLARITY[adjective] for adjective in pair} == {item.answer}
