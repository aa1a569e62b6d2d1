"""The command `finetune`: labelled examples to a classifier."""

import sys
from typing import TYPE_CHECKING, Literal

from chainrule.commands.accuracy import print_figures, print_score
from chainrule.commands.options import (
    Bos,
    Columns,
    Device,
    Folder,
    Json,
    Limit,
    Longer,
    Model,
    TaskFile,
    TrainingDtype,
    check_at_least,
    check_seed,
)

if TYPE_CHECKING:
    from chainrule.finetuning.finetune import Finetuning


def finetune(
    model: Model,
    task: TaskFile,
    /,
    out: Folder,
    columns: Columns = Columns(),
    train: Literal["full", "lora", "head"] = "full",
    rank: int | None = None,
    labels: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    class_weights: bool = False,
    longer: Longer = "cut",
    seed: int = 0,
    limit: Limit = None,
    bos: Bos = None,
    device: Device = "auto",
    dtype: TrainingDtype = "auto",
    json: Json = False,
) -> None:
    """Train a classifier on your labels, and show how good it is on the test items.

    A task file says whether a text has one label, several at once, or a number (see chainrule task --kind).

    Interrupted, the same command continues.

    Options:
        out: Folder of the classifier, which transformers loads too.

    Training:
        train: Train the model and a linear head, or adapters and a head, or the head alone.
        rank: Rank of the adapters of --train lora (default 16).
        labels: Learn from N training examples (default all).
        epochs: Epochs for full and lora (default 3, at least 100 steps).
        learning_rate: Peak learning rate (default by the width); the head has 10 times that of full.
        class_weights: Give every class the same weight, however rare.
        longer: Texts over the context: cut the beginning, or refuse.
        seed: Seed of the choice of examples and of their order.

    Example:
        chainrule finetune runs/books reviews.toml --out runs/stars --train head
    """
    from chainrule.finetuning.classifier import form_of
    from chainrule.finetuning.finetune import FinetuneOptions, Finetuning
    from chainrule.language_model import load
    from chainrule.scoring.features import Features
    from chainrule.storage.files import nothing_left_if_refused
    from chainrule.tasks.figures import measure_figures
    from chainrule.tasks.measure import held_out, measure

    options = FinetuneOptions(train, labels, epochs, learning_rate, class_weights, longer, seed, dtype, rank)
    check_at_least(1, labels=labels, limit=limit, rank=rank)
    check_seed(seed)
    read = columns.load(task)
    lm = load(model, device=device, dtype="float32", bos=bos)
    # test rows that would be refused in the end are refused before anything is trained
    form = form_of(read, lm.model, lm.tokenizer)
    Features(lm.model, lm.tokenizer, longer=longer, pairs=form.pair).tokens(
        [form(row) for row in held_out(read, limit).rows]
    )
    with nothing_left_if_refused(
        out, saved=("training/*/state.json", "model.safetensors", "adapter_model.safetensors")
    ):
        finetuning = Finetuning(lm, read, options, out)
        _train(finetuning)
        classifier = finetuning.classifier()
    if read.kind in ("multilabel", "regression"):
        print_figures(measure_figures(classifier, read, limit), classifier.notes, json)
    else:
        print_score([measure(classifier, read, limit)], read, classifier.notes, json, {})
    if not json:
        print(f'Written: {out}   Use it: chainrule predict {out} "some text"')


def _train(finetuning: "Finetuning") -> None:
    """Make the remaining steps and report them; a signal saves and ends the process."""
    from chainrule.terminal import log, progress_bar, signals_noted

    if finetuning.finished:
        log(f"{finetuning.out} is finished; use another --out to train again")
    with signals_noted() as signalled, progress_bar(1.0, "finetuning") as bar:
        for progress in finetuning.advance():
            beside = (
                f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}"
                f"  {progress.steps_per_second * finetuning.batch_size:,.0f} texts/s"
                f"  {progress.seconds_left:.0f} s left"
            )
            bar(progress.step / progress.steps, beside)
            if progress.validation_loss is not None:
                log(f"{beside}  validation loss {progress.validation_loss:.4f}")
            if (number := signalled()) is not None and progress.step < progress.steps:
                finetuning.save()
                log(f"stopped and saved at step {progress.step}; the same command continues from there")
                sys.exit(128 + number)
