"""Ray's overhead: tokenize and predict by two workers of a Ray cluster of two nodes on this machine, beside two local
workers (tokenize) and one process of two threads (predict).

    python benchmarks/parallel.py --ray

30 MB of rows are tokenized with a BPE vocabulary of 2,048 that is there already; 20,000 texts are labelled by a head
on a model of 4 layers of width 256. Seconds are those that the commands report, without Python's start.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.record import record

ROWS, DOCUMENTS = 20_000, 5400  # texts to label; documents of 1,000 words to tokenize
SECONDS = 900.0  # after which a command that hangs ends the benchmark
MODEL = "--depth 4 --width 256 --heads 8 --context 64 --batch-tokens 512 --steps 2 --compile off --dtype float32"


def command(words: str, threads: int, folder: Path) -> float:
    """Seconds of `chainrule` with these words on so many threads: what it reports with --json, else what it took."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path(__file__).parent.parent),
        "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    begun = time.perf_counter()
    arguments = [sys.executable, "-m", "chainrule", *words.split()]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = time.perf_counter() - begun
    return json.loads(done.stdout)["seconds"] if "--json" in words else seconds


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes of a core each."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    nodes.add_node(num_cpus=1, object_store_memory=200 << 20)
    try:
        yield nodes.address
    finally:
        nodes.shutdown()


def write_world(folder: Path, size: float) -> int:
    """What the commands read, `size` of the whole; the number of the texts to label."""
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefghij") for _ in range(rng.randint(2, 7))) for _ in range(3000)]

    def text(length: int) -> str:
        return " ".join(rng.choices(words, k=length))

    rows = [{"text": text(20), "label": ("good", "bad")[number % 2]} for number in range(int(ROWS * size))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:200]))
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"text": text(1000)}) + "\n" for _ in range(int(DOCUMENTS * size)))
    )
    (folder / "small.txt").write_text(text(30_000))
    return len(rows)


def ray_overhead(share: float = 1.0) -> None:
    """Measure and record it, on `share` of the work."""
    os.environ |= {"PYTHONPATH": str(Path(__file__).parent.parent), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = write_world(folder, share)
        command(f"pretrain small.txt --out run --tokenizer bpe --vocabulary-size 2048 {MODEL}", 2, folder)
        command("finetune run train.jsonl --text text --label label --train head --out head", 2, folder)
        tokenize = "tokenize corpus.jsonl --tokenizer run --json --workers 2 --out"
        predict = "predict head --input rows.jsonl --json --out"
        local = [command(f"{tokenize} local", 1, folder), command(f"{predict} local.jsonl", 2, folder)]
        with two_nodes() as address:
            shared = [
                command(f"{words} shared{suffix} --cluster {address}", 1, folder)
                for words, suffix in ((tokenize, ""), (predict, ".jsonl"))
            ]
        if (folder / "local.jsonl").read_bytes() != (folder / "shared.jsonl").read_bytes():
            print("predictions differ in their last digits: one thread beside two", file=sys.stderr)
        size = (folder / "corpus.jsonl").stat().st_size / 1e6
    for name, ours, peer, what in (
        ("tokenize", shared[0], local[0], f"{size:.3g} MB, 2 workers on 2 nodes beside 2 processes"),
        ("predict", shared[1], local[1], f"{texts:,} texts, 2 workers of 1 thread beside 1 process of 2"),
    ):
        record(f"parallel ray {name}", round(ours, 1), round(peer, 1), round(ours / peer, 2), f"seconds, {what}")
