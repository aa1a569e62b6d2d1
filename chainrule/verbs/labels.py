"""The verbs of who has labels: a task, the three adaptations, their comparison. Knows how things are asked and shown,
not done."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from chainrule.verbs.options import Device, Dtype, Json, check_at_least, check_seed, refuse_without

if TYPE_CHECKING:
    from chainrule.adaptation.examples import Task
    from chainrule.adaptation.measure import Score
    from chainrule.adaptation.predictions import Predictor
    from chainrule.adaptation.prompted import Prompted

Calibrate = Literal["none", "content-free", "train"]
Normalise = Literal["sum", "token", "byte"]
Longer = Literal["cut", "refuse"]


@dataclass(frozen=True)
class Columns:
    """For a TASK that is a data file: which columns are meant. A task file says so itself."""

    text: tuple[str, ...] = ()
    """The text's column, or several."""
    label: str = ""
    """The label's column."""

    def load(self, path: str) -> "Task":
        from chainrule.adaptation.examples import Task

        return Task.load(path, text=self.text, label=self.label)


@dataclass(frozen=True)
class Asking:
    """How a language model is asked for a label."""

    calibrate: Calibrate = "none"
    """Take out what the prompt says of texts without content, or of training texts."""
    normalise: Normalise = "sum"
    """Label words of unequal length: log p of the whole, a token of it, or a byte of it."""
    longer: Longer = "cut"
    """A row longer than the context loses its beginning, or is refused."""
    chat: bool = False
    """Write the prompt as the model's chat template has it, each demonstration as a turn."""


def task(
    data: Positional[str],
    /,
    out: Path,
    columns: OmitArgPrefixes[Columns] = Columns(),
    test: Path | None = None,
    header: tuple[str, ...] = (),
    kind: Literal["classification", "free"] = "classification",
    model: str | None = None,
    json: Json = False,
) -> None:
    """Write a task file for labelled data, and show what is in it.

    Args:
        data: Labelled rows: .jsonl, .csv, .tsv or .parquet.
        out: The task file to write, a .toml.
        test: The file of the test rows; without it a fifth of the data is held out.
        header: The names of the columns, for files without such a line.
        kind: What an answer is: a class, or free text judged by exact match.
        model: Show lengths against this model's context, and the borders of its tokens.
        json: Print one JSON document.
    """
    from chainrule.adaptation.examples import Task
    from chainrule.adaptation.inspect_task import inspect_task, print_task
    from chainrule.adaptation.task_file import Settings, task_file
    from chainrule.files import write_text
    from chainrule.terminal import print_json

    if out.suffix != ".toml":
        raise ValueError(f"--out {out}: wanted a name that ends in .toml, got another; rename it")
    if out.exists():
        raise ValueError(f"--out {out}: wanted a new file, got one that is there; edit it, or name another")
    settings = Settings(Path(data), columns.text, columns.label, test=test, columns=header, kind=kind)
    content = task_file(settings, Task.read(settings).labels, out.parent)
    write_text(out, content)
    try:
        found = inspect_task(Task.load(out), *_tokenizer_and_context(model))
    except BaseException:
        out.unlink()
        raise
    if json:
        print_json(found)
        return
    print_task(found)
    print(f"Written: {out}")


def zero_shot(
    model: Positional[str],
    task: Positional[str],
    /,
    columns: OmitArgPrefixes[Columns] = Columns(),
    answer: Literal["labels", "vocabulary"] = "labels",
    asking: OmitArgPrefixes[Asking] = Asking(),
    limit: int | None = None,
    show: int = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Put the task as a question or a cloze: the answer is what the model finds most probable. Its accuracy on test.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        task: A task file, or labelled rows with --text and --label.
        answer: The most probable label word, or the most probable next word of the whole vocabulary.
        limit: So many test items, drawn always alike.
        show: Print so many exact prompts and what was answered.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.adaptation.measure import measure
    from chainrule.adaptation.prompted import zero_shot
    from chainrule.language_model import load

    check_at_least(1, limit=limit)
    check_at_least(0, show=show)
    read = columns.load(task)
    predictor = zero_shot(load(model, device=device, dtype=dtype), read, answer=answer, **vars(asking))
    score = measure(predictor, read, limit)
    _tell_prompted([predictor], read, [score], limit, show, json)


def in_context(
    model: Positional[str],
    task: Positional[str],
    /,
    columns: OmitArgPrefixes[Columns] = Columns(),
    shots: int = 16,
    select: Literal["random", "balanced", "nearest"] = "random",
    by: Literal["features", "bm25"] = "features",
    labels: int | None = None,
    seeds: int = 1,
    spread: bool = False,
    answer: Literal["labels", "vocabulary"] = "labels",
    asking: OmitArgPrefixes[Asking] = Asking(),
    limit: int | None = None,
    show: int = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Show labelled examples in the prompt, and then ask. The accuracy on the test items.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        task: A task file, or labelled rows with --text and --label.
        shots: How many demonstrations stand in the prompt.
        select: Which: drawn at random, as many of each class, or the nearest to the row.
        by: Nearest by the features φ, or by the words (BM25).
        labels: Out of how many labelled examples; all of train by default.
        seeds: How many draws of the demonstrations.
        spread: Tell the spread due to the demonstrations, their order, and the test items apart: 15 times the work.
        answer: The most probable label word, or the most probable next word of the whole vocabulary.
        limit: So many test items, drawn always alike.
        show: Print so many exact prompts and what was answered.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule import statistics
    from chainrule.adaptation.measure import correctness, measure
    from chainrule.adaptation.prompted import in_context
    from chainrule.language_model import load

    check_at_least(0, shots=shots, show=show)
    check_at_least(1, labels=labels, seeds=seeds, limit=limit)
    read, lm = columns.load(task), load(model, device=device, dtype=dtype)

    def predictor(seed: int, order: int = 0) -> "Prompted":
        how: dict[str, Any] = {"select": select, "by": by, "labels": labels, "answer": answer, **vars(asking)}
        return in_context(lm, read, shots, seed=seed, order=order, **how)

    predictors = [predictor(seed) for seed in range(seeds)]
    scores = [measure(each, read, limit) for each in predictors]
    parts = statistics.spread(correctness(predictor, read, limit=limit))._asdict() if spread else None
    _tell_prompted(predictors, read, scores, limit, show, json, parts)


def finetune(
    model: Positional[str],
    task: Positional[str],
    /,
    out: Path,
    columns: OmitArgPrefixes[Columns] = Columns(),
    train: Literal["full", "head"] = "full",
    labels: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    class_weights: bool = False,
    longer: Longer = "cut",
    seed: int = 0,
    limit: int | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Train a linear head on φ, with θ or alone; the same command again goes on. A classifier, and its accuracy.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        task: A task file, or labelled rows with --text and --label.
        out: The folder of the classifier, which transformers loads too.
        train: w and θ together from θ̂, or w alone on features that stay.
        labels: How many labelled examples it learns from; all of train by default.
        epochs: Of full; by default 3, and at least 100 steps.
        learning_rate: Of θ; by default from the width.
        class_weights: Every class counts the same, however rare.
        longer: A text longer than the context loses its beginning, or is refused.
        seed: Of the labelled examples and their order.
        limit: So many test items, drawn always alike.
        device: Where to compute.
        dtype: What to train in; auto is bfloat16 where this machine multiplies faster with it.
        json: Print one JSON document.
    """
    from chainrule.adaptation.finetuned import FinetuneOptions, Finetuning
    from chainrule.adaptation.measure import measure
    from chainrule.language_model import load
    from chainrule.terminal import progress_bar, say, signals_noted

    options = FinetuneOptions(train, labels, epochs, learning_rate, class_weights, longer, seed, dtype)
    check_at_least(1, labels=labels, limit=limit)
    check_seed(seed)
    read = columns.load(task)
    lm = load(model, device=device, dtype="float32")
    finetuning = Finetuning(lm, read, options, out)
    if finetuning.finished:
        say(f"{out} is finished; another --out begins anew")
    with signals_noted() as signalled, progress_bar(1.0, "finetuning") as bar:
        for progress in finetuning.advance():
            beside = (
                f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}"
                f"  {progress.texts_per_second:,.0f} texts/s  {progress.seconds_left:.0f} s left"
            )
            bar(progress.step / progress.steps, beside)
            if progress.validation_loss is not None:
                say(f"{beside}  validation loss {progress.validation_loss:.4f}")
            if (number := signalled()) is not None and progress.step < progress.steps:
                finetuning.save()
                say(f"stopped and saved at step {progress.step}; the same command goes on from there")
                sys.exit(128 + number)
    classifier = finetuning.classifier()
    score = measure(classifier, read, limit)
    _tell([score], read, classifier.notes, json, {})
    if not json:
        print(f'Written: {out}   Use it: chainrule predict {out} "some text"')


def predict(
    predictor: Positional[str],
    texts: Positional[tuple[str, ...]] = (),
    /,
    task: str | None = None,
    columns: OmitArgPrefixes[Columns] = Columns(),
    shots: int = 0,
    seed: int = 0,
    asking: OmitArgPrefixes[Asking] = Asking(),
    source: Annotated[str | None, tyro.conf.arg(name="input")] = None,
    out: Path | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Label texts: with a finetuned classifier, or a language model that is asked by a --task. A JSON line each.

    Args:
        predictor: A folder that finetune wrote; or, with --task, a run or any Hugging Face directory.
        texts: What to label; - reads standard input, a text a line.
        task: How a language model is asked.
        shots: How many demonstrations out of the task's training rows it is shown.
        seed: Of the demonstrations.
        source: A file of rows to label: .csv, .tsv, .jsonl, .parquet, or .txt with a text a line.
        out: Where its rows go, with the predictions in added columns: a .csv, .tsv or .jsonl.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.adaptation.predictions import predict_file, predictions
    from chainrule.terminal import print_json, progress_bar, say

    if (source is None) == (not texts) or (source is None) != (out is None):
        raise ValueError("predict: wanted texts, or --input and --out together; got neither or both: choose one way")
    check_at_least(0, shots=shots)
    check_seed(seed)
    made = _predictor(predictor, task, columns, shots, seed, asking, device, dtype)
    started = time.monotonic()
    if source is not None and out is not None:
        with progress_bar(None, "predicting") as bar:
            rows = predict_file(made, source, out, show=lambda done: bar(done, f"{done:,} rows"))
        seconds = time.monotonic() - started
        if json:
            print_json({"rows": rows, "seconds": seconds, "texts_per_second": rows / seconds})
        else:
            print(f"{out}: {rows} rows, {rows / seconds:,.0f} a second")
    else:
        found = predictions(made, _texts(texts))
        if json:
            print_json({"predictions": list(found)})
        else:
            from json import dumps

            for prediction in found:
                print(dumps(prediction, ensure_ascii=False), flush=True)
    for note in getattr(made, "notes", ()):
        say(note)


def compare(
    model: Positional[str],
    task: Positional[str],
    /,
    out: Path,
    columns: OmitArgPrefixes[Columns] = Columns(),
    methods: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (),
    seeds: int = 5,
    limit: int | None = None,
    minutes: float | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Every method, from 0 labels to all of them, on the same test items: a table, curves, a report, and advice.

    Prints its plan with the estimated time first, runs the cheapest rows first, and goes on from the rows it has.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        task: A task file, or labelled rows with --text and --label.
        out: The folder that rows, results.json, curves and report.html go to.
        methods: Some of zero-shot in-context in-context-nearest head full majority bag-of-words random-weights.
        sizes: Numbers of labels; 4, 16, 64, ... and all by default.
        seeds: How many draws of the labels.
        limit: So many test items, drawn always alike.
        minutes: Rows that would end later are left out.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.comparison.grid import Bounds
    from chainrule.comparison.run import compare
    from chainrule.comparison.table import COLUMNS, Comparison
    from chainrule.language_model import load
    from chainrule.terminal import live_table, print_json, print_table, say

    Bounds(methods or None, sizes or None, seeds, limit, minutes)  # refused before anything is loaded
    lm, read = load(model, device=device, dtype=dtype), columns.load(task)
    with live_table(COLUMNS) as draw:

        def show(comparison: Comparison) -> None:
            draw(comparison.text(differences=False), f"{len(comparison.left)} rows left")

        comparison = compare(
            lm, read, out=out, methods=methods or None, sizes=sizes or None, seeds=seeds, limit=limit,
            minutes=minutes, show=show, say=say,
        )  # fmt: skip
    if json:
        print_json(comparison.results())
        return
    print_table(COLUMNS, comparison.text())
    print("* told apart from the best baseline with as many labels, all comparisons taken together")
    print(f"\n{comparison.advice}\n\nThe report: {out}/report.html")


def _texts(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if text == "-":
            yield from (line for line in sys.stdin.read().splitlines() if line.strip())
        else:
            yield text


def _predictor(
    directory: str,
    task: str | None,
    columns: Columns,
    shots: int,
    seed: int,
    asking: Asking,
    device: Device,
    dtype: Dtype,
) -> "Predictor":
    if task is None:
        from chainrule.adaptation.classifier import load_classifier

        given = {"shots": shots, "seed": seed, **vars(columns), **vars(asking)}
        default = {"shots": 0, "seed": 0, **vars(Columns()), **vars(Asking())}
        refuse_without("a --task", given, default)
        return load_classifier(directory, device=device, dtype=dtype)
    from chainrule.adaptation.prompted import in_context
    from chainrule.language_model import load

    lm = load(directory, device=device, dtype=dtype)
    return in_context(lm, columns.load(task), shots, seed=seed, **vars(asking))


def _tokenizer_and_context(model: str | None) -> tuple[Any, int]:
    if model is None:
        return None, 0
    from chainrule.hub import model_directory
    from chainrule.model.checkpoint import read_config
    from chainrule.model.families import FAMILIES, family_of
    from chainrule.text.tokenizer import load_tokenizer

    directory = model_directory(model, weights=False)
    fields = read_config(directory)
    return load_tokenizer(directory), FAMILIES[family_of(fields)].read(fields).context


def _tell_prompted(
    predictors: Sequence["Prompted"],
    task: "Task",
    scores: Sequence["Score"],
    limit: int | None,
    show: int,
    json: bool,
    spread: dict[str, float] | None = None,
) -> None:
    """What was asked and answered, and the score; by `--answer vocabulary` also the words that were said."""
    from collections import Counter

    from chainrule.adaptation.measure import held_out
    from chainrule.terminal import print_table

    items = held_out(task, limit)
    beside: dict[str, Any] = {}
    first = predictors[0]
    shown = [(label, first.show(row)) for row, label in list(zip(items.rows, items.labels, strict=True))[:show]]
    if first.generates:
        beside["answers"] = dict(Counter(scores[0].answers or ()).most_common(20))
    if show:
        beside["shown"] = [{**one._asdict(), "label": label} for label, one in shown]
    if spread is not None:
        beside["spread"] = spread
    notes = list(dict.fromkeys(note for predictor in predictors for note in predictor.notes))
    if not json:
        for label, one in shown:
            print(f"{one.prompt}‖ {one.answer!r}, and right is {label!r}")
            print("".join(f"    p({word}) = {p:.4f}" for word, p in one.probabilities.items()) + "\n")
        if "answers" in beside and first.labels:  # free answers are as many as there are questions
            print_table(("said", "times"), [(repr(word), str(times)) for word, times in beside["answers"].items()])
    _tell(scores, task, notes, json, beside)
    if spread is not None and not json:
        parts = "  ".join(f"{name} {100 * value:.1f}" for name, value in spread.items())
        print(f"Standard deviation in points of accuracy due to: {parts}")


def _tell(scores: Sequence["Score"], task: "Task", notes: Sequence[str], json: bool, beside: dict[str, Any]) -> None:
    """The score of a predictor, or of one from each seed."""
    import numpy as np

    from chainrule import statistics
    from chainrule.terminal import print_json, say

    right = np.array([score.right for score in scores])
    estimate = statistics.accuracy(right, scores[0].groups)
    interval = (estimate.low, estimate.high)
    seconds = sum(score.seconds for score in scores)
    if json:
        head = {"accuracy": estimate.value, "interval": interval, "n": scores[0].n, "chance": scores[0].chance}
        print_json({**head, "seconds": seconds, **({"notes": notes} if notes else {}), **beside})
        return
    seeds = f", {len(scores)} seeds" if len(scores) > 1 else ""
    print(
        f"accuracy {estimate.value:.1%} (95 %: {estimate.low:.1%} to {estimate.high:.1%}, n = {scores[0].n}{seeds};"
        f" chance {scores[0].chance:.1%}), {seconds:.1f} s"
    )
    for note in notes:
        say(note)
