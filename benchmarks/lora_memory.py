"""What LoRA takes of memory and time, by how the base is kept: whole in float32, in 8 bits, or in its file's blocks.

    python benchmarks/lora_memory.py --model SmolLM2-135M-Instruct.Q4_1.gguf --quantize none int8 auto

Steps of `finetune --by words --train lora` on 60 SST-2 sentences, each way in a process of its own. `base`: bytes of
the weights as they are kept; `loaded` and `peak`: resident bytes of the process when the model is loaded, and at most
while it trains; `activations`: what the check before the first step expects; `beyond`: by what share of the base the
peak is above loaded and activations.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import json
import resource
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import record

DATA = Path(__file__).parents[2] / "shared" / "data" / "sst2"
TEMPLATE = "Review: {sentence}\nSentiment: {label}"
WARMUP = 2  # steps that are not timed


def resident() -> int:
    """Bytes of this process in memory."""
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def measure(model: str, data: str, quantize: str, steps: int, dtype: str) -> dict[str, Any]:
    """The figures of one way."""
    from chainrule import machine
    from chainrule.finetuning.finetune import FinetuneOptions
    from chainrule.finetuning.memory import packed_loss
    from chainrule.finetuning.language import LanguageFinetuning
    from chainrule.language_model import load
    from chainrule.memory import keep_freed_memory
    from chainrule.model.quantised import blocks_of
    from chainrule.tasks.examples import Task
    from chainrule.training.footprint import of_activations

    keep_freed_memory()  # as the command line does
    lm = load(model, device="cpu", dtype="float32", quantize=quantize)  # type: ignore[arg-type]
    tensors = [*lm.model.parameters(), *(blocks for _, blocks in blocks_of(lm.model))]
    base, loaded = sum(tensor.nbytes for tensor in tensors), resident()
    task = Task.load(data)
    options = FinetuneOptions("lora", labels=60, by="words", dtype=dtype)
    finetuning = LanguageFinetuning(lm, task, options)
    transformer = finetuning._trained.transformer
    tokens = machine.tokens_at_once("finetuning", transformer.device, transformer.compute_dtype)
    (activations,) = of_activations(partial(packed_loss, transformer), transformer, tokens, min(tokens, 1024)).values()
    started = 0.0
    for progress in finetuning.advance():
        if progress.step == WARMUP:
            started = time.perf_counter()
        if progress.step == WARMUP + steps:
            break
    seconds = (time.perf_counter() - started) / steps
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "base": base,
        "loaded": loaded,
        "peak": peak,
        "activations": round(activations),
        "beyond": round((peak - loaded - activations) / base, 3),
        "texts_per_second": round(finetuning.batch_size / seconds, 2),
        "loss": round(progress.loss, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--quantize", nargs="+", default=["none", "int8", "auto"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--task", help="its file; made for SST-2 where it is left out", default="")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of SST-2's train.tsv")
    parser.add_argument("--one", action="store_true", help="measure here, and print nothing else")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.model, given.task, given.quantize[0], given.steps, given.dtype)))
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sst2.toml"
        path.write_text(
            f"train = {json.dumps(str(given.data.resolve() / 'train.tsv'))}\n"
            'columns = ["sentence", "label"]\ntext = "sentence"\nlabel = "label"\n[prompt]\n'
            f"template = {json.dumps(TEMPLATE)}\n" + '[prompt.words]\n0 = "negative"\n1 = "positive"\n'
        )
        found = {}
        for quantize in given.quantize:
            asked = [sys.executable, __file__, "--one", "--model", given.model, "--quantize", quantize]
            asked += ["--steps", str(given.steps), "--dtype", given.dtype, "--task", given.task or str(path)]
            found[quantize] = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    record(
        "memory and speed of LoRA by how the base is kept",
        found,
        None,
        None,
        f"{Path(given.model).name}, {given.dtype}, label words, 8 texts a step",
    )


if __name__ == "__main__":
    main()
