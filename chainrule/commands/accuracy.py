"""Prints an accuracy or other figures, and prompts with their answers. Knows no command."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainrule.prompting.prompted import Prompted
    from chainrule.tasks.examples import Task
    from chainrule.tasks.figures import Figures
    from chainrule.tasks.measure import Score


def print_prompted(
    predictors: Sequence["Prompted"],
    task: "Task",
    scores: Sequence["Score"],
    limit: int | None,
    show: int,
    json: bool,
    spread: dict[str, float] | None = None,
) -> None:
    """`show` prompts with their answers, and the score; with `--answer vocabulary` also how often each word was
    generated."""
    from collections import Counter

    from chainrule.tasks.measure import held_out
    from chainrule.terminal import print_table

    items = held_out(task, limit)
    extra: dict[str, Any] = {}
    first = predictors[0]
    shown = [(label, first.show(row)) for row, label in list(zip(items.rows, items.labels, strict=True))[:show]]
    if first.generates:
        extra["answers"] = dict(Counter(scores[0].answers or ()).most_common(20))
    if show:
        extra["shown"] = [{**one._asdict(), "label": label} for label, one in shown]
    if spread is not None:
        extra["spread"] = spread
    notes = list(dict.fromkeys(note for predictor in predictors for note in predictor.notes))
    if not json:
        for label, one in shown:
            print(f"{one.prompt}‖ {one.answer!r}, the label is {label!r}")
            print("".join(f"    p({word}) = {p:.4f}" for word, p in one.probabilities.items()) + "\n")
        if "answers" in extra and first.labels:  # free answers are as many as there are questions
            print_table(("answer", "times"), [(repr(word), str(times)) for word, times in extra["answers"].items()])
    print_score(scores, task, notes, json, extra)
    if spread is not None and not json:
        parts = "  ".join(f"{name} {100 * value:.1f}" for name, value in spread.items())
        print(f"Standard deviation in points of accuracy due to: {parts}")


def print_score(
    scores: Sequence["Score"],
    task: "Task",
    notes: Sequence[str],
    json: bool,
    extra: dict[str, Any],
    trained: float | None = None,
) -> None:
    """The score of a predictor, or of one for each seed; `extra`: more keys of --json.

    `trained`: the seconds that training took, beside those of the test; None where nothing was trained.
    """
    import numpy as np

    from chainrule import uncertainty
    from chainrule.terminal import log, print_json

    right = np.array([score.right for score in scores])
    estimate = uncertainty.accuracy(right, scores[0].groups)
    interval = (estimate.low, estimate.high)
    seconds = sum(score.seconds for score in scores)
    if json:
        head = {"accuracy": estimate.value, "interval": interval, "n": scores[0].n, "chance": scores[0].chance}
        print_json({**head, "seconds": seconds, **_training(trained), **({"notes": notes} if notes else {}), **extra})
        return
    seeds = f", {len(scores)} seeds" if len(scores) > 1 else ""
    print(
        f"accuracy {estimate.value:.1%} (95 %: {estimate.low:.1%} to {estimate.high:.1%}, n = {scores[0].n}{seeds};"
        f" chance {scores[0].chance:.1%}), {_times(trained, seconds)}"
    )
    for note in notes:
        log(note)


def print_figures(
    figures: "Figures", notes: Sequence[str], json: bool, extra: dict[str, Any], trained: float | None = None
) -> None:
    """The figures of several labels at once, or of a number, each with its interval; the rest as in `print_score`."""
    from chainrule.tasks.figures import TITLES, in_unit
    from chainrule.terminal import log, print_json

    if json:
        found: dict[str, Any] = {}
        for name, one in figures.estimates.items():
            found |= {name: one.value, f"{name}_interval": [one.low, one.high]}
        about = {"n": figures.n, "baseline": dict(figures.baseline), "seconds": figures.seconds}
        print_json({**found, **about, **_training(trained), **({"notes": notes} if notes else {}), **extra})
        return
    for name, one in figures.estimates.items():
        value, low, high, constant = (in_unit(name, each) for each in (*one, figures.baseline[name]))
        print(f"{TITLES[name]} {value} (95 %: {low} to {high}; the same answer for all: {constant})")
    print(f"n = {figures.n}, {_times(trained, figures.seconds)}")
    for note in notes:
        log(note)


def _times(trained: float | None, tested: float) -> str:
    """What the seconds were spent on."""
    return ("" if trained is None else f"trained in {trained:.1f} s, ") + f"tested in {tested:.1f} s"


def _training(trained: float | None) -> dict[str, float]:
    return {} if trained is None else {"training_seconds": trained}
