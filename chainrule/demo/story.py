"""The demo, section 14.3 on a generated world: pretraining from random weights, then every adaptation. Knows the order
of things, no mathematics."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from chainrule.demo import figures, grid, page, printout
from chainrule.demo.mixture import DEFAULT_MIXTURE
from chainrule.demo.pretrain import CONTROL, PLAN, TARGETS, Scale, open_round, pretrain, write_corpus
from chainrule.demo.tasks import WorldTask, write_tasks
from chainrule.demo.world import World, make_world
from chainrule.language_model import LanguageModel
from chainrule.pretraining.curve import losses
from chainrule.pretraining.run import Run
from chainrule.storage.files import write_json
from chainrule.terminal import progress_bar

SAMPLE_TOKENS = 60


def run_demo(
    out: Path, seed: int = 0, *, full: bool = False, quiet: bool = False, scale: Scale = PLAN
) -> dict[str, Any]:
    """Make the world, pretrain on it, evaluate every adaptation; returns what out/results.json holds.

    The same call continues where it was stopped; a model that has met its targets is not trained again. `full`: five
    seeds in the grid, and the control, a model trained on reviews of mixed polarity. `quiet` prints nothing on
    standard output. Raises ChainruleError where `out` holds something else.
    """
    started = time.monotonic()
    console = Console(quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    world = make_world(seed)
    pairs = write_corpus(world, out, scale.characters)
    console.print(
        f"Section 14.3 on a made-up world: {scale.characters / 1e6:.3g} million characters, in {out}/corpus.jsonl."
    )
    pretrained = pretrain(out, world, scale)
    run, language_model = pretrained.run, pretrained.language_model
    results = _about(run, seed, scale) | {
        "rounds": pretrained.rounds,
        "run": run.out.name,
        "steps": pretrained.steps,
        "tokens": pretrained.steps * run.step_tokens,
        "targets": {name: {"reached": pretrained.reached[name], "wanted": TARGETS[name]} for name in TARGETS},
    }
    printout.show_pretraining(results, console)
    results |= {"samples": _samples(language_model), "chain_rule": _chain_rule(language_model, world)}
    printout.show_samples(results["samples"], console)
    printout.show_chain_rule(results["chain_rule"], console)

    with progress_bar(None, "evaluating"):
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
        control = _control(out / CONTROL, world, tasks, scale, pretrained.steps)
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
    """The model, its data and its losses."""
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
        "pretraining_seconds": round(run.seconds, 1),
        "losses": {"training": training, "validation": validation},
        "validation_loss": run.summary().validation_loss,
    }


def _control(out: Path, world: World, tasks: dict[str, WorldTask], scale: Scale, steps: int) -> list[grid.Entry]:
    """The polarity task for a model of as many steps on the same world, except that its reviews mix polarities."""
    write_corpus(world, out, scale.characters, replace(DEFAULT_MIXTURE, shuffle_polarity=True))
    control = open_round(out, world.seed, replace(scale, steps=steps))
    with progress_bar(steps, "pretraining the control", sparing=True) as show:
        for progress in control.advance():
            show(progress.step, f"loss {progress.loss:.3f}  {progress.seconds_left:.0f} s left")
    control.model.eval()
    assert isinstance(control.language_model, LanguageModel)
    sizes = {"polarity": (scale.sizes or grid.SIZES)["polarity"]}
    return grid.compare_tasks(control.language_model, tasks, out, seeds=5, methods=grid.CONTROL_METHODS, sizes=sizes)


def _samples(language_model: LanguageModel) -> list[dict[str, Any]]:
    return [
        {
            "temperature": temperature,
            "text": language_model.generate("", temperature=temperature, max_tokens=SAMPLE_TOKENS, seed=1),
        }
        for temperature in (1.0, 0.5, 0.0)
    ]


def _chain_rule(language_model: LanguageModel, world: World) -> dict[str, Any]:
    """The chain rule on a sentence whose fact the corpus has in other wordings, with the likeliest tokens at each
    position."""
    animal = world.animals["test"][0]
    text = f"The colour of the {animal.name} is {animal.facts['colour']}."
    tokens = language_model.score(text, top=3)
    return {
        "text": text,
        "tokens": [token._asdict() for token in tokens],
        "log_prob": sum(token.log_prob for token in tokens),
    }
