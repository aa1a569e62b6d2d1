"""Seconds of the whole process from a text to a character model of 1.88 nats on its last 10 %, beside nanoGPT's recipe.

    python benchmarks/shakespeare.py --text tinyshakespeare.txt --peer NANOGPT_CHECKOUT

The peer's checkout must have data/shakespeare_char prepared from the same text. --minutes M adds the loss that M buy.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.record import record

TARGET = 1.88
RECIPE = "--depth 2 --width 128 --heads 4 --context 64 --batch-tokens 1024 --steps 300 --compile off".split()
PEER = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64"
    " --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
).split()


def ours(text: str, options: list[str]) -> tuple[float, float]:
    """Seconds of the whole process, and the validation loss it reached."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "chainrule", "pretrain", text, "--tokenizer", "char", "--validation", "0.1"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--out", f"{folder}/run", "--json", *options], stdout=subprocess.PIPE, text=True, check=True
        )
        return time.perf_counter() - start, json.loads(done.stdout)["validation_loss"]


def peer(checkout: str) -> tuple[float, float]:
    """The same of nanoGPT's CPU recipe; its loss is over 20 random batches, as it prints it last."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "train.py", *PEER], cwd=checkout, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.perf_counter() - start
    return seconds, float(re.findall(r"val loss ([\d.]+)", done.stdout)[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True)
    parser.add_argument("--peer", help="a checkout of nanoGPT")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--minutes", type=float)
    options = parser.parse_args()
    text = str(Path(options.text).resolve())
    measured = [ours(text, RECIPE) for _ in range(options.runs)]
    seconds, loss = sorted(measured)[len(measured) // 2]
    reached = "reached" if loss <= TARGET else "NOT reached"
    print(f"ours: {seconds:.1f} s (median of {options.runs}), {loss:.4f} nats a character; {TARGET} {reached}")
    theirs = peer(options.peer) if options.peer else None
    if theirs:
        print(f"nanoGPT: {theirs[0]:.1f} s, {theirs[1]:.4f} nats a character")
    record(
        "shakespeare",
        {"seconds": round(seconds, 2), "validation_loss": loss},
        theirs and {"seconds": round(theirs[0], 2), "validation_loss": theirs[1]},
        theirs and round(theirs[0] / seconds, 2),
        f"whole process to {TARGET} nats: {reached}",
    )
    if options.minutes:
        seconds, loss = ours(text, ["--depth", "4", "--minutes", str(options.minutes)])
        print(f"ours in {options.minutes:g} minutes: {seconds:.1f} s, {loss:.4f} nats a character")
        record(
            "shakespeare minutes",
            {"seconds": round(seconds, 2), "validation_loss": loss},
            None,
            None,
            f"the validation loss that {options.minutes:g} minutes buy",
        )


if __name__ == "__main__":
    main()
