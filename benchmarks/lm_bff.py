"""LM-BFF's protocol on SST-2 (Gao et al., 2021): 16 labels a class, seeds 13 21 42 87 100, the template `{sentence} It
was {label}.` with the words terrible and great, beside its published figures.

    python benchmarks/lm_bff.py --model SmolLM2-135M-Instruct.Q4_1.gguf --minutes 20
    python benchmarks/lm_bff.py --model SmolLM2-135M-Instruct.Q4_1.gguf --seeds 42 --methods zero-shot words

Each cell (a method and a seed) is appended to --cells when it is done, and is not made again: the script runs in
pieces, and prints the table of what is there. Theirs is RoBERTa-large (355M parameters, a masked model, all of it
trained) on the 872 sentences of the development set, the mean and the standard deviation over five seeds. What differs
here: the model; LoRA where they train all weights; our recipe, which is the same for all tasks, where they choose rate
and batch on 32 more labels; demonstrations: one a class drawn at random in front of the test sentence, of a model that
was trained without any, where they train with them and average over 16 draws of similar sentences.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.record import record

DATA = Path(__file__).parents[2] / "shared" / "data" / "sst2"
SEEDS = (13, 21, 42, 87, 100)
A_CLASS = 16
TEMPLATE = "{sentence} It was {label}."
WORDS = {"0": "terrible", "1": "great"}
# RoBERTa-large: accuracy in %, mean and standard deviation over five seeds, of table 3 of the paper, as table 2 of
# Wang, Xu and McAuley (Automatic Multi-Label Prompting, NAACL 2022) quotes them. That has none with demonstrations.
PUBLISHED: dict[str, tuple[float, float | None]] = {
    "zero-shot": (83.6, None),
    "in-context": (84.8, 1.3),
    "head": (81.4, 3.8),
    "words": (92.7, 0.9),
}
METHODS = (*PUBLISHED, "words, demonstrations")


def load_task(data: Path, limit: int | None) -> Any:
    """SST-2 with their template; the test items are the development set, or a fixed sample of it."""
    from chainrule.tasks.examples import Examples, Task
    from chainrule.tasks.prompt import Prompt

    def read(name: str) -> Examples:
        lines = [line.split("\t") for line in (data / name).read_text(encoding="utf-8").splitlines()]
        rows = [{"sentence": text} for text, _ in lines]
        return Examples(rows, [label for _, label in lines], [f"{name}:{i}" for i in range(1, len(rows) + 1)])

    test = read("dev.tsv")
    if limit is not None:
        test = test.take(np.random.default_rng(0).permutation(len(test))[:limit].tolist())
    # LM-BFF writes a space before the words, which a tokenizer has in front of them.
    prompt = Prompt(TEMPLATE, "\n", WORDS)
    return Task("classification", ("sentence",), "label", read("train.tsv"), test, ("0", "1"), prompt)


def sampled(task: Any, seed: int) -> Any:
    """The task with 16 training sentences of each class, drawn from the seed."""
    rng, chosen = np.random.default_rng(seed), []
    labels = np.array(task.train.labels)
    for label in task.labels:
        chosen += rng.choice(np.flatnonzero(labels == label), A_CLASS, replace=False).tolist()
    return dataclasses.replace(task, train=task.train.take(chosen))


def predictor(lm: Any, task: Any, method: str, seed: int, trained: dict[int, Any]) -> Any:
    """A method's predictor; `trained` keeps the one that learned label words with this seed, which two methods need."""
    from chainrule.finetuning.finetune import finetune
    from chainrule.prompting.in_context import in_context, zero_shot

    if method == "zero-shot":
        return zero_shot(lm, task)
    if method == "in-context":  # 32 demonstrations: all labels
        return in_context(lm, task, shots=2 * A_CLASS, seed=seed)
    if method == "head":
        return finetune(lm, task, train="lora", seed=seed)
    if seed not in trained:
        trained.clear()
        trained[seed] = finetune(lm, task, train="lora", by="words", seed=seed)
    if method == "words":
        return trained[seed]
    return in_context(trained[seed].lm, task, shots=2, seed=seed, select="balanced")


def key_of(cell: dict[str, Any]) -> tuple[Any, ...]:
    """What is measured once: model, test items, method and seed, which zero-shot has none of."""
    return cell["model"], cell["limit"], cell["method"], None if cell["method"] == "zero-shot" else cell["seed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--limit", type=int, help="test sentences (default all 872)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no cell is begun after so many")
    parser.add_argument("--cells", type=Path, default=Path("lm_bff.jsonl"), help="where cells are kept")
    given = parser.parse_args()
    from chainrule.language_model import load
    from chainrule.memory import keep_freed_memory

    keep_freed_memory()
    started, name = time.monotonic(), Path(given.model).name
    kept = [json.loads(line) for line in given.cells.read_text().splitlines()] if given.cells.exists() else []
    there = {key_of(cell): cell for cell in kept}
    lm: Any = None
    whole, trained = load_task(given.data, given.limit), {}
    for seed in given.seeds:
        for method in given.methods:
            cell: dict[str, Any] = {"model": name, "limit": given.limit, "method": method, "seed": seed}
            key = key_of(cell)
            if key in there or time.monotonic() - started > 60 * given.minutes:
                continue
            lm = lm or load(given.model, dtype="float32")
            task, begun = sampled(whole, seed), time.monotonic()
            made = predictor(lm, task, method, seed, trained)
            adapted = time.monotonic() - begun
            right = [
                found == label for found, label in zip(made.predict(task.test.rows), task.test.labels, strict=True)
            ]
            cell |= {"accuracy": 100 * sum(right) / len(right), "n": len(right), "seconds_to_adapt": round(adapted, 1)}
            cell["seconds"] = round(time.monotonic() - begun, 1)
            there[key] = cell
            with given.cells.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")
            print(json.dumps(cell), flush=True)
    report(there, name, given.limit)


def report(there: dict[Any, dict[str, Any]], name: str, limit: int | None) -> None:
    """Print the table of the cells that are there, and record it."""
    ours: dict[str, Any] = {}
    print("| | ours, mean (standard deviation), seeds | RoBERTa-large, LM-BFF |\n| --- | --- | --- |")
    for method in METHODS:
        cells = [cell for key, cell in there.items() if key[:3] == (name, limit, method)]
        if not cells:
            continue
        found = [cell["accuracy"] for cell in cells]
        spread = f" ({statistics.stdev(found):.1f})" if len(found) > 1 else ""
        mean, deviation = PUBLISHED.get(method, ("", None))
        theirs = f"{mean}" if deviation is None else f"{mean} ({deviation})"
        ours[method] = {"mean": round(statistics.mean(found), 1), "seeds": sorted(cell["seed"] for cell in cells)}
        print(f"| {method} | {statistics.mean(found):.1f}{spread}, {len(found)} | {theirs} |")
    if ours:
        published = {method: mean for method, (mean, _) in PUBLISHED.items() if method in ours}
        record("SST-2 by LM-BFF's protocol", ours, published, None, f"{name}; peer: RoBERTa-large as published")


if __name__ == "__main__":
    main()
