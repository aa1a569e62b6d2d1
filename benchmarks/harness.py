"""Documents a second of one task through lm-evaluation-harness: our model as its `LM`, and its own `hf` model.

    python benchmarks/harness.py [--model FOLDER] [--shots 16]

The task is SST-2 as multiple choice, with the first 16 training rows as demonstrations; the model is a GPT-2 of
124M random weights, or a Hugging Face folder, in float32. The time is the whole of `simple_evaluate` with the model
loaded before it. We evaluate all of dev.tsv, the peer its first documents, with one sequence in a batch, which is its
fastest on a CPU.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record
from benchmarks.score import DATA, SHOTS, rows, write_model


def write_task(folder: Path, data: Path, shots: int) -> None:
    """As one writes a task of one's own; JSON is YAML."""
    files = {}
    for split in ("train", "dev"):
        files[split] = str(folder / f"{split}.jsonl")
        lines = (json.dumps({"text": text, "label": int(label)}) for text, label in rows(data, split))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    task = {
        "task": "sst2_words",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "training_split": "train",
        "test_split": "dev",
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": shots,
        "output_type": "multiple_choice",
        "doc_to_text": "Review: {{text}}\nSentiment:",
        "doc_to_choice": ["terrible", "great"],
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "sst2_words.yaml").write_text(json.dumps(task))


def measure(side: str, folder: Path, directory: Path, limit: int | None) -> tuple[float, list[float]]:
    """Documents a second, and the log-likelihoods of their answers."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from chainrule.integrations.harness import HarnessModel
    from chainrule.language_model import load
    from chainrule.memory import keep_freed_memory

    model: Any
    if side == "ours":
        keep_freed_memory()  # as the command line does
        bos = json.loads((directory / "tokenizer_config.json").read_text()).get("bos_token")  # as the peer
        bos = bos["content"] if isinstance(bos, dict) else bos
        lm = load(directory, device="cpu", dtype="float32", quantize="auto", bos=bos)
        model = HarnessModel(lm)  # type: ignore[arg-type]
    else:
        model = HFLM(str(directory), device="cpu", dtype="float32", batch_size=1, add_bos_token=True)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    start = time.perf_counter()
    found = lm_eval.simple_evaluate(model, tasks=["sst2_words"], task_manager=manager, limit=limit, bootstrap_iters=0)
    seconds = time.perf_counter() - start
    samples = sorted(found["samples"]["sst2_words"], key=lambda sample: sample["doc_id"])
    return len(samples) / seconds, [float(answer[0]) for sample in samples for answer in sample["filtered_resps"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-documents", type=int, default=128)
    parser.add_argument("--documents", type=int, help="how many we evaluate; by default all")
    parser.add_argument("--model", type=Path, help="a folder; by default a GPT-2 of random weights")
    parser.add_argument("--shots", type=int, default=SHOTS)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of SST-2's train.tsv and dev.tsv")
    parser.add_argument("--side", choices=["ours", "peer"], help="measure one side in this process and print it")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.side:
        limit = options.peer_documents if options.side == "peer" else options.documents
        print(json.dumps(measure(options.side, options.folder, options.model or options.folder / "gpt2", limit)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.model is None:
            write_model(folder / "gpt2", options.data, 5000)
        write_task(folder, options.data, options.shots)
        rates, answers = [], []
        for side in ("ours", "peer"):
            command = [sys.executable, *sys.argv, "--side", side, "--folder", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rate, found = json.loads(done.stdout.splitlines()[-1])
            rates.append(rate)
            answers.append(found)
        apart = max(abs(a - b) for a, b in zip(*answers, strict=False))
        print(f"log-likelihoods within {apart:.1e}")
        assert apart < 1e-3
        name = "GPT-2 124M" if options.model is None else options.model.name
        limit = f"SST-2 through simple_evaluate, {options.shots} shots, {name}, float32"
        record("harness", round(rates[0], 1), round(rates[1], 2), round(rates[0] / rates[1], 1), limit)


if __name__ == "__main__":
    main()
