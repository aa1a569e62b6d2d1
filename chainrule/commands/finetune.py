"""The command `finetune`: labelled examples to a predictor."""

import sys
import time
from contextlib import nullcontext
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

from chainrule.arguments import Help
from chainrule.commands.accuracy import print_figures, print_score
from chainrule.commands.options import (
    Bos,
    Columns,
    Device,
    Folder,
    Json,
    Limit,
    Model,
    check_at_least,
    check_seed,
)
from chainrule.errors import OptionError
from chainrule.finetuning.options import FinetuneOptions
from chainrule.scoring.longer import Longer
from chainrule.training.parallel_options import ParallelOptions

if TYPE_CHECKING:
    from chainrule.finetuning.classifier import Classifier
    from chainrule.finetuning.finetune import Finetuning
    from chainrule.finetuning.language import LanguageFinetuning
    from chainrule.language_model import Pretrained
    from chainrule.model.formats.load_quantised import Quantize
    from chainrule.tasks.examples import Task
    from chainrule.training.parallel import Processes


def finetune(
    model: Model,
    task: Annotated[
        str,
        Help("TASK", "A task file (.toml), a data file with --text and --label, or a .jsonl of conversations."),
    ],
    /,
    out: Folder,
    columns: Columns = Columns(),
    show: int = 0,
    limit: Limit = None,
    options: FinetuneOptions = FinetuneOptions(),
    quantize: Literal["none", "auto", "int8", "int4"] = "none",
    parallel: ParallelOptions = ParallelOptions(),
    bos: Bos = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a predictor on your labels, and show how good it is on the test items.

    A task file says whether a text has one label, several at once, a number, or a free answer (see chainrule task
    --kind).

    A task of free answers is learned by predicting them. Where MODEL is a classifier, --train full goes on from it, on
    rows with labels that it has. Interrupted, the same command continues.

    Options:
        out: Folder of the predictor, which transformers loads too.
        show: Print N training texts as tokens; words and answers that are learned stand in brackets.

    Training:
        quantize: With --train lora, keep the model in 8 or 4 bits; auto keeps those of its file.

    Example:
        chainrule finetune runs/books reviews.toml --out runs/stars --train head
        chainrule finetune runs/books reviews.toml --out runs/words --by words --train lora
    """
    from chainrule.commands.writing import writing
    from chainrule.finetuning.finetune import open_finetuning
    from chainrule.tasks.figures import check_test_items, measure_figures
    from chainrule.tasks.measure import measure
    from chainrule.training.torchrun import joined

    train = options.train
    check_at_least(1, labels=options.labels, limit=limit)
    check_at_least(0, show=show)
    check_seed(options.seed)
    if quantize != "none" and train != "lora":
        raise OptionError(
            f"--quantize: wanted --train lora beside it, as quantised weights stay as they are, got {train}; add it, or"
            " leave --quantize out"
        )
    if train == "head":
        _refuse_what_a_head_lacks(options)
    with joined(device, parallel.wait) as processes:
        with processes.together():
            read = columns.load(task)
            check_test_items(read, limit)  # before anything is trained
            lm = _load(model, bos, quantize, device)
            if options.by == "head" and read.kind != "free":
                _check_rows(lm, read, options.longer, limit)
        saved = ("training/*/state.json", "model.safetensors", "adapter_model.safetensors")
        with writing(out, processes, saved=saved):
            started = time.monotonic()
            finetuning = open_finetuning(lm, read, options, out, processes=processes, parallel=parallel)
            shown = finetuning.shown(show)
            if processes.first and not json:
                print("".join(f"{text}\n\n" for text in shown), end="", flush=True)
            new = not finetuning.finished
            _train(finetuning, processes)
            predictor = finetuning.predictor()
            trained = time.monotonic() - started if new else None
    if not processes.first:
        return
    extra = {"shown": shown} if shown else {}
    if read.kind in ("multilabel", "regression"):
        print_figures(measure_figures(predictor, read, limit), predictor.notes, json, extra, trained)
    else:
        print_score([measure(predictor, read, limit)], read, predictor.notes, json, extra, trained)
    if not json:
        rows = '"some text"' if len(read.text) == 1 else "--input rows.csv --out labelled.csv"
        print(f"Written: {out}   Use it: chainrule predict {quote(str(out))} {rows}")


def _load(model: str, bos: str | None, quantize: "Quantize", device: Device) -> "Pretrained | Classifier":
    """The language model, or the classifier, that MODEL names. Errors as those of their loaders."""
    from chainrule.finetuning.classifier import load_classifier
    from chainrule.finetuning.further import holds_classifier
    from chainrule.language_model import load

    if not holds_classifier(model):
        return load(model, device=device, dtype="float32", bos=bos, quantize=quantize)
    if bos is not None:
        raise OptionError(f"--bos: wanted none, as the classifier MODEL has its own, got {bos}; leave it out")
    return load_classifier(model, device=device, dtype="float32")


def _check_rows(lm: "Pretrained | Classifier", task: "Task", longer: Longer, limit: int | None) -> None:
    """ChainruleError for test rows that would be refused in the end, before anything is trained."""
    from chainrule.finetuning.classifier import Classifier, form_of
    from chainrule.finetuning.further import model_of
    from chainrule.scoring.features import Features
    from chainrule.tasks.measure import held_out

    base = model_of(lm) if isinstance(lm, Classifier) else lm
    form = form_of(task, base.model, base.tokenizer)
    reader = Features(base.model, base.tokenizer, longer=longer, pairs=form.pair)
    reader.tokens([form(row) for row in held_out(task, limit).rows])


def _refuse_what_a_head_lacks(options: FinetuneOptions) -> None:
    """OptionError for options of the steps that full and lora make; a head alone is solved for, in float32."""
    given = {"epochs": options.epochs, "learning-rate": options.learning_rate}
    for name, value in {**given, "dtype": "bfloat16" if options.dtype == "bfloat16" else None}.items():
        if value is not None:
            raise OptionError(
                f"--{name}: wanted --train full or lora beside it, got head, which is solved for in float32 without"
                f" steps; leave --{name} out"
            )


def _train(finetuning: "Finetuning | LanguageFinetuning", processes: "Processes") -> None:
    """Make the remaining steps and report them; a signal saves and ends the process."""
    from chainrule.terminal import log, progress_bar, signals_noted

    finished = finetuning.finished
    if finished and processes.first:
        log(f"{finetuning.out} is finished; use another --out to train again")
    show = progress_bar(1.0, "finetuning") if processes.first else nullcontext(lambda done, beside: None)
    with signals_noted() as signalled, show as bar:
        begun = False
        for progress in finetuning.advance():
            if processes.first and progress.step > 1 and not begun:
                log(f"going on from step {progress.step - 1} of {progress.steps}")
            begun = True
            if processes.first and progress.shown:
                beside = (
                    f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}"
                    f"  {progress.steps_per_second * finetuning.batch_size:,.0f} texts/s"
                    f"  {progress.seconds_left:.0f} s left"
                )
                bar(progress.step / progress.steps, beside)
                if progress.validation_loss is not None:
                    log(f"{beside}  validation loss {progress.validation_loss:.4f}")
            number = processes.largest(signalled() or 0)
            if number and progress.step < progress.steps:
                finetuning.save()
                if processes.first:
                    log(f"stopped and saved at step {progress.step}; the same command continues from there")
                sys.exit(128 + number)
