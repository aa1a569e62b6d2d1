"""Questions about the world and the accuracy of the pretrained model on them. Knows no training."""

from dataclasses import replace
from typing import Any

from chainrule.demo.animals import cloze_items, open_questions, unasked_questions, yes_no_questions
from chainrule.demo.ask import GREEDY, Figure, ask_all
from chainrule.demo.items import Item
from chainrule.demo.mixture import DEFAULT_MIXTURE
from chainrule.demo.puzzles import MEANINGS, MOST_SHOTS, NOTES_PROMPT, one_question, puzzle_ceiling, puzzle_items
from chainrule.demo.world import World
from chainrule.language_model import LanguageModel

SHOTS = range(MOST_SHOTS + 1)  # examples before the puzzle that is asked
ALL = "all meanings"
QUESTIONS = {  # about animals that are in the prose of the corpus and in no question; name -> its control
    "cloze": None,
    "open_questions": "unmentioned_open_questions",
    "yes_no_questions": "unmentioned_yes_no_questions",
    "unasked_questions": None,
}


def figures(language_model: LanguageModel, world: World, count: int) -> dict[str, Figure]:
    """The accuracy on QUESTIONS, and on the puzzles of each meaning after each number of SHOTS, `count` of them."""
    questions, puzzles = _question_items(world), _puzzle_items(world, count)
    found = ask_all(language_model, {**questions, **puzzles})
    for name in QUESTIONS:
        found[name] = replace(found[name], ceiling=1.0)  # the prose has the answer
    for name, items in puzzles.items():
        found[name] = replace(found[name], ceiling=puzzle_ceiling(items, DEFAULT_MIXTURE.meanings))
    return found


def after(meaning: str, shots: int, kind: str = "") -> str:
    """The name of a puzzle figure: seen pairs, or the `kind` "unseen pairs" or "permuted"."""
    return f"{meaning} after {shots}" + (f", {kind}" if kind else "")


def _question_items(world: World) -> dict[str, list[Item]]:
    """The items of QUESTIONS, about test animals, and of their controls, about names that the corpus never mentions."""
    test, unmentioned = world.animals["test"], world.animals["unmentioned"]
    return {
        "cloze": cloze_items(test),
        "open_questions": open_questions(test),
        "yes_no_questions": yes_no_questions(test),
        "unasked_questions": unasked_questions(test),
        "unmentioned_open_questions": open_questions(unmentioned),
        "unmentioned_yes_no_questions": yes_no_questions(unmentioned),
    }


def _puzzle_items(world: World, count: int) -> dict[str, list[Item]]:
    """Each meaning after 0 to 8 examples; after 8, with pairs never seen, and with the examples' answers permuted; and
    all meanings together."""
    kinds: list[tuple[int, str, dict[str, Any]]] = [(shots, "", {}) for shots in SHOTS]
    kinds += [(MOST_SHOTS, "unseen pairs", {"unseen": True}), (MOST_SHOTS, "permuted", {"permuted": True})]
    items: dict[str, list[Item]] = {}
    for shots, kind, options in kinds:
        together = []
        for meaning in MEANINGS:
            asked = puzzle_items(world.puzzles, meaning, shots, count=count, **options)
            items[after(meaning, shots, kind)] = asked
            together += asked
        items[after(ALL, shots, kind)] = together
    return items


def one_question_answered(language_model: LanguageModel) -> tuple[list[dict[str, str]], str]:
    """The same last line after three examples of each meaning, with the model's answer; and its continuation of the
    notes' own prompt."""
    items = one_question()
    made = language_model.completions([item.prompt for item in items.values()], GREEDY, max_tokens=8, stop="\n")
    answered = [
        {"meaning": meaning, "prompt": item.prompt, "wanted": item.answer, "answer": completion.text.strip()}
        for (meaning, item), completion in zip(items.items(), made, strict=True)
    ]
    notes = language_model.completions([NOTES_PROMPT], GREEDY, max_tokens=8, stop="\nQ")[0].text
    return answered, notes.strip()
