"""Pretrains on the made-up world until its targets are met; steps decide, no clock. Knows no adaptation."""

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from chainrule.corpus.write import CorpusOptions
from chainrule.demo import grid, printout
from chainrule.demo.animals import open_questions, yes_no_questions
from chainrule.demo.ask import ask_all
from chainrule.demo.mixture import DEFAULT_MIXTURE, Mixture
from chainrule.demo.puzzles import MEANINGS, MOST_SHOTS, count_pairs, notes_question, one_question, puzzle_items
from chainrule.demo.world import World, documents
from chainrule.errors import FolderError
from chainrule.language_model import LanguageModel
from chainrule.pretraining.options import PretrainOptions
from chainrule.pretraining.run import Run
from chainrule.pretraining.start import open_run
from chainrule.storage.files import atomic_directory, write_json, write_text
from chainrule.storage.run_folder import find_record
from chainrule.terminal import log, progress_bar, signals_noted
from chainrule.tokens.make import train_bpe


@dataclass(frozen=True)
class Scale:
    """How large the demo is; smaller in tests."""

    characters: int = 6_000_000
    steps: int = 1800  # of a round of pretraining; another round follows where targets are not met
    depth: int = 6
    width: int = 96
    heads: int = 3
    context: int = 64  # BOS, eight examples, and a question with its answer
    batch_tokens: int = 1024
    vocabulary_size: int = 1300
    check_every: int = 100  # steps between checks of the targets
    items: int = 200  # puzzles a figure
    sizes: dict[str, tuple[int, ...]] | None = None  # labels in the grid; None: grid.SIZES
    minutes: float = 15.0  # no step is made after these
    rounds: int | None = None  # at most; None: as many as fit into the minutes


PLAN = Scale()
# What a model must get right of the validation animals and puzzles.
TARGETS = {
    "open_questions": 0.97,
    "yes_no_questions": 0.9,
    "addition_after_3": 0.98,
    **{f"{meaning} after {MOST_SHOTS}": 0.95 for meaning in MEANINGS},
    "one_question": 1.0,  # the same last line after examples of each meaning
    "notes_prompt": 1.0,
}
# A number keeps the space before it; "Q:", "A:" with the line end before them, and marks with a space between them,
# may become one token: a line of a puzzle is seven tokens, not twelve.
PATTERN = (
    r"(?:\A|[\r\n]+)\p{Lu}:|[\r\n]+| ?[\p{L}\p{M}]+| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+(?: [^\s\p{L}\p{M}\p{N}]+)*|\s+(?!\S)|\s+"
)
TOKENIZER_TEXT = 1_500_000  # characters that the tokenizer is trained on
VALIDATION = 0.005  # of the documents
LATER_RATE = 0.01  # the learning rate of rounds after the first, which begin with a trained model
CONTROL = "mixed"  # the folder of the control that --full adds
PUZZLES = 100  # of each kind that a target is measured on


@dataclass(frozen=True)
class Pretrained:
    """What a demo has pretrained so far."""

    run: Run  # its last round
    reached: Mapping[str, float]  # target -> accuracy on the validation animals and puzzles
    rounds: int

    @property
    def language_model(self) -> LanguageModel:
        assert isinstance(self.run.language_model, LanguageModel)
        return self.run.language_model

    @property
    def steps(self) -> int:
        """Of all rounds."""
        return (self.rounds - 1) * self.run.decided.steps + self.run.step

    @property
    def missed(self) -> list[str]:
        """The targets that are not met."""
        return _missed(self.reached)


def _missed(reached: Mapping[str, float]) -> list[str]:
    return [name for name, wanted in TARGETS.items() if reached.get(name, 0.0) < wanted]


def targets_reached(language_model: LanguageModel, world: World, *, every: bool = False) -> dict[str, float]:
    """The accuracy on what each target asks, about validation animals and puzzles.

    The few questions in words are asked first; the puzzles only where these are right, or if `every` target is wanted.
    """
    animals = world.animals["validation"]
    words = {"open_questions": open_questions(animals), "yes_no_questions": yes_no_questions(animals)}
    puzzles = {
        "addition_after_3": puzzle_items(world.puzzles, "a + b", 3, count=PUZZLES, seed=1),
        **{
            f"{meaning} after {MOST_SHOTS}": puzzle_items(world.puzzles, meaning, MOST_SHOTS, count=PUZZLES, seed=1)
            for meaning in MEANINGS
        },
        "one_question": list(one_question().values()),
        "notes_prompt": [notes_question()],
    }
    language_model.model.eval()
    reached = {name: figure.accuracy for name, figure in ask_all(language_model, words).items()}
    if every or all(reached[name] >= TARGETS[name] for name in words):
        reached |= {name: figure.accuracy for name, figure in ask_all(language_model, puzzles).items()}
    return reached


def write_corpus(
    world: World, out: Path, characters: int, mixture: Mixture = DEFAULT_MIXTURE
) -> dict[tuple[int, int], int]:
    """out/corpus.jsonl; returns how often each of the notes' pairs of numbers occurs in it.

    Raises FolderError where `out` holds something else.
    """
    path = out / "corpus.jsonl"
    find_record(out, (path.name,), "an earlier demo")
    texts = list(documents(world, characters, mixture))
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    if path.is_file() and path.read_text(encoding="utf-8") != content:
        raise FolderError(
            f"--out {out}: wanted a new folder or this demo's, got one whose corpus.jsonl is another (yours, or of"
            " another seed or version); remove it, or choose another --out"
        )
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, content)
    return count_pairs(texts)


def open_round(out: Path, seed: int, scale: Scale, number: int = 1) -> Run:
    """The `number`-th round, made or found again: out/run, then out/run-2 from its weights, and so on.

    Precision and steps are fixed, so that nothing that the run decides depends on how fast this machine is.
    """
    folder = out / ("run" if number == 1 else f"run-{number}")
    options = PretrainOptions(
        depth=scale.depth,
        width=scale.width,
        heads=scale.heads,
        context=scale.context,
        batch_tokens=scale.batch_tokens,
        align_documents=True,
        steps=scale.steps,
        compile="off",
        validate_every=scale.check_every,
        seed=seed,
    )
    if number > 1:
        options = replace(
            options,
            depth=None, width=None, heads=None, context=None,
            start=open_round(out, seed, scale, number - 1).out,
            optimizer="muon",
            learning_rate=LATER_RATE,
            seed=seed + number - 1,
        )  # fmt: skip
    corpus = CorpusOptions(tokenizer=str(world_tokenizer(out, scale)), validation=VALIDATION)
    return open_run([str(out / "corpus.jsonl")], folder, options, corpus, dtype="float32")


def world_tokenizer(out: Path, scale: Scale) -> Path:
    """The folder of the world's tokenizer, which is made from the beginning of the corpus."""
    folder = out / "tokenizer"
    if not folder.is_dir():
        with (out / "corpus.jsonl").open(encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line in file.readlines(TOKENIZER_TEXT)]
        with atomic_directory(folder) as beside:
            train_bpe(texts, scale.vocabulary_size, pattern=PATTERN).save(beside)
    return folder


def pretrain(out: Path, world: World, scale: Scale) -> Pretrained:
    """Make rounds of pretraining until the targets are met or the minutes are over; the same call
    continues.

    After SIGTERM or Ctrl-C what was reached is saved and the process ends.
    """
    deadline = time.monotonic() + 60 * scale.minutes
    number = 1
    while (out / f"run-{number + 1}").is_dir():
        number += 1
    while True:
        run = open_round(out, world.seed, scale, number)
        reached = _advance(out, run, world, scale, deadline)
        made = Pretrained(run, reached, number)
        if not made.missed or number == scale.rounds or time.monotonic() > deadline:
            run.model.eval()
            return made
        number += 1


def _advance(out: Path, run: Run, world: World, scale: Scale, deadline: float) -> dict[str, float]:
    """Make a round's steps until the targets are met; what was reached is in targets.json beside its model."""
    settled, lm = run.out / "targets.json", run.language_model
    assert isinstance(lm, LanguageModel)
    reached: dict[str, float] = {}
    if settled.is_file() and (found := json.loads(settled.read_text()))["step"] == run.step:
        reached = {name: found[name] for name in TARGETS}
        if run.finished or not _missed(reached):
            return reached
    elif run.step and run.step % scale.check_every == 0:  # stopped between the checkpoint and the look
        reached = targets_reached(lm, world)
    for name in (*grid.SIZES, CONTROL):  # made with the weights, or as many steps, as they were
        shutil.rmtree(out / name, ignore_errors=True)
    start, looked = math.log(run.model.config.vocabulary_size), run.step
    with signals_noted() as signalled, progress_bar(run.decided.steps, "pretraining", sparing=True) as show:
        steps = run.advance()
        while _missed(reached) and not run.finished:
            progress = next(steps)
            show(progress.step, printout.falling(start, progress.step, progress.loss, progress.tokens_per_second))
            if progress.validation_loss is not None:
                reached, looked = targets_reached(lm, world), run.step
            if (number := signalled()) is not None:
                run.save()
                log(f"stopped and saved at step {run.step}; the same command continues from there")
                sys.exit(128 + number)
            if time.monotonic() > deadline:
                break
    if looked < run.step or len(reached) < len(TARGETS):
        reached = targets_reached(lm, world, every=True)
    run.save()
    write_json(settled, {"step": run.step, **reached})
    return reached
