"""The command `predict`: labels for texts."""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from chainrule.commands.options import Asking, Columns, Device, Dtype, Json, refuse_without

if TYPE_CHECKING:
    from chainrule.adaptation.predictions import Predictor


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
