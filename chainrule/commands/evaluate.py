"""The command `evaluate`: loss and perplexity on texts, or tasks of lm-evaluation-harness."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from chainrule.arguments import Help
from chainrule.commands.options import (
    Folder,
    Json,
    Loading,
    Model,
    Reading,
    check_another_file,
    check_at_least,
    refuse_without,
    with_defaults,
)
from chainrule.commands.sharing import check_parts, print_part, working
from chainrule.errors import MissingPackageError, OptionError
from chainrule.workers.options import Sharing

if TYPE_CHECKING:
    from chainrule.language_model import Pretrained
    from chainrule.masked_language_model import MaskedEvaluation
    from chainrule.model_source import ModelSource
    from chainrule.scoring.documents import Evaluation
    from chainrule.scoring.evaluation import Sums


def evaluate(
    model: Model,
    texts: Annotated[tuple[str, ...], Help("TEXT")] = (),
    /,
    stride: int | None = None,
    reading: Reading = Reading(),
    tasks: Annotated[tuple[str, ...], Help("NAME")] = (),
    shots: int | None = None,
    limit: int | None = None,
    include: Folder | None = None,
    out: Annotated[str | None, Help("FILE")] = None,
    sharing: Sharing = Sharing(),
    loading: Loading = Loading(),
    json: Json = False,
) -> None:
    """Measure loss, perplexity and bits per byte on text, or run standard benchmarks.

    Args:
        texts: Files, folders or globs of documents; - reads standard input.

    On text:
        stride: Tokens from one window of a long text to the next (default half the context).
        out: File for what --json prints; parts are written beside it.

    On tasks of lm-evaluation-harness (chainrule[eval]):
        tasks: Names of its tasks, instead of TEXT.
        shots: Examples in the prompt (default: what the task says).
        limit: Evaluate on the first N documents of each task.
        include: Folder with YAML files of your own tasks.

    Example:
        chainrule evaluate runs/books held-out.txt
    """
    if bool(texts) == bool(tasks):
        raise OptionError("evaluate: wanted files of text, or --tasks; got both or neither: choose one")
    if tasks:
        refuse_without("files of text", out=(out, None), **with_defaults(sharing))
        refuse_without("files of text", stride=(stride, None), **with_defaults(reading))
    else:
        refuse_without("--tasks", shots=(shots, None), limit=(limit, None), include=(include, None))
    check_at_least(0, shots=shots)
    check_at_least(1, limit=limit, stride=stride)
    if tasks:
        _evaluate_tasks(loading.load(model), tasks, shots, limit, include, json)
        return
    found = _evaluate_files(loading.source(model), texts, stride, reading, out, sharing, json)
    if found is not None:
        _print(found, json)


def _evaluate_files(
    source: "ModelSource",
    texts: tuple[str, ...],
    stride: int | None,
    reading: Reading,
    out: str | None,
    sharing: Sharing,
    json: bool,
) -> "Evaluation | MaskedEvaluation | None":
    """The figures of the documents, in `out` too where it is named; None where a part was done, which is said."""
    from chainrule.commands.model_work import Evaluating
    from chainrule.corpus.read import read_texts
    from chainrule.model.formats.same_model import ForWorkers
    from chainrule.storage.inputs import find_files, source_of
    from chainrule.storage.records import Skipped
    from chainrule.storage.remote import check_output, written_output
    from chainrule.terminal import log, progress_bar
    from chainrule.workers.parts import identity, write_part

    if sharing.in_parts and out is None:
        raise OptionError("--part, --join: wanted --out FILE, beside which parts are written, got none; name one")
    files, skipped, made_with = find_files(texts, log), Skipped(), dict[str, Any]()
    if out is not None:
        check_output(out)
        for file in files:
            check_another_file(file, out, "the texts")
    if sharing.in_parts:
        for file in files:
            check_parts("evaluate", file, out or "")
        read = [source_of(file) for file in files]
        made_with = identity("evaluate", input=read, **source.depends_on, stride=stride, **vars(reading))
    lm = source.here(sharing.elsewhere)
    documents = read_texts(
        files,
        field=reading.field,
        encoding=reading.encoding,
        skipped=skipped if reading.on_error == "skip" else None,
        log=log,
    )
    pieces = lm.text_pieces(documents, stride)
    begin = None if sharing.cluster is None else Evaluating(ForWorkers.of(source))
    with (
        working(sharing, out or "", made_with, begin, lm.evaluate_piece, source.device) as work,
        progress_bar(None, "evaluating") as bar,
    ):
        if sharing.chosen is not None and out is not None:
            done = write_part(Path(out), sharing.chosen, made_with, work, pieces)
            print_part(sharing.chosen, Path(out), done, json)
            return None
        found = lm.evaluated(_shown(work(pieces), bar))
        if out is not None:  # within: at the end of a join the parts are removed
            with written_output(out) as beside:
                beside.write_text(dumps(_measured(found), indent=2) + "\n", encoding="utf-8")
    if skipped.count:
        log(f"documents: {skipped.note}")
    return found


def _measured(found: "Evaluation | MaskedEvaluation") -> dict[str, Any]:
    """The figures as JSON has them."""
    from chainrule.masked_language_model import MaskedEvaluation

    if isinstance(found, MaskedEvaluation):
        return asdict(found)
    return asdict(found) | {"perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte}


def _print(found: "Evaluation | MaskedEvaluation", json: bool) -> None:
    from chainrule.masked_language_model import MaskedEvaluation
    from chainrule.terminal import print_json

    if json:
        print_json(_measured(found))
    elif isinstance(found, MaskedEvaluation):
        print(
            f"{found.tokens} tokens, {found.masked_tokens} of them masked: masked loss {found.masked_loss:.4f} nats"
            " a masked token (not to be compared with a causal model's loss)"
        )
    else:
        print(
            f"{found.tokens} tokens, {found.bytes} bytes: loss {found.loss:.4f} nats a token,"
            f" perplexity {found.perplexity:.3f}, {found.bits_per_byte:.4f} bits per byte"
        )


def _shown(found: Iterable["Sums"], show: Callable[[float, str], None]) -> Iterator["Sums"]:
    """The sums, and how many tokens they are so far beside the bar."""
    tokens = 0
    for sums in found:
        tokens += sums[0]  # from a part's file it is a list
        show(tokens, f"{tokens:,} tokens")
        yield sums


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
