"""MB/s and peak memory of text to tokens on disk, beside datasets.map with the tokenizers library.

    python benchmarks/tokenize.py --sizes 10 100 1000

Both read the same jsonl, made here, encode by the same 16k byte-level BPE, in two processes, and write token files.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import bisect
import itertools
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.record import record

PEER = """
import sys
from datasets import load_dataset
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[2])
def encode(rows):
    return {"ids": [encoding.ids for encoding in tokenizer.encode_batch(rows["text"], add_special_tokens=False)]}
data = load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[3])
data.map(encode, batched=True, num_proc=2, remove_columns=["text"]).save_to_disk(sys.argv[3] + "/tokens")
"""


def write_text(path: Path, megabytes: float) -> None:
    """Documents of about 1 kB of made-up words, as frequent as Zipf says."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgkjqxz", k=rng.randint(1, 9))) for _ in range(20000)]
    sums = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    written = 0
    with path.open("w") as file:
        while written < megabytes * 1e6:
            text = " ".join(words[bisect.bisect(sums, rng.random() * sums[-1])] for _ in range(180))
            written += file.write(json.dumps({"text": text}) + "\n")


def peak_of_group(group: int, peak: list[int], done: threading.Event) -> None:
    """The most resident memory of a process group, in bytes, looked at every 50 ms."""
    page = os.sysconf("SC_PAGE_SIZE")
    while not done.wait(0.05):
        total = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(process.name)) == group:
                    total += int((process / "statm").read_text().split()[1]) * page
            except OSError:
                continue  # it has just ended
        peak[0] = max(peak[0], total)


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds of a command, and its peak memory in MB with all its processes."""
    start, peak, done = time.perf_counter(), [0], threading.Event()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    watcher = threading.Thread(target=peak_of_group, args=(child.pid, peak, done))
    watcher.start()
    status = child.wait()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command[:4])} ended with status {status}")
    return seconds, peak[0] / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=float, default=[10, 100, 1000], help="MB of text")
    sizes = parser.parse_args().sizes
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        write_text(here / "sample.jsonl", 5)
        ours = [sys.executable, "-m", "chainrule", "tokenize"]
        bpe = ["--tokenizer", "bpe", "--vocabulary-size", "16384"]
        measured([*ours, str(here / "sample.jsonl"), "--out", str(here / "bpe"), *bpe])
        tokenizer = str(here / "bpe" / "tokenizer.json")
        for size in sizes:
            data = here / f"{size:g}.jsonl"
            write_text(data, size)
            out = ["--out", str(here / f"ours-{size:g}"), "--tokenizer", str(here / "bpe")]
            seconds, peak = measured([*ours, str(data), *out])
            peer_seconds, peer_peak = measured([sys.executable, "-c", PEER, str(data), tokenizer, f"{here}/{size:g}"])
            print(
                f"{size:g} MB: ours {size / seconds:.1f} MB/s, {peak:.0f} MB; datasets.map"
                f" {size / peer_seconds:.1f} MB/s, {peer_peak:.0f} MB; ratio {peer_seconds / seconds:.2f}"
            )
            record(
                "tokenize",
                {"MB_per_second": round(size / seconds, 2), "peak_MB": round(peak)},
                {"MB_per_second": round(size / peer_seconds, 2), "peak_MB": round(peer_peak)},
                round(peer_seconds / seconds, 2),
                f"{size:g} MB of jsonl, whole process",
            )


if __name__ == "__main__":
    main()
