"""What the demo prints: at most 45 lines of 100 columns. Knows results.json, not how it was made."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from chainrule.comparison.methods import METHODS
from chainrule.comparison.methods.method import Role
from chainrule.demo.figures import ALL, QUESTIONS, after
from chainrule.demo.puzzles import MOST_SHOTS, NOTES_PROMPT
from chainrule.terminal import print_table

WIDTH = 100  # columns
COLUMNS = ("right answers, in %", "right", "95 % interval", "n", "chance", "ceiling", "control")
_QUESTIONS = {
    "cloze": "  a sentence to complete, in a new wording",
    "open_questions": "  open questions (format known)",
    "yes_no_questions": "  yes/no questions (format known)",
    "unasked_questions": "  a kind of question never asked at all",
}
_TASKS = ("colours", "polarity")

Results = Mapping[str, Any]
Row = tuple[str, ...]


def falling(start: float, step: int, loss: float, tokens_per_second: float) -> str:
    """The loss so far, for the progress bar of pretraining."""
    return f"loss {start:.2f} → {loss:.3f} nats a token  step {step:,}  {tokens_per_second:,.0f} tokens/s"


def show_pretraining(results: Results, console: Console) -> None:
    start = math.log(results["model"]["vocabulary_size"])
    console.print(
        f"Pretraining: the loss fell from log V = {start:.2f} to {results['losses']['training'][-1][1]:.3f} nats"
        f" a token in {results['steps']:,} steps."
    )


def show_samples(samples: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A line each; the page has all of their words."""
    for sample in samples:
        beginning = f"τ = {sample['temperature']:g}"
        console.print(f"{beginning:9}{_shortened(sample['text'], WIDTH - 9)}")
    console.print()


def show_chain_rule(chain_rule: Mapping[str, Any], console: Console) -> None:
    """The sentence's tokens, and under each its probability given the ones before."""
    tokens = [(repr(token["text"].strip() or token["text"])[1:-1], math.exp(token["log_prob"]))
              for token in chain_rule["tokens"]]  # fmt: skip
    together = f"together log p = {chain_rule['log_prob']:.3f}"
    console.print(f"The chain rule on “{chain_rule['text']}”: p of each token, {together}.")
    for line in _lines([(text, f"{p:.4f}") for text, p in tokens]):
        for cells in zip(*line, strict=True):
            widths = (max(map(len, column)) for column in line)
            console.print("  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    console.print()


def _lines(columns: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The columns in as many lines as they need."""
    line: list[tuple[str, str]] = []
    used = 0
    for column in columns:
        width = max(map(len, column)) + 2
        if line and used + width > WIDTH:
            yield line
            line, used = [], 0
        line.append(column)
        used += width
    yield line


def show_adaptations(results: Results, console: Console) -> None:
    """One table: questions in words, puzzles after examples, and the tasks under each adaptation."""
    if not console.quiet:
        print_table(COLUMNS, [*_question_rows(results), *_puzzle_rows(results), *_task_rows(results)])
    console.print()


def _question_rows(results: Results) -> Iterator[Row]:
    yield _heading("zero-shot (control: names never mentioned)")
    for name, control in QUESTIONS.items():
        yield _row(_QUESTIONS[name], results[name], results[control] if control else None)


def _puzzle_rows(results: Results) -> Iterator[Row]:
    yield _heading("in-context (control: answers permuted)")
    yield _row("  a + b, no example", results[after("a + b", 0)])
    yield _row("  a + b, 3 examples", results[after("a + b", 3)])
    permuted, unseen = results[after(ALL, MOST_SHOTS, "permuted")], results[after(ALL, MOST_SHOTS, "unseen pairs")]
    yield _row(f"  all six meanings, {MOST_SHOTS} examples", results[after(ALL, MOST_SHOTS)], permuted)
    yield _row("  the same, numbers never seen together", unseen)


def _task_rows(results: Results) -> Iterator[Row]:
    """Each method with the most labels it was given, beside the same network from random weights; or, with --full,
    beside the model that was pretrained on reviews of mixed polarity."""
    for task in _TASKS:
        entries = [entry for entry in results["grid"] if entry["task"] == task]
        mixed = [entry for entry in results.get("mixed_polarities", []) if entry["task"] == task]
        yield _heading(f"{task} (control: {'mixed reviews' if mixed else 'random weights'})")
        untrained = {entry["labels"]: entry for entry in entries if entry["adaptation"] == "random-weights"}
        for method in METHODS:
            found = [entry for entry in entries if entry["adaptation"].split(",")[0] == method.name]
            wordless = task == "colours" and method.role is Role.SIMPLE  # a name alone has no words to learn from
            if not found or wordless or method.role is Role.CONTROL:
                continue
            entry = max(found, key=lambda entry: entry["labels"])
            if mixed:
                same = ("adaptation", "labels")
                beside = next((one for one in mixed if all(one[key] == entry[key] for key in same)), None)
            else:
                beside = untrained.get(entry["labels"]) if method.role is Role.FINETUNED else None
            labels = f", {entry['labels']} labels" if entry["labels"] and method.role is not Role.PROMPTED else ""
            yield _row(f"  {entry['adaptation']}{labels}", entry, beside)


def _heading(words: str) -> Row:
    return (words, *[""] * (len(COLUMNS) - 1))


def _row(name: str, figure: Mapping[str, Any], control: Mapping[str, Any] | None = None) -> Row:
    low, high = figure["interval"]
    ceiling = "" if figure["ceiling"] is None else _percent(figure["ceiling"])
    beside = "" if control is None else _percent(control["accuracy"])
    return (
        name, _percent(figure["accuracy"]), f"{_percent(low)} – {_percent(high)}", str(figure["n"]),
        _percent(figure["chance"]), ceiling, beside,
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def show_notes_prompt(results: Results, console: Console) -> None:
    """The notes' own prompt with its continuation, and one last line after examples of each meaning."""
    prompt = "   ".join(NOTES_PROMPT.replace("\nA", " A").splitlines())
    console.print(f"The notes' own prompt:  {prompt}")
    console.print(f"            continued:  {_shortened(results['notes_prompt'], 40)}")
    answers = ", ".join(f"{one['meaning']}: {_shortened(one['answer'], 6)}" for one in results["one_question"])
    console.print(f"{_shortened(f'The same last line if ~ is {answers}', WIDTH)}\n")


def _shortened(text: str, columns: int) -> str:
    """A text as one line of at most so many columns, without control characters."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= columns else line[: columns - 1] + "…"


def show_targets(targets: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """Whether the targets on the validation animals and puzzles are met."""
    missed = [
        f"{name.replace('_', ' ')} {target['reached']:.0%} (wanted {target['wanted']:.0%})"
        for name, target in targets.items()
        if target["reached"] < target["wanted"]
    ]
    if missed:
        line = f"NOT learned, of {len(targets)} targets on the validation animals and puzzles: {', '.join(missed)}"
        console.print(textwrap.fill(f"{line}. The same command continues.", WIDTH, subsequent_indent="  "))
    else:
        console.print("All targets on the validation animals and puzzles are met.")


def show_where_to_look(results: Results, out: Path, console: Console) -> None:
    console.print(f"All of it on one page: {out}/index.html  ({results['seconds']:.0f} seconds)")
    console.print(f"Next: chainrule generate {out}/{results['run']} 'Q: What colour'   the tasks: {out}/tasks")
    console.print(f"Which adaptation, at how many labels: {out}/colours/report.html, {results['report']}")
