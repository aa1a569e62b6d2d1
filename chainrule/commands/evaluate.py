"""The command `evaluate`: loss and perplexity on texts, or tasks of lm-evaluation-harness."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from chainrule.arguments import Help
from chainrule.commands.options import (
    Bos,
    Device,
    Dtype,
    Folder,
    Json,
    Model,
    OnError,
    Quantize,
    check_at_least,
    refuse_without,
)
from chainrule.errors import MissingPackageError, OptionError

if TYPE_CHECKING:
    from chainrule.language_model import Pretrained


def evaluate(
    model: Model,
    texts: Annotated[tuple[str, ...], Help("TEXT")] = (),
    /,
    stride: int | None = None,
    field: Annotated[str, Help("NAME")] = "text",
    encoding: Annotated[str, Help("NAME")] = "utf-8",
    on_error: OnError = "stop",
    tasks: Annotated[tuple[str, ...], Help("NAME")] = (),
    shots: int | None = None,
    limit: int | None = None,
    include: Folder | None = None,
    bos: Bos = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = "auto",
    json: Json = False,
) -> None:
    """Measure loss, perplexity and bits per byte on text, or run standard benchmarks.

    Args:
        texts: Files, folders or globs of documents; - reads standard input.

    On text:
        stride: Tokens from one window of a long text to the next (default half the context).
        field: Column or key with the text of a row.
        encoding: Encoding, unless a byte-order mark says it.
        on_error: Stop at an unreadable document, or skip and count it.

    On tasks of lm-evaluation-harness (chainrule[eval]):
        tasks: Names of its tasks, instead of TEXT.
        shots: Examples in the prompt (default: what the task says).
        limit: Evaluate on the first N documents of each task.
        include: Folder with YAML files of your own tasks.

    Example:
        chainrule evaluate runs/books held-out.txt
    """
    from chainrule.corpus.read import read_texts
    from chainrule.language_model import load
    from chainrule.masked_language_model import MaskedEvaluation
    from chainrule.storage.inputs import find_files
    from chainrule.storage.records import Skipped
    from chainrule.terminal import log, print_json

    if bool(texts) == bool(tasks):
        raise OptionError("evaluate: wanted files of text, or --tasks; got both or neither: choose one")
    of_texts = {"stride": stride, "field": field, "encoding": encoding, "on-error": on_error}
    of_tasks = {"shots": shots, "limit": limit, "include": include}
    if tasks:
        refuse_without(
            "files of text", of_texts, {"stride": None, "field": "text", "encoding": "utf-8", "on-error": "stop"}
        )
    else:
        refuse_without("--tasks", of_tasks, dict.fromkeys(of_tasks))
    check_at_least(0, shots=shots)
    check_at_least(1, limit=limit, stride=stride)
    lm = load(model, device=device, dtype=dtype, bos=bos, quantize=quantize)
    if tasks:
        _evaluate_tasks(lm, tasks, shots, limit, include, json)
        return
    skipped = Skipped()
    documents = read_texts(
        find_files(texts, log), field=field, encoding=encoding, skipped=skipped if on_error == "skip" else None, log=log
    )
    found = lm.evaluate(documents, stride=stride)
    if skipped.count:
        log(f"documents: {skipped.note}")
    if isinstance(found, MaskedEvaluation):
        if json:
            print_json(asdict(found))
            return
        print(
            f"{found.tokens} tokens, {found.masked_tokens} of them masked: masked loss {found.masked_loss:.4f} nats"
            " a masked token (not to be compared with a causal model's loss)"
        )
        return
    if json:
        print_json(asdict(found) | {"perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte})
        return
    print(
        f"{found.tokens} tokens, {found.bytes} bytes: loss {found.loss:.4f} nats a token,"
        f" perplexity {found.perplexity:.3f}, {found.bits_per_byte:.4f} bits per byte"
    )


def _evaluate_tasks(
    lm: "Pretrained", tasks: tuple[str, ...], shots: int | None, limit: int | None, include: Path | None, json: bool
) -> None:
    """The harness's figures; what it prints of its own accord goes to standard error."""
    from contextlib import redirect_stdout

    try:
        from chainrule.integrations.harness import evaluate_tasks
    except ImportError as error:
        raise MissingPackageError(
            f"--tasks: wanted lm-evaluation-harness, got {error}; install it with pip install 'chainrule[eval]'"
        ) from None
    from chainrule.terminal import print_json, print_table

    with redirect_stdout(sys.stderr):
        found = evaluate_tasks(lm, tasks, shots=shots, limit=limit, include=include)
    if json:
        print_json({"tasks": [figure._asdict() for figure in found]})
        return
    rows = [
        (one.task, one.metric, f"{one.value:.4f}", "" if one.standard_error is None else f"{one.standard_error:.4f}",
         str(one.n))
        for one in found
    ]  # fmt: skip
    print_table(("task", "metric", "value", "standard error", "n"), rows)
