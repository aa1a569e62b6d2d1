"""The command `predict`: labels for texts."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from chainrule.arguments import Help
from chainrule.commands.options import (
    Asking,
    Bos,
    Columns,
    Device,
    Dtype,
    Json,
    Quantize,
    TaskFile,
    check_at_least,
    check_seed,
    refuse_without,
)
from chainrule.errors import OptionError

if TYPE_CHECKING:
    from chainrule.storage.records import Skipped
    from chainrule.tasks.examples import Row
    from chainrule.tasks.predictor import Predictor


def predict(
    predictor: str,
    texts: Annotated[tuple[str, ...], Help("TEXT")] = (),
    /,
    source: Annotated[str | None, Help("FILE", name="input")] = None,
    out: Path | None = None,
    task: TaskFile | None = None,
    shots: int = 0,
    seed: int = 0,
    columns: Columns = Columns(),
    asking: Asking = Asking(),
    bos: Bos = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = "auto",
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
    from chainrule.tasks.predictions import predict_file, predictions
    from chainrule.terminal import log, print_json, progress_bar

    if (source is None) == (not texts) or (source is None) != (out is None):
        raise OptionError("predict: wanted texts, or --input and --out together; got neither or both: give one of them")
    if source is not None and out is not None and out.exists() and Path(source).exists() and out.samefile(source):
        raise OptionError(f"--out: wanted another file than --input, got {out} for both; choose another")
    check_at_least(0, shots=shots)
    check_seed(seed)
    if source is None and task is None and "-" not in texts:
        reading = {"encoding": columns.encoding, "on-error": columns.on_error}
        refuse_without("--input, --task or - (standard input)", reading, {"encoding": "utf-8", "on-error": "stop"})
    task_columns = columns
    if task is not None and task.endswith(".toml") and (source is not None or "-" in texts):
        task_columns = replace(columns, encoding=Columns.encoding)  # the task file names its own
    made = _predictor(predictor, task, task_columns, shots, seed, asking, bos, device, dtype, quantize)
    if texts and "-" not in texts and len(made.columns) > 1:
        raise OptionError(
            f"predict: wanted rows with the columns {', '.join(map(repr, made.columns))}, got a text alone; give a file"
            " of rows: --input FILE --out FILE"
        )
    started = time.monotonic()
    if source is not None and out is not None:
        with progress_bar(None, "predicting") as bar:
            written = predict_file(
                made,
                source,
                out,
                encoding=columns.encoding,
                on_error=columns.on_error,
                log=log,
                show=lambda done: bar(done, f"{done:,} rows"),
            )
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
    from chainrule.tasks.predictions import rows_to_predict

    for text in texts:
        if text == "-":
            read = partial(rows_to_predict, "-", encoding=columns.encoding, on_error=columns.on_error)
            yield from (row for _, row in read(predictor.columns, empty, Skipped()))
        else:
            yield text


def _predictor(
    directory: str,
    task: str | None,
    columns: Columns,
    shots: int,
    seed: int,
    asking: Asking,
    bos: str | None,
    device: Device,
    dtype: Dtype,
    quantize: Quantize,
) -> "Predictor":
    if task is None:
        from chainrule.finetuning.load import load_classifier

        given = {
            "shots": shots,
            "seed": seed,
            "text": columns.text,
            "label": columns.label,
            "bos": bos,
            "quantize": quantize,
        }
        default = {"shots": 0, "seed": 0, "text": (), "label": (), "bos": None, "quantize": "auto"}
        refuse_without("a --task", given | vars(asking), default | vars(Asking()))
        return load_classifier(directory, device=device, dtype=dtype)
    from chainrule.language_model import load
    from chainrule.prompting.in_context import in_context

    lm = load(directory, device=device, dtype=dtype, bos=bos, quantize=quantize)
    return in_context(lm, columns.load(task), shots, seed=seed, **vars(asking))
