"""The command `pretrain`: text or shards to a language model."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from chainrule.arguments import Help
from chainrule.commands.options import Device, Folder, Json, TrainingDtype
from chainrule.corpus.options import CorpusOptions
from chainrule.pretraining.options import PretrainOptions
from chainrule.training.parallel_options import ParallelOptions

if TYPE_CHECKING:
    from chainrule.pretraining.run import Run


def pretrain(
    data: Annotated[tuple[str, ...], Help("DATA")],
    /,
    out: Folder,
    options: PretrainOptions = PretrainOptions(),
    corpus: CorpusOptions = CorpusOptions(),
    parallel: ParallelOptions = ParallelOptions(),
    device: Device = "auto",
    dtype: TrainingDtype = "auto",
    json: Json = False,
) -> None:
    """Train a language model on text, from nothing or from another model.

    Interrupted by Ctrl-C, SIGTERM or a power cut, the same command continues where it stopped.

    Args:
        data: Text: .txt .jsonl .csv .tsv .parquet, folders, globs, or - for standard input; or one folder that
            tokenize wrote.

    Options:
        out: Folder of the run; at the end it is a Hugging Face model folder.

    Example:
        chainrule pretrain books.txt --out runs/books --minutes 10
    """
    from chainrule.commands.writing import writing
    from chainrule.pretraining.start import open_run
    from chainrule.terminal import log, print_json
    from chainrule.training.torchrun import joined

    with joined(device, parallel.wait) as processes:
        tell = log if processes.first else lambda line: None
        with writing(out, processes, saved=("training/*/state.json",), underway=("data/*.bin",)):
            run = open_run(
                data,
                out,
                options,
                corpus,
                device=device,
                dtype=dtype,
                log=tell,
                processes=processes,
                parallel=parallel,
            )
            _train(run, tell)
    if not processes.first:
        return
    summary = run.summary()
    if json:
        print_json(asdict(summary))
        return
    validation = "" if summary.validation_loss is None else f", validation loss {summary.validation_loss:.4f}"
    print(
        f"{out}: {summary.steps} steps, {summary.tokens} tokens, training loss {summary.train_loss:.4f}{validation}"
        f" (nats a token), {summary.seconds:.1f} s, {summary.tokens_per_second:,.0f} tokens/s"
    )


def _train(run: "Run", log: Callable[[str], None]) -> None:
    """Make the remaining steps and report them; a signal saves and ends the process."""
    from chainrule.terminal import progress_bar, signals_noted

    processes = run.processes
    if run.finished:
        log(
            f"{run.out} is finished ({run.step} steps);"
            f" to train it further: chainrule pretrain ... --from {run.out} --out NEW"
        )
    elif run.step:
        log(f"going on from step {run.step} of {run.decided.steps}")
    bar = progress_bar(run.decided.steps, "training") if processes.first else nullcontext(lambda done, beside: None)
    with signals_noted() as signalled, bar as show:
        for progress in run.advance():
            if progress.shown and processes.first:
                beside = (
                    f"step {progress.step}/{run.decided.steps}  loss {progress.loss:.3f}"
                    f"  {progress.tokens_per_second:,.0f} tokens/s  {progress.mfu:.0%} of the matmul rate"
                    f"  {progress.seconds_left:.0f} s left"
                )
                show(progress.step, beside)
            if progress.note:
                log(progress.note)
            if progress.validation_loss is not None:
                sample = " ".join(run.sample().split())  # by all processes: the model may be cut
                if processes.first:
                    log(f"{beside}  validation loss {progress.validation_loss:.4f}")
                    log(f"    {sample}")
            number = processes.largest(signalled() or 0)
            if number and not run.finished:
                run.save()
                log(f"stopped and saved at step {run.step}; the same command continues from there")
                sys.exit(128 + number)
