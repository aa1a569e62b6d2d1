"""The command `predict`: labels for texts."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from chainrule.arguments import Help
from chainrule.commands.options import (
    Columns,
    Json,
    Loading,
    TaskFile,
    check_another_file,
    check_at_least,
    check_seed,
    refuse_without,
    with_defaults,
)
from chainrule.commands.sharing import check_parts, digest_of, working, write_shared
from chainrule.errors import OptionError
from chainrule.prompting.asking import Asking
from chainrule.workers.options import Sharing

if TYPE_CHECKING:
    from chainrule.finetuning.classifier import Classifier
    from chainrule.finetuning.predicting import Source
    from chainrule.prompting.prompted import Prompted
    from chainrule.storage.records import Skipped
    from chainrule.tasks.examples import Row
    from chainrule.tasks.predictor import Predictor
    from chainrule.tasks.row_file import Written


def predict(
    predictor: str,
    texts: Annotated[tuple[str, ...], Help("TEXT")] = (),
    /,
    source: Annotated[str | None, Help("FILE", name="input")] = None,
    out: Annotated[str | None, Help("FILE")] = None,
    task: TaskFile | None = None,
    shots: int = 0,
    seed: int = 0,
    columns: Columns = Columns(),
    asking: Asking = Asking(),
    sharing: Sharing = Sharing(),
    loading: Loading = Loading(),
    json: Json = False,
) -> None:
    """Label texts with a finetuned classifier, or with a prompted model.

    Prints a JSON line for each text, or writes a file of rows with their predictions. An empty line gets a null label.
    Several labels at once are those more probable than not.

    Args:
        predictor: A folder that finetune wrote; with --task, a model folder or a name on the Hub.
        texts: Texts to label; - reads standard input, a text per line.

    Many texts:
        source: Rows to label: .csv .tsv .jsonl .parquet, or .txt with a text per line.
        out: File for the same rows with their predictions: .csv .tsv .jsonl.

    To prompt a language model:
        task: A task file (.toml), or a data file with --text and --label.
        shots: Labelled examples in the prompt.
        seed: Seed of the choice of examples.

    Example:
        chainrule predict runs/stars "A charming film"
        chainrule predict runs/stars --input new.csv --out labelled.csv
    """
    from chainrule.storage.records import Skipped
    from chainrule.tasks.predictions import predictions
    from chainrule.terminal import log, print_json

    if (source is None) == (not texts) or (source is None) != (out is None):
        raise OptionError("predict: wanted texts, or --input and --out together; got neither or both: give one of them")
    if source is not None and out is not None:
        check_another_file(source, out, "--input")
    check_at_least(0, shots=shots)
    check_seed(seed)
    if source is None and task is None and "-" not in texts:
        encoding, on_error = (columns.encoding, "utf-8"), (columns.on_error, "stop")
        refuse_without("--input, --task or - (standard input)", encoding=encoding, on_error=on_error)
    task_columns = columns
    if task is not None and task.endswith(".toml") and (source is not None or "-" in texts):
        task_columns = replace(columns, encoding=Columns.encoding)  # the task file names its own
    if source is None and (sharing.cluster or sharing.in_parts):
        raise OptionError(
            "--cluster, --part, --join: wanted --input and --out beside it, got texts; write them to a file"
        )
    origin = _source(predictor, task, task_columns, shots, seed, asking, loading)
    made = (replace(origin, device="cpu") if sharing.elsewhere else origin).load()
    if texts and "-" not in texts and len(made.columns) > 1:
        raise OptionError(
            f"predict: wanted rows with the columns {', '.join(map(repr, made.columns))}, got a text alone; give a file"
            " of rows: --input FILE --out FILE"
        )
    started = time.monotonic()
    if source is not None and out is not None:
        written = _write(origin, made, source, out, columns, sharing, json)
        if written is None:
            return
        rows, empty, seconds = written.rows, written.empty, time.monotonic() - started
        if json:
            print_json({"rows": rows, "empty": empty.count, "seconds": seconds, "texts_per_second": rows / seconds})
        else:
            print(f"{out}: {rows} rows, {rows / seconds:,.0f} a second")
    else:
        empty = Skipped()
        found = predictions(made, _rows(texts, made, columns, empty))
        if json:
            print_json({"predictions": list(found)})
        else:
            from json import dumps

            for prediction in found:
                print(dumps(prediction, ensure_ascii=False), flush=True)
    if empty.count:
        log(f"rows without a prediction: {empty.count}, the first because of {empty.reason}")
    for note in made.notes:
        log(note)


def _rows(
    texts: Iterable[str], predictor: "Predictor", columns: Columns, empty: "Skipped"
) -> Iterator["Row | str | None"]:
    """The texts, and the lines of standard input for -; None for an empty line, which `empty` counts."""
    from chainrule.storage.records import Skipped
    from chainrule.tasks.row_file import rows_to_predict

    for text in texts:
        if text == "-":
            read = partial(rows_to_predict, "-", encoding=columns.encoding, on_error=columns.on_error)
            yield from (row for _, row in read(predictor.columns, empty, Skipped()))
        else:
            yield text


def _source(
    directory: str,
    task: str | None,
    columns: Columns,
    shots: int,
    seed: int,
    asking: Asking,
    loading: Loading,
) -> "Source":
    from chainrule.finetuning.predicting import Source

    if task is None:
        named = {"text": (columns.text, ()), "label": (columns.label, ())}
        loaded = {"bos": (loading.bos, None), "quantize": (loading.quantize, "auto")}
        refuse_without("a --task", shots=(shots, 0), seed=(seed, 0), **named, **loaded, **with_defaults(asking))
        return Source(directory, loading.device, loading.dtype)
    read = columns.load(task)
    return Source(directory, **vars(loading), task=read, shots=shots, seed=seed, asking=asking)


def _write(
    source: "Source",
    predictor: "Classifier | Prompted",
    name: str,
    out: str,
    columns: Columns,
    sharing: Sharing,
    json: bool,
) -> "Written | None":
    """The file of rows with their predictions, or a part of them; None where a part was done, which is said."""
    from chainrule.finetuning.predicting import Predicting, labelling, values_by
    from chainrule.model.formats.same_model import ForWorkers
    from chainrule.storage.inputs import source_of
    from chainrule.tasks.predictions import input_rows
    from chainrule.terminal import log
    from chainrule.workers.parts import identity

    reading = {"encoding": columns.encoding, "on_error": columns.on_error}
    made_with = {}
    if sharing.in_parts:
        check_parts("predict", name, out)
        asked = {name: getattr(source, name) for name in ("dtype", "bos", "quantize", "shots", "seed")}
        asked |= {"task": source.task and digest_of(source.task), **vars(source.asking), **reading}
        made_with = identity("predict", input=source_of(name), model=source.fingerprint, **asked)
    rows = input_rows(predictor, name, encoding=columns.encoding, on_error=columns.on_error, log=log)
    begin = None if sharing.cluster is None else Predicting(ForWorkers.of(source))
    with working(sharing, out, made_with, begin, labelling(predictor), source.device) as work:
        values = values_by(predictor, work)
        return write_shared(sharing, rows, out, made_with, work, values, json, "predicting")
