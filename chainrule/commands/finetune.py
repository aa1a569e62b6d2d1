"""The command `finetune`: labelled examples to a classifier."""

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from chainrule.commands.accuracy import tell
from chainrule.commands.options import Columns, Device, Dtype, Json, Longer


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

    read = columns.load(task)
    options = FinetuneOptions(train, labels, epochs, learning_rate, class_weights, longer, seed, dtype)
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
    tell([score], read, classifier.notes, json, {})
    if not json:
        print(f'Written: {out}   Use it: chainrule predict {out} "some text"')
