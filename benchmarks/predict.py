"""Memory and texts a second of `chainrule predict` over files of ten thousand, a hundred thousand and a million rows.

    python benchmarks/predict.py

The rows are the sentences of SST-2 over and over; the classifier is a linear head on a model of 4 layers and width 128
with random weights, which changes neither memory nor speed. Each file is predicted by a process of its own, as typed.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import csv
import json
import subprocess
import tempfile
from itertools import cycle, islice
from pathlib import Path

from benchmarks.record import record

DATA = Path(__file__).parents[2] / "shared" / "data" / "sst2"
CHILD = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True, check=True)
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({**json.loads(done.stdout), "peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit}))
"""


def write_classifier(directory: Path, sentences: list[str]) -> None:
    import torch

    from chainrule.finetuning.classifier import Classifier, Form
    from chainrule.scoring.features import Features
    from chainrule.model.config import Config
    from chainrule.model.transformer import Transformer, initialise
    from chainrule.tokens.make import train_bpe

    tokenizer = train_bpe(sentences, 8192)
    shape = {"width": 128, "layers": 4, "heads": 4, "key_value_heads": 4, "head_width": 32, "hidden": 352}
    model = Transformer(Config(tokenizer.vocabulary_size, 256, **shape))
    initialise(model, 0)
    Classifier(Features(model.eval(), tokenizer), torch.randn(2, 128), ("bad", "good"), Form(("text",)), "qwen3").save(
        directory
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of SST-2's train.tsv")
    options = parser.parse_args()
    lines = (options.data / "train.tsv").read_text(encoding="utf-8").splitlines()
    sentences = [line.split("\t")[0] for line in lines]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_classifier(folder / "classifier", sentences)
        for rows in options.rows:
            with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["number", "text"])
                writer.writerows(enumerate(islice(cycle(sentences), rows)))
            command = [sys.executable, "-m", "chainrule", "predict", str(folder / "classifier"), "--json"]
            command += ["--input", str(folder / "rows.csv"), "--out", str(folder / "out.csv")]
            done = subprocess.run(
                [sys.executable, "-c", CHILD, *command], stdout=subprocess.PIPE, text=True, check=True
            )
            found = json.loads(done.stdout)
            assert found["rows"] == rows
            figures = {"texts_per_second": round(found["texts_per_second"]), "peak_MB": round(found["peak"] / 1e6)}
            record("predict", figures, None, None, f"{rows} rows of SST-2, csv to csv, 4 x 128, float32")


if __name__ == "__main__":
    main()
