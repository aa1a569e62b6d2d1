"""Section 14.3 told on the generated world: pretraining from nothing, then every adaptation. Knows no mathematics."""

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from chainrule.demo import figures, grid, page, printout
from chainrule.demo.animals import open_questions, yes_no_questions
from chainrule.demo.ask import ask
from chainrule.demo.mixture import DEFAULT_MIXTURE, Mixture
from chainrule.demo.puzzles import count_pairs, puzzle_items
from chainrule.demo.tasks import WorldTask, write_tasks
from chainrule.demo.world import World, documents, make_world
from chainrule.files import write_json, write_text
from chainrule.language_model import LanguageModel
from chainrule.pretraining.curve import losses
from chainrule.pretraining.options import PretrainOptions
from chainrule.pretraining.run import Run
from chainrule.pretraining.start import open_run
from chainrule.terminal import progress_bar
from chainrule.text.corpus import CorpusOptions


@dataclass(frozen=True)
class Scale:
    """How large the demo is; smaller in tests."""

    characters: int = 14_000_000
    steps: int = 1500  # at most: fewer where the minutes do not hold them, the schedule's end included
    minutes: float = 3.3  # of pretraining
    depth: int = 4
    width: int = 128
    batch_tokens: int = 4096
    check_every: int = 200  # steps between looks at the validation targets
    items: int = 200  # puzzles a figure
    sizes: dict[str, tuple[int, ...]] | None = None  # labels in the grid; None: grid.SIZES


PLAN = Scale()
TARGETS = {"open_questions": 0.97, "yes_no_questions": 0.9, "addition_after_3": 0.98}  # on the validation set
SAMPLE_TOKENS = 60
CORPUS = CorpusOptions(tokenizer="bpe", vocabulary_size=1300, validation=0.005)


def tell(out: Path, seed: int = 0, *, full: bool = False, quiet: bool = False, scale: Scale = PLAN) -> dict[str, Any]:
    """Make the world, pretrain on it, show what came of it; returns what out/results.json holds.

    The same call goes on where it was stopped, and does not train again what has met its targets. `full`: five seeds in
    the grid, and the control whose reviews mix the polarities. `quiet` prints nothing on standard output. Raises
    ValueError where `out` holds something else.
    """
    started = time.monotonic()
    console = Console(quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    world = make_world(seed)
    pairs = _write_corpus(world, out, scale.characters)
    console.print(
        f"Section 14.3 on a made-up world: {scale.characters / 1e6:.3g} million characters, in {out}/corpus.jsonl."
    )
    run = _pretrained(out, world, scale, console)
    language_model = _causal(run)
    results = _about(run, seed, scale) | {"targets": _reached(out, language_model, world)}
    printout.show_pretraining(results, console)
    results |= {"samples": _samples(language_model), "chain_rule": _chain_rule(language_model, world)}
    printout.show_samples(results["samples"], console)
    printout.show_chain_rule(results["chain_rule"], console)

    with progress_bar(None, "asking"):
        found = figures.figures(language_model, world, scale.items)
        one_question, continued = figures.one_question_answered(language_model)
    curve = [asdict(found[figures.after(figures.ALL, shots)]) for shots in figures.SHOTS]
    results |= {name: asdict(figure) for name, figure in found.items()}
    results |= {
        "addition_after_3": results[figures.after("a + b", 3)],
        "puzzle_answer": curve[3],
        "puzzle_curve": curve,
        "one_question": one_question,
        "notes_prompt": continued,
        "notes_pairs_seen": {f"{a} {b}": count for (a, b), count in pairs.items()},
    }
    tasks = write_tasks(world, out / "tasks")
    entries = grid.compare_tasks(
        language_model, tasks, out, seeds=5 if full else 1, sizes=scale.sizes or grid.SIZES
    ) + grid.puzzle_entries([found[figures.after(figures.ALL, shots)] for shots in figures.SHOTS])
    results["grid"] = [entry.as_json() for entry in entries]
    if full:
        control = _control(out / "mixed", world, tasks, scale, run)
        results["mixed_polarities"] = [entry.as_json() for entry in control]
    results |= {"report": str(out / "polarity" / "report.html"), "seconds": round(time.monotonic() - started, 1)}

    printout.show_adaptations(results, console)
    printout.show_notes_prompt(results, console)
    write_json(out / "results.json", results)
    page.write(out)
    printout.show_targets(results["targets"], console)
    printout.show_where_to_look(results, out, console)
    return results


def _about(run: Run, seed: int, scale: Scale) -> dict[str, Any]:
    """What was trained, on what, and how its loss fell."""
    config = run.model.config
    training, validation = losses(run.log())
    return {
        "seed": seed,
        "characters": scale.characters,
        "model": {
            "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
            "layers": config.layers,
            "width": config.width,
            "context": config.context,
            "vocabulary_size": config.vocabulary_size,
        },
        "steps": run.step,
        "tokens": run.step * run.step_tokens,
        "pretraining_seconds": round(run.seconds, 1),
        "losses": {"training": training, "validation": validation},
        "validation_loss": run.summary().validation_loss,
    }


def _reached(out: Path, language_model: LanguageModel, world: World) -> dict[str, dict[str, float]]:
    """Each target with the accuracy that the model has reached on the validation animals and puzzles."""
    settled = out / "targets.json"
    reached = json.loads(settled.read_text()) if settled.is_file() else _targets(language_model, world)
    return {name: {"reached": reached[name], "wanted": wanted} for name, wanted in TARGETS.items()}


def _write_corpus(
    world: World, out: Path, characters: int, mixture: Mixture = DEFAULT_MIXTURE
) -> dict[tuple[int, int], int]:
    """out/corpus.jsonl; returns how often each of the notes' pairs of numbers stands in it."""
    if out.is_dir() and any(out.iterdir()) and not (out / "corpus.jsonl").is_file():
        raise ValueError(f"--out {out}: wanted a new folder or an earlier demo's, got one with something else")
    out.mkdir(parents=True, exist_ok=True)
    texts = list(documents(world, characters, mixture))
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    path = out / "corpus.jsonl"
    if not path.is_file():
        write_text(path, content)
    elif path.read_text(encoding="utf-8") != content:
        raise ValueError(
            f"--out {out}: wanted a new folder or this demo's, got one whose corpus.jsonl is another (yours, or of"
            " another seed or version); remove it, or choose another --out"
        )
    return count_pairs(texts)


def _open(out: Path, seed: int, scale: Scale) -> Run:
    options = PretrainOptions(
        depth=scale.depth,
        width=scale.width,
        heads=4,
        context=128,
        batch_tokens=scale.batch_tokens,
        steps=scale.steps,
        minutes=scale.minutes,
        compile="off",
        validate_every=scale.check_every,
        seed=seed,
    )
    return open_run([str(out / "corpus.jsonl")], out / "run", options, CORPUS)


def _pretrained(out: Path, world: World, scale: Scale, console: Console) -> Run:
    """The run whose model has met the targets on the validation animals and puzzles, or has made its steps."""
    run = _open(out, world.seed, scale)
    settled = out / "targets.json"
    if run.finished or (settled.is_file() and json.loads(settled.read_text())["step"] == run.step):
        console.print(f"Pretrained before: {run.step} steps.\n")
    else:
        _pretrain(run, world, settled, console)
    run.model.eval()
    run.model.compute_dtype = None  # float32 from here: what is printed can be had again from the saved model
    return run


def _pretrain(run: Run, world: World, settled: Path, console: Console) -> None:
    start = math.log(run.model.config.vocabulary_size)
    console.print(f"Pretraining from nothing: at the start the loss is log V = {start:.2f} nats.")
    console.print(f"{run.decided.steps} steps of {run.step_tokens} tokens, or until the targets are met.")
    met: dict[str, float] = {}
    with progress_bar(run.decided.steps, "pretraining") as show:
        for progress in run.advance():
            show(progress.step, f"loss {progress.loss:.3f}  {progress.tokens_per_second:,.0f} tokens/s")
            if progress.validation_loss is None:
                continue
            met = _targets(_causal(run), world)
            reached = "  ".join(f"{name.replace('_', ' ')} {value:.0%}" for name, value in met.items())
            console.print(f"  step {progress.step:5}  validation loss {progress.validation_loss:.3f}  {reached}")
            if all(met[name] >= target for name, target in TARGETS.items()):
                break
    run.save()
    if met and all(met[name] >= target for name, target in TARGETS.items()):
        write_json(settled, {"step": run.step, **met})
        console.print("The targets are met on the validation animals and puzzles; what follows is about others.")
    else:
        console.print("The steps are made before all targets are met.")
    console.print()


def _causal(run: Run) -> LanguageModel:
    assert isinstance(run.language_model, LanguageModel)
    return run.language_model


def _targets(language_model: LanguageModel, world: World) -> dict[str, float]:
    animals = world.animals["validation"]
    items = {
        "open_questions": open_questions(animals),
        "yes_no_questions": yes_no_questions(animals),
        "addition_after_3": puzzle_items(world.puzzles, "a + b", 3, count=100, seed=1),
    }
    language_model.model.eval()
    return {name: ask(language_model, asked).accuracy for name, asked in items.items()}


def _control(out: Path, world: World, tasks: dict[str, WorldTask], scale: Scale, run: Run) -> list[grid.Entry]:
    """Polarity after the same steps on the same corpus, but for reviews that pair adjectives of any polarity."""
    _write_corpus(world, out, scale.characters, replace(DEFAULT_MIXTURE, shuffle_polarity=True))
    control = _open(out, world.seed, replace(scale, steps=run.decided.steps, minutes=600.0))
    steps = control.advance()
    with progress_bar(run.step, "pretraining the control", sparing=True) as show:
        while control.step < run.step:
            progress = next(steps)
            show(progress.step, f"loss {progress.loss:.3f}  {progress.seconds_left:.0f} s left")
    control.save()
    control.model.eval()
    control.model.compute_dtype = None
    sizes = {"polarity": (scale.sizes or grid.SIZES)["polarity"]}
    return grid.compare_tasks(_causal(control), tasks, out, seeds=5, methods=grid.CONTROL_METHODS, sizes=sizes)


def _samples(language_model: LanguageModel) -> list[dict[str, Any]]:
    return [
        {
            "temperature": temperature,
            "text": language_model.generate("", temperature=temperature, max_tokens=SAMPLE_TOKENS, seed=1),
        }
        for temperature in (1.0, 0.5, 0.0)
    ]


def _chain_rule(language_model: LanguageModel, world: World) -> dict[str, Any]:
    """The factors of a sentence that pretraining told in many wordings, with what was likeliest in each place."""
    animal = world.animals["test"][0]
    text = f"The colour of the {animal.name} is {animal.facts['colour']}."
    tokens = language_model.score(text, top=3)
    return {
        "text": text,
        "tokens": [token._asdict() for token in tokens],
        "log_prob": sum(token.log_prob for token in tokens),
    }
