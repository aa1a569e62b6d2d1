"""Seconds and peak memory to load a directory of 1.1B weights and score one sentence, beside transformers.

    python benchmarks/load.py

The directory has TinyLlama's shape, random weights in bfloat16, in shards; its files are in the system's cache when the
clock starts, after the imports and the collection of their garbage. The two take turns, each in a process of its own,
which tells its own greatest memory.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import gc
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.record import record

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
SENTENCE = [1, *range(1000, 31000, 1000)]


def make(directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), dtype=torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="500MB")


def ours(directory: Path) -> Callable[[], float]:
    import torch

    from chainrule.model.formats.checkpoint import load_model
    from chainrule.scoring.documents import score_documents

    def run() -> float:
        model, _ = load_model(directory, torch.device("cpu"))
        (scores,) = score_documents(model, [SENTENCE])
        return scores.log_probs.double().sum().item()

    return run


def peer(directory: Path) -> Callable[[], float]:
    import torch
    from transformers import LlamaForCausalLM

    def run() -> float:
        model = LlamaForCausalLM.from_pretrained(directory, dtype="auto")
        tokens = torch.tensor([SENTENCE])
        with torch.inference_mode():
            log_probs = model(tokens).logits[0, :-1].float().log_softmax(-1)
        return log_probs.gather(1, tokens[0, 1:, None]).double().sum().item()

    return run


def measure(side: str, directory: Path) -> dict[str, float]:
    run = {"ours": ours, "peer": peer}[side](directory)
    gc.collect()  # of what the imports made; else it falls within the clock on whichever side
    start = time.perf_counter()
    log_prob = run()
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,  # bytes
        "log_prob": log_prob,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["make", "ours", "peer"], help="do one thing in this process")
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    if options.side == "make":
        make(options.directory)
        return
    if options.side:
        print(json.dumps(measure(options.side, options.directory)))
        return
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, "--directory", directory, "--side"]
        subprocess.run([*command, "make"], check=True, capture_output=True)
        files = sorted(Path(directory).glob("*.safetensors"))
        size = sum(len(path.read_bytes()) for path in files)
        found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for _ in range(options.rounds):
            for side, runs in found.items():
                done = subprocess.run([*command, side], stdout=subprocess.PIPE, text=True, check=True)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
    sides = {
        side: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for side, runs in found.items()
    }
    assert abs(sides["ours"]["log_prob"] - sides["peer"]["log_prob"]) < 0.01 * abs(sides["peer"]["log_prob"])
    for side, figures in sides.items():
        print(f"{side}: {figures['seconds']:.2f} s, {figures['peak'] / size:.2f} times the files' {size / 1e9:.2f} GB")
    shape = f"1.1B weights, bfloat16, {len(files)} shards, one sentence"
    for name, digits, limit in (("seconds", 2, "after imports"), ("peak", 0, f"bytes, imports included; files {size}")):
        mine, theirs = (sides[side][name] for side in ("ours", "peer"))
        record("load", round(mine, digits), round(theirs, digits), round(mine / theirs, 2), f"{name} {limit}; {shape}")


if __name__ == "__main__":
    main()
