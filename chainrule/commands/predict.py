"""The command `predict`: labels for texts."""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from chainrule.arguments import Help
from chainrule.commands.options import Asking, Columns, Device, Dtype, Json, TaskFile, refuse_without

if TYPE_CHECKING:
    from chainrule.adaptation.predictions import Predictor


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
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Label texts with a finetuned classifier, or with a prompted model.

    Prints a JSON line for each text, or writes a file of rows with their predictions.

    Args:
        predictor: A folder that finetune wrote; with --task, a model folder or a name on the Hub.
        texts: Texts to label; - reads standard input, a text per line.

    Many texts:
        source: Rows to label: .csv .tsv .jsonl .parquet, or .txt with a text per line.
        out: File for the rows with their predictions (.csv .tsv .jsonl).

    To prompt a language model:
        task: A task file (.toml), or a data file with --text and --label.
        shots: Labelled examples in the prompt.
        seed: Seed of the choice of examples.

    Example:
        chainrule predict runs/stars "A charming film"
        chainrule predict runs/stars --input new.csv --out labelled.csv
    """
    from chainrule.adaptation.predictions import predict_file, predictions
    from chainrule.terminal import print_json, progress_bar, say

    if (source is None) == (not texts) or (source is None) != (out is None):
        raise ValueError("predict: wanted texts, or --input and --out together; got neither or both: choose one way")
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
