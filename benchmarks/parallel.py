"""Two processes of one thread beside one process of two: speed, memory, the wait for a checkpoint, the restart time.

    python benchmarks/parallel.py
    python benchmarks/parallel.py --restart      # the same, and a kill
    python benchmarks/parallel.py --ray          # Ray's overhead alone; --size 0.02 tries it out

The model has 4 layers of width 256 and a vocabulary of 2,048; batches of 2,048 tokens at context 128, float32, Muon.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import record

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SHAPE = "4 x 256, vocabulary 2,048, 2,048 tokens a step, float32"
SECONDS = 900.0  # after which a part that hangs ends the benchmark
FEWEST_STEPS = 7  # the first two are left out, and the checkpoint is written in the middle of the rest
TINY = "--tokenizer byte --depth 2 --width 64 --heads 2 --context 64 --batch-tokens 512 --compile off --dtype float32"


def environment(threads: int) -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": root}


def write_text(path: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefghij") for _ in range(rng.randint(2, 7))) for _ in range(3000)]
    path.write_text("\n".join(" ".join(rng.choice(words) for _ in range(40)) for _ in range(1200)))


def side(folder: Path, shard: str, steps: int) -> None:
    """Some steps in this process or those of torchrun, with a checkpoint in their middle; what was measured is printed
    by the first."""
    from chainrule.corpus.options import CorpusOptions
    from chainrule.pretraining.options import PretrainOptions
    from chainrule.pretraining.start import open_run
    from chainrule.training.torchrun import joined
    from chainrule.training.parallel_options import ParallelOptions
    from chainrule.training.sharding import local

    options = PretrainOptions(
        depth=4, width=256, heads=8, context=128, batch_tokens=2048, steps=steps, compile="off",
        validate_every=10**6,
    )  # fmt: skip
    with joined("cpu") as processes, tempfile.TemporaryDirectory() as temporary:
        out = Path(processes.from_first(temporary)) / "run"
        run = open_run([str(folder / "shards")], out, options, CorpusOptions(), device="cpu", dtype="float32",
                       processes=processes, parallel=ParallelOptions(shard))  # type: ignore[arg-type]  # fmt: skip
        run.trainer.validating = None
        made, middle, stall, ends = run.advance(), steps // 2, 0.0, []
        for number, progress in enumerate(made, 1):
            if number == middle:
                begun = time.perf_counter()
                run.trainer._start_saving(None)
                stall = time.perf_counter() - begun
            ends.append(time.perf_counter())
            if progress.step == steps - 1:
                break
        # The first two steps are left out; in those after the middle a thread may write the checkpoint.
        took = [end - start for start, end in itertools.pairwise(ends)][1:]
        took[middle - 3] -= stall
        before, after = took[: middle - 2], took[middle - 2 :]
        optimizer = run.trainer.optimizer.adamw.state
        states = sum(local(parameter.detach()).nbytes for parameter in run.model.parameters())
        states += sum(tensor.nbytes for tensors in optimizer.values() for tensor in tensors.values())
        muon: Any = run.trainer.optimizer.muon
        momentum = muon.momentum if hasattr(muon, "momentum") else muon.alone.momentum
        states += sum(tensor.nbytes for tensor in (momentum.values() if isinstance(momentum, dict) else momentum))
        made.close()
        pace = (sum(took) + stall) / len(took)
        slower = sum(after) - len(after) * statistics.median(before)
        found = {"tokens_per_second": 2048 / pace, "stall": stall, "slower": slower, "step": pace, "states": states}
        if processes.first:
            print(json.dumps(found))


def measured(folder: Path, world: int, shard: str, steps: int) -> dict[str, float]:
    words = [__file__, "--side", shard, "--folder", str(folder), "--steps", str(steps)]
    command = [*(TORCHRUN if world > 1 else [sys.executable]), *words]
    done = subprocess.run(command, env=environment(2 // world), capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def restart(folder: Path) -> float:
    """Seconds from the kill of a process to the first step after the last checkpoint."""
    words = [*TORCHRUN, "--max-restarts", "1", "-m", "chainrule", "pretrain", str(folder / "text.txt"), "--out"]
    words += [str(folder / "killed"), *TINY.split(), "--steps", "400", "--validate-every", "50"]
    said = folder / "said"
    with said.open("w") as file:
        run = subprocess.Popen(words, env=environment(1), stdout=subprocess.DEVNULL, stderr=file)
    try:
        wait_until(lambda: any((folder / "killed/training").glob("[0-9]*")), run, said)
        os.kill(workers(run.pid)[-1], signal.SIGKILL)
        killed = time.perf_counter()
        wait_until(lambda: "going on from step" in said.read_text(errors="replace"), run, said)
        return time.perf_counter() - killed
    finally:
        run.terminate()  # torchrun ends its processes
        run.wait()


def workers(agent: int) -> list[int]:
    """The processes that torchrun, itself the process `agent`, has started."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return sorted(int(child) for child in children if b"chainrule" in Path(f"/proc/{child}/cmdline").read_bytes())


def wait_until(met: Callable[[], bool], run: "subprocess.Popen[bytes]", said: Path, limit: float = SECONDS) -> None:
    """Returns when the condition is met; ends the benchmark, with what the run said, when the run has ended or `limit`
    seconds are over before."""
    ends = time.monotonic() + limit
    while not met():
        if run.poll() is not None or time.monotonic() > ends:
            raise SystemExit(f"the run did not go on:\n{said.read_text(errors='replace')}")
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=11, help=f"of each side, at least {FEWEST_STEPS}")
    parser.add_argument("--restart", action="store_true", help="measure also how long a restart takes")
    parser.add_argument("--ray", action="store_true", help="measure Ray's overhead alone")
    parser.add_argument("--size", type=float, default=1.0, help="with --ray, the share of the work, to try it out")
    parser.add_argument("--side", choices=["auto", "on", "off"], help="measure one side in this process and print it")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.ray:
        from benchmarks.shared_work import ray_overhead

        ray_overhead(options.size)
        return
    if options.steps < FEWEST_STEPS:
        parser.error(f"--steps: wanted at least {FEWEST_STEPS}, got {options.steps}")
    if options.side:
        side(options.folder, options.side, options.steps)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_text(folder / "text.txt")
        words = ["-m", "chainrule", "tokenize", str(folder / "text.txt"), "--out", str(folder / "shards")]
        words += ["--vocabulary-size", "2048", "--validation", "0.01"]
        subprocess.run([sys.executable, *words], env=environment(2), check=True, capture_output=True)
        found = {}
        for name, world, shard in (("alone", 1, "off"), ("replicated", 2, "off"), ("sharded", 2, "on")):
            found[name] = measured(folder, world, shard, options.steps)
            recorded(name, found[name], found["alone"])
        cut, whole = found["sharded"]["states"], found["replicated"]["states"]
        what = f"bytes of weights and optimizer in each of 2 processes, sharded beside replicated; {SHAPE}"
        record("parallel memory", cut, whole, round(cut / whole, 2), what)
        if options.restart:
            what = "seconds from a kill to going on, torchrun, 2 processes"
            record("parallel restart", round(restart(folder), 1), None, None, what)


def recorded(name: str, found: dict[str, float], alone: dict[str, float]) -> None:
    """Record a side's speed beside that of one process, and its wait for a checkpoint."""
    record(f"parallel checkpoint {name}", round(found["stall"], 3), round(found["step"], 3), None,
           f"seconds that the training waited for a checkpoint, and those of a step; the steps after it took"
           f" {found['slower']:+.2f} s together; {SHAPE}")  # fmt: skip
    if name != "alone":
        ours, peer = found["tokens_per_second"], alone["tokens_per_second"]
        record(f"parallel {name}", round(ours), round(peer), round(ours / peer, 2),
               f"tokens/s, 2 processes of 1 thread beside 1 of 2; {SHAPE}")  # fmt: skip


if __name__ == "__main__":
    main()
