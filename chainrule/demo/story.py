"""Section 14.3 told on the generated world: pretraining from nothing, then what came of it. Knows no mathematics."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from chainrule.demo.animals import cloze_items, open_questions, unasked_questions, yes_no_questions
from chainrule.demo.ask import GREEDY, Figure, ask
from chainrule.demo.mixture import DEFAULT_MIXTURE
from chainrule.demo.puzzles import MEANINGS, NOTES_PROMPT, count_pairs, one_question, puzzle_ceiling, puzzle_items
from chainrule.demo.world import World, documents, make_world
from chainrule.files import write_json, write_text
from chainrule.language_model import LanguageModel
from chainrule.pretraining.options import PretrainOptions
from chainrule.pretraining.run import Run
from chainrule.pretraining.start import open_run
from chainrule.terminal import print_table, progress_bar
from chainrule.text.corpus import CorpusOptions


@dataclass(frozen=True)
class Scale:
    """How large the demo is; smaller in tests."""

    characters: int = 14_000_000
    steps: int = 1500
    depth: int = 4
    width: int = 128
    check_every: int = 100  # steps between looks at the validation targets
    items: int = 200  # puzzles a figure
    minutes: float = 3.2  # of pretraining, at most


PLAN = Scale()
TARGETS = {"open_questions": 0.97, "yes_no_questions": 0.9, "addition_after_3": 0.98}  # on the validation set
SHOTS = (0, 1, 3, 8)
CORPUS = CorpusOptions(tokenizer="bpe", vocabulary_size=1300, validation=0.005)


def tell(out: Path, seed: int = 0, *, quiet: bool = False, scale: Scale = PLAN) -> dict[str, Any]:
    """Make the world, pretrain on it, show what came of it; returns what out/results.json holds.

    `quiet` prints nothing on standard output. Raises ValueError where `out` holds something else.
    """
    started = time.monotonic()
    console = Console(quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    world = make_world(seed)
    pairs = _write_corpus(world, out, scale.characters)
    show_pairs = ", ".join(f"{a} and {b} {count} times" for (a, b), count in pairs.items())
    console.print(f"A made-up world: {scale.characters / 1e6:.0f} million characters about it in {out}/corpus.jsonl.")
    console.print(f"The pairs of numbers in the notes' prompt were seen in it: {show_pairs}.\n")

    run = _open(out, seed, scale)
    _pretrain(run, world, scale, started, console)
    language_model = run.language_model
    run.model.eval()
    run.model.compute_dtype = None  # float32 from here: what is printed can be had again from the saved model

    _show_samples(language_model, console)
    _show_chain_rule(language_model, world, console)
    figures = _measure(language_model, world, scale)
    _show_figures(figures, console)
    continued = language_model.completions([NOTES_PROMPT], GREEDY, max_tokens=8, stop="\n")[0].text
    _show_contexts(language_model, continued, console)
    results = {
        **{name: asdict(figure) for name, figure in figures.items()},
        "notes_prompt": continued,
        "notes_pairs_seen": {f"{a} {b}": count for (a, b), count in pairs.items()},
        "steps": run.step,
        "validation_loss": run.summary().validation_loss,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(out / "results.json", results)
    console.print(f"{results['seconds']:.0f} seconds. The model: {out}/run   The figures: {out}/results.json")
    console.print(f"Go on: chainrule generate {out}/run 'Q: What colour'   chainrule score {out}/run 'some text'")
    return results


def _write_corpus(world: World, out: Path, characters: int) -> dict[tuple[int, int], int]:
    """out/corpus.jsonl; returns how often each of the notes' pairs of numbers stands in it."""
    if out.is_dir() and any(out.iterdir()) and not (out / "corpus.jsonl").is_file():
        raise ValueError(f"--out {out}: wanted a new folder or an earlier demo's, got one with something else")
    out.mkdir(parents=True, exist_ok=True)
    texts = list(documents(world, characters))
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    path = out / "corpus.jsonl"
    if not path.is_file() or path.read_text(encoding="utf-8") != content:  # a run goes on only from the file it knows
        write_text(path, content)
    return count_pairs(texts)


def _open(out: Path, seed: int, scale: Scale) -> Run:
    options = PretrainOptions(
        depth=scale.depth,
        width=scale.width,
        heads=4,
        context=128,
        batch_tokens=4096,
        steps=scale.steps,
        compile="off",
        validate_every=scale.check_every,
        seed=seed,
    )
    return open_run([str(out / "corpus.jsonl")], out / "run", options, CORPUS)


def _pretrain(run: Run, world: World, scale: Scale, started: float, console: Console) -> None:
    """Steps until the targets are met on the validation animals and puzzles, the steps are made, or the time is up."""
    start = math.log(run.model.config.vocabulary_size)
    console.print(f"Pretraining from nothing: at the start the loss is log V = {start:.2f} nats.")
    with progress_bar(run.decided.steps, "pretraining") as show:
        for progress in run.advance():
            show(progress.step, f"loss {progress.loss:.3f}  {progress.tokens_per_second:,.0f} tokens/s")
            if progress.validation_loss is None:
                continue
            met = _targets(run.language_model, world)
            reached = "  ".join(f"{name.replace('_', ' ')} {value:.0%}" for name, value in met.items())
            console.print(f"  step {progress.step:5}  validation loss {progress.validation_loss:.3f}  {reached}")
            if all(met[name] >= target for name, target in TARGETS.items()):
                console.print(
                    "The targets are met on the validation animals and puzzles; what follows is about others."
                )
                break
            if time.monotonic() - started > 60 * scale.minutes:
                console.print("The time is up before all targets are met.")
                break
    run.save()
    console.print()


def _targets(language_model: LanguageModel, world: World) -> dict[str, float]:
    animals = world.animals["validation"]
    items = {
        "open_questions": open_questions(animals),
        "yes_no_questions": yes_no_questions(animals),
        "addition_after_3": puzzle_items(world.puzzles, "a + b", 3, count=100, seed=1),
    }
    language_model.model.eval()
    return {name: ask(language_model, asked).accuracy for name, asked in items.items()}


def _show_samples(language_model: LanguageModel, console: Console) -> None:
    for temperature in (1.0, 0.5, 0.0):
        text = language_model.generate("", temperature=temperature, max_tokens=60, seed=1)
        console.print(f"τ = {temperature:g}:  {' '.join(text.split())}")
    console.print()


def _show_chain_rule(language_model: LanguageModel, world: World, console: Console) -> None:
    animal = world.animals["test"][0]
    sentence = f"The colour of the {animal.name} is {animal.facts['colour']}."
    tokens = language_model.score(sentence, top=1)
    console.print(f"The chain rule on: {sentence}")
    if not console.quiet:
        rows = [(token.text, f"{math.exp(token.log_prob):.4f}", f"{token.log_prob:.3f}") for token in tokens]
        total = sum(token.log_prob for token in tokens)
        print_table(("token", "p", "log p"), [*rows, ("document", f"{math.exp(total):.2e}", f"{total:.3f}")])
    console.print()


def _measure(language_model: LanguageModel, world: World, scale: Scale) -> dict[str, Figure]:
    """Every figure of the demo, on test animals and puzzles alone."""
    test, unmentioned = world.animals["test"], world.animals["unmentioned"]
    items = {
        "cloze": cloze_items(test),
        "open_questions": open_questions(test),
        "yes_no_questions": yes_no_questions(test),
        "unasked_questions": unasked_questions(test),
        "unmentioned_open_questions": open_questions(unmentioned),
        "unmentioned_yes_no_questions": yes_no_questions(unmentioned),
    }
    figures = {name: ask(language_model, asked) for name, asked in items.items()}
    for meaning in MEANINGS:
        for shots in SHOTS:
            figures[f"{meaning} after {shots}"] = _puzzles(language_model, world, scale, meaning, shots)
        figures[f"{meaning} after 8, unseen pairs"] = _puzzles(language_model, world, scale, meaning, 8, unseen=True)
        figures[f"{meaning} after 8, permuted"] = _puzzles(language_model, world, scale, meaning, 8, permuted=True)
    figures["addition_after_3"] = figures["a + b after 3"]
    every = [item for meaning in MEANINGS for item in puzzle_items(world.puzzles, meaning, 3, count=scale.items // 4)]
    figures["puzzle_answer"] = replace(
        ask(language_model, every), ceiling=puzzle_ceiling(every, DEFAULT_MIXTURE.meanings)
    )
    return figures


def _puzzles(
    language_model: LanguageModel,
    world: World,
    scale: Scale,
    meaning: str,
    shots: int,
    *,
    unseen: bool = False,
    permuted: bool = False,
) -> Figure:
    items = puzzle_items(world.puzzles, meaning, shots, unseen=unseen, permuted=permuted, count=scale.items)
    return replace(ask(language_model, items), ceiling=puzzle_ceiling(items, DEFAULT_MIXTURE.meanings))


LABELS = {
    "cloze": "zero-shot (1): a cloze in a wording never used for that animal",
    "open_questions": "zero-shot (2): open questions, animal never asked about (format known)",
    "yes_no_questions": "zero-shot (2): yes/no questions, animal never asked about (format known)",
    "unasked_questions": "zero-shot (3): a kind of question never asked about any animal",
    "unmentioned_open_questions": "control: open questions about names never mentioned",
    "unmentioned_yes_no_questions": "control: yes/no questions about names never mentioned",
}


def _show_figures(figures: Mapping[str, Figure], console: Console) -> None:
    if console.quiet:
        return
    columns = ("", "right", "95 % interval", "n", "chance")
    print_table(columns, [(label, *_cells(figures[name])) for name, label in LABELS.items()])
    low = figures["yes_no_questions"].interval[0]
    if low <= 0.8:
        console.print("Yes/no questions are not above 80 %: this model did not learn to answer them.")
    console.print("\nIn-context: what the symbol means is told by the examples alone (seen pairs unless said).")
    console.print("Permuted: the examples show each other's answers; a gain that stays is told by their size alone.")
    names = [name for name in figures if " after " in name]
    print_table(
        (*columns, "ceiling"), [(name, *_cells(figures[name]), f"{figures[name].ceiling:.0%}") for name in names]
    )


def _cells(figure: Figure) -> tuple[str, ...]:
    low, high = figure.interval
    return f"{figure.accuracy:.1%}", f"{low:.1%} to {high:.1%}", str(figure.n), f"{figure.chance:.1%}"


def _show_contexts(language_model: LanguageModel, continued: str, console: Console) -> None:
    """The same last line, answered by what the examples before it say; and the notes' own prompt."""
    console.print("\nThe same last line, Q: 15 ~ 2 = ?, after three examples of each meaning:")
    for meaning, item in one_question().items():
        (made,) = language_model.completions([item.prompt], GREEDY, max_tokens=6, stop="\n")
        console.print(f"  ~ is {meaning:14} A:{made.text}")
    console.print("\nThe notes' own prompt, continued:")
    console.print("  " + (NOTES_PROMPT + continued).replace("\n", "\n  ") + "\n")
