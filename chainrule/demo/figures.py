"""What the pretrained model is asked about the world in words, and the tables of its answers. Knows no training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from chainrule.demo.animals import cloze_items, open_questions, unasked_questions, yes_no_questions
from chainrule.demo.ask import GREEDY, Figure, ask
from chainrule.demo.mixture import DEFAULT_MIXTURE
from chainrule.demo.puzzles import MEANINGS, NOTES_PROMPT, one_question, puzzle_ceiling, puzzle_items
from chainrule.demo.world import World
from chainrule.files import whole_file
from chainrule.language_model import LanguageModel
from chainrule.terminal import print_table

SHOTS = (0, 1, 3, 8)
CURVE = range(9)  # demonstrations
COLUMNS = ("right", "95 % interval", "n", "chance", "ceiling")
LABELS = {
    "cloze": "zero-shot (1): a cloze in a wording never used for that animal",
    "open_questions": "zero-shot (2): open questions, animal never asked about (format known)",
    "yes_no_questions": "zero-shot (2): yes/no questions, animal never asked about (format known)",
    "unasked_questions": "zero-shot (3): a kind of question never asked about any animal",
    "unmentioned_open_questions": "control: open questions about names never mentioned",
    "unmentioned_yes_no_questions": "control: yes/no questions about names never mentioned",
}


def questions(language_model: LanguageModel, world: World) -> dict[str, Figure]:
    """The questions of LABELS, about test animals and about names that the world never mentions."""
    test, unmentioned = world.animals["test"], world.animals["unmentioned"]
    items = {
        "cloze": cloze_items(test),
        "open_questions": open_questions(test),
        "yes_no_questions": yes_no_questions(test),
        "unasked_questions": unasked_questions(test),
        "unmentioned_open_questions": open_questions(unmentioned),
        "unmentioned_yes_no_questions": yes_no_questions(unmentioned),
    }
    return {name: ask(language_model, asked) for name, asked in items.items()}


def puzzles(language_model: LanguageModel, world: World, count: int) -> dict[str, Figure]:
    """Each meaning after 0, 1, 3 and 8 examples, after 8 with a pair never seen, and with the answers permuted."""
    figures = {}
    for meaning in MEANINGS:
        for shots in SHOTS:
            figures[f"{meaning} after {shots}"] = _puzzles(language_model, world, count, [meaning], shots)
        for name, kind in (("unseen pairs", {"unseen": True}), ("permuted", {"permuted": True})):
            figures[f"{meaning} after 8, {name}"] = _puzzles(language_model, world, count, [meaning], 8, **kind)
    figures["addition_after_3"] = figures["a + b after 3"]
    return figures


def puzzle_curve(language_model: LanguageModel, world: World, count: int) -> list[Figure]:
    """Puzzles of all meanings alike after 0, 1, … 8 examples."""
    return [_puzzles(language_model, world, count, list(MEANINGS), shots) for shots in CURVE]


def _puzzles(
    language_model: LanguageModel,
    world: World,
    count: int,
    meanings: Sequence[str],
    shots: int,
    *,
    unseen: bool = False,
    permuted: bool = False,
) -> Figure:
    each = -(-count // len(meanings))
    items = [
        item
        for meaning in meanings
        for item in puzzle_items(world.puzzles, meaning, shots, unseen=unseen, permuted=permuted, count=each)
    ]
    return replace(ask(language_model, items), ceiling=puzzle_ceiling(items, DEFAULT_MIXTURE.meanings))


def cells(figure: Figure) -> tuple[str, ...]:
    """A figure under COLUMNS."""
    low, high = figure.interval
    ceiling = "" if figure.ceiling is None else f"{figure.ceiling:.0%}"
    return f"{figure.accuracy:.1%}", f"{low:.1%} to {high:.1%}", str(figure.n), f"{figure.chance:.1%}", ceiling


def show_questions(figures: Mapping[str, Figure], console: Console) -> None:
    if console.quiet:
        return
    print_table(("", *COLUMNS[:-1]), [(label, *cells(figures[name])[:-1]) for name, label in LABELS.items()])
    if figures["yes_no_questions"].interval[0] <= 0.8:
        console.print("Yes/no questions are not above 80 %: this model did not learn to answer them.")


def show_puzzles(figures: Mapping[str, Figure], console: Console) -> None:
    if console.quiet:
        return
    console.print("\nIn-context: what the symbol means is told by the examples alone (seen pairs unless said).")
    console.print("Permuted: the examples show each other's answers; a gain that stays is told by their size alone.")
    print_table(("", *COLUMNS), [(name, *cells(figures[name])) for name in figures if " after " in name])


def show_one_question(language_model: LanguageModel, console: Console) -> str:
    """The same last line, answered by what the examples before it say; and the notes' own prompt, continued."""
    console.print("\nThe same last line, Q: 15 ~ 2 = ?, after three examples of each meaning:")
    for meaning, item in one_question().items():
        (made,) = language_model.completions([item.prompt], GREEDY, max_tokens=6, stop="\n")
        console.print(f"  ~ is {meaning:14} A:{made.text}")
    continued = language_model.completions([NOTES_PROMPT], GREEDY, max_tokens=8, stop="\n")[0].text
    console.print("\nThe notes' own prompt, continued:")
    console.print("  " + (NOTES_PROMPT + continued).replace("\n", "\n  ") + "\n")
    return continued


def draw_curve(curve: Sequence[Figure], path: Path) -> None:
    """An SVG: puzzles answered right against demonstrations, with the interval, chance and the Bayes ceiling."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(6, 3.6), layout="constrained")
    FigureCanvasSVG(drawing)
    axes = drawing.add_subplot(xlabel="demonstrations in the prompt", ylabel="right", ylim=(0, 1.02))
    shots = list(range(len(curve)))
    low, high = zip(*(figure.interval for figure in curve), strict=True)
    axes.fill_between(shots, low, high, alpha=0.15, lw=0)
    axes.plot(shots, [figure.accuracy for figure in curve], marker="o", label="the model (95 % band)")
    axes.plot(shots, [figure.ceiling or 0.0 for figure in curve], ls="--", color="0.4", label="who knows the world")
    axes.plot(shots, [figure.chance for figure in curve], ls=":", color="0.6", label="the commonest answer")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    with whole_file(path) as beside:
        drawing.savefig(beside, format="svg")
