"""Tokens a second of SmolLM2-135M beside transformers and llama.cpp: decoding, prefill, hidden states of sentences, and
seconds to the first token.

    python benchmarks/decode.py [--rounds 3] [--what decode batch prefill features first]

Wants the model that `make real` fetches. Our own export writes what the peers read: safetensors, and GGUF in f16 and
q8_0; q4_1 is the file itself. All continue the same prompt and process the same tokens. Each side is a process of its
own, the sides take turns, and the median counts. llama.cpp (llama-cpp-python) is left out where it is not installed.

Beside each figure stands the bound of the memory: how often a second the weights that a token needs can be read, at the
rate at which this machine sums a large array, measured in each process.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.real import MODEL
from benchmarks.record import record

PROMPT = "The history of the steam engine begins in the first century, when Hero of Alexandria described a device that"
TOKENS = 48  # decoded
SEQUENCES = 16
PREFILL = 512
SENTENCES = 512  # of SST-2, whose hidden states are computed; transformers takes them 32 at once, padded
DATA = Path(__file__).parents[2] / "shared" / "data" / "sst2"
# side -> (its file, dtype, the peers that it is compared with). Where there are several, the best counts.
OURS = {
    "ours float32": ("safetensors", "float32", ("transformers float32",)),
    "ours bfloat16": ("safetensors", "bfloat16", ("transformers bfloat16", "llama.cpp f16")),
    "ours f16": ("f16.gguf", "float32", ("llama.cpp f16", "transformers bfloat16")),
    "ours q8_0": ("q8_0.gguf", "float32", ("llama.cpp q8_0",)),
    "ours q4_1": ("q4_1.gguf", "float32", ("llama.cpp q4_1",)),
}
PEERS = ("transformers float32", "transformers bfloat16", "llama.cpp f16", "llama.cpp q8_0", "llama.cpp q4_1")
EVERY = (*OURS, *PEERS)


def write_files(folder: Path) -> None:
    """What the sides read."""
    from chainrule.exporting.export import export_gguf
    from chainrule.language_model import load

    for kind in ("f16", "q8_0"):
        export_gguf(MODEL, folder / f"{kind}.gguf", kind)
    (folder / "q4_1.gguf").symlink_to(MODEL)
    load(MODEL, device="cpu").save(folder / "safetensors")


def tokens() -> list[int]:
    """The prompt, and enough of a text after it."""
    from chainrule.tokens.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(MODEL)
    found = [tokenizer.bos_id, *tokenizer.encode((PROMPT + " ") * 40)]
    return found[: PREFILL + 8]


def sentences(data: Path) -> list[str]:
    lines = (data / "dev.tsv").read_text(encoding="utf-8").splitlines()[:SENTENCES]
    return [line.split("\t")[0] for line in lines]


class Ours:
    def __init__(self, kind: str, folder: Path) -> None:
        from chainrule.language_model import load
        from chainrule.memory import keep_freed_memory

        keep_freed_memory()  # as the command line does
        file, dtype, _ = OURS[f"ours {kind}"]
        self.lm = load(folder / file, device="cpu", dtype=dtype, quantize="auto")
        self.model = self.lm.model

    def features(self, texts: list[str]) -> float:
        from chainrule.scoring.features import Features

        return _times(lambda: Features(self.model, self.lm.tokenizer)(texts), 1)[0]

    def bytes(self) -> int:
        """Read for a token: all but an embedding that is no output matrix."""
        held = [*self.model.parameters(), *self.model.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def decode(self, prompt: list[int], sequences: int) -> list[float]:
        from chainrule.generation.engine import Engine
        from chainrule.generation.sampling import Sampling

        engine = Engine(self.model)
        for _ in range(sequences):
            engine.add(prompt, Sampling(0.0), max_tokens=TOKENS)
        return _times(engine.step, TOKENS)

    def prefill(self, text: list[int]) -> float:
        from chainrule.generation.engine import Engine
        from chainrule.generation.sampling import Sampling

        engine = Engine(self.model)
        engine.add(text, Sampling(0.0), max_tokens=1)
        return _times(engine.step, 1)[0]


class Transformers:
    def __init__(self, kind: str, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.folder, precision = folder, getattr(torch, kind)
        self.model = AutoModelForCausalLM.from_pretrained(folder / "safetensors", dtype=precision).eval()

    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.parameters())

    def decode(self, prompt: list[int], sequences: int) -> list[float]:
        import torch

        with torch.inference_mode():
            out = self.model(torch.tensor([prompt] * sequences), use_cache=True, logits_to_keep=1)

            def step() -> None:
                nonlocal out
                newest = out.logits[:, -1].argmax(-1, keepdim=True)
                out = self.model(newest, past_key_values=out.past_key_values, use_cache=True)

            return _times(step, TOKENS)

    def prefill(self, text: list[int]) -> float:
        import torch

        with torch.inference_mode():
            inputs = torch.tensor([text])
            return _times(lambda: self.model(inputs, use_cache=True, logits_to_keep=1), 1)[0]

    def features(self, texts: list[str]) -> float:
        import torch
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder / "safetensors")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

        def every() -> None:
            for start in range(0, len(texts), 32):
                batch = tokenizer(texts[start : start + 32], padding=True, return_tensors="pt")
                self.model.model(**batch, use_cache=False)

        with torch.inference_mode():
            return _times(every, 1)[0]


class LlamaCpp:
    def __init__(self, kind: str, folder: Path) -> None:
        import llama_cpp

        self.path = folder / f"{kind}.gguf"
        self.inner = llama_cpp.Llama(
            str(self.path), n_ctx=PREFILL + 64, n_batch=PREFILL, n_ubatch=PREFILL, n_threads=os.cpu_count(),
            n_threads_batch=os.cpu_count(), verbose=False,
        )  # fmt: skip

    def bytes(self) -> int:
        return self.path.stat().st_size

    def decode(self, prompt: list[int], sequences: int) -> list[float]:
        self.inner.reset()
        self.inner.eval(prompt)

        def step() -> None:
            self.inner.eval([self.inner.sample(temp=0.0)])

        return _times(step, TOKENS)

    def prefill(self, text: list[int]) -> float:
        self.inner.reset()
        return _times(lambda: self.inner.eval(text), 1)[0]


MAKERS: dict[str, Callable[[str, Path], Any]] = {"ours": Ours, "transformers": Transformers, "llama.cpp": LlamaCpp}


def _times(step: Callable[[], Any], count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return found


def read_rate() -> float:
    """Bytes a second: the best of a few sums of an array that no cache holds."""
    import torch

    array = torch.zeros(2**27)
    return array.numel() * 4 / min(_times(array.sum, 6))


def measure(side: str, folder: Path, data: Path, what: list[str]) -> dict[str, float]:
    """Figures of one side, in this process."""
    program, _, kind = side.partition(" ")
    text, found = tokens(), {}
    found["read"] = read_rate()
    model = MAKERS[program](kind, folder)
    found["bytes"] = model.bytes()
    prompt = text[:16]
    if "decode" in what:
        model.decode(prompt, 1)
        found["decode"] = 1 / statistics.median(model.decode(prompt, 1)[1:])
    if "batch" in what and program != "llama.cpp":
        found["batch"] = SEQUENCES / statistics.median(model.decode(prompt, SEQUENCES)[1:])
    if "prefill" in what:
        model.prefill(text[:64])
        found["prefill"] = PREFILL / statistics.median(model.prefill(text[:PREFILL]) for _ in range(5))
    if "features" in what and program != "llama.cpp":
        texts = sentences(data)
        model.features(texts[:64])
        found["features"] = len(texts) / model.features(texts)
    return found


FIRST = {
    "ours gguf": (
        "import chainrule; lm = chainrule.load({gguf!r}, quantize='auto'); lm.generate({prompt!r}, max_tokens=1)"
    ),
    "ours safetensors": "import chainrule; lm = chainrule.load({directory!r}); lm.generate({prompt!r}, max_tokens=1)",
    "transformers gguf": (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; t = T.from_pretrained({folder!r},"
        " gguf_file={name!r}); m = M.from_pretrained({folder!r}, gguf_file={name!r});"
        " m.generate(**t({prompt!r}, return_tensors='pt'), max_new_tokens=1)"
    ),
    "transformers safetensors": (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; t = T.from_pretrained({directory!r});"
        " m = M.from_pretrained({directory!r}); m.generate(**t({prompt!r}, return_tensors='pt'), max_new_tokens=1)"
    ),
    "llama.cpp gguf": (
        "import llama_cpp; m = llama_cpp.Llama({gguf!r}, n_ctx=576, verbose=False); m({prompt!r}, max_tokens=1)"
    ),
}


def first_token(side: str, folder: Path) -> float:
    """Seconds of a whole process from its start to its first token, imports counted."""
    code = FIRST[side].format(
        gguf=str(MODEL), folder=str(MODEL.parent), name=MODEL.name, directory=str(folder / "safetensors"), prompt=PROMPT
    )
    return _times(lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True), 1)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", nargs="+", default=["decode", "batch", "prefill", "features", "first"])
    parser.add_argument("--sides", nargs="+", default=EVERY)
    parser.add_argument("--files", type=Path, help="where the files are that the sides read, or are written")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of SST-2's dev.tsv, for features")
    parser.add_argument("--measure", help="one side, in this process")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.files, options.data, options.what)))
        return
    if "features" in options.what and not (options.data / "dev.tsv").is_file():
        print(f"features are left out: {options.data} has no dev.tsv; name another folder with --data")
        options.what = [each for each in options.what if each != "features"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.files or Path(temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "safetensors").exists():
            write_files(folder)
        run(options, folder)


def run(options: argparse.Namespace, folder: Path) -> None:
    what = [each for each in options.what if each != "first"]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in options.sides if what}
    for _ in range(options.rounds):
        for side, figures in found.items():
            command = [sys.executable, __file__, "--files", str(folder), "--data", str(options.data)]
            command += ["--what", *what, "--measure", side]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode and "No module named 'llama_cpp'" in done.stderr:
                continue
            if done.returncode:
                raise SystemExit(done.stderr)
            figures.append(json.loads(done.stdout.splitlines()[-1]))
    middle = {
        side: {name: statistics.median(each[name] for each in figures) for name in figures[0]}
        for side, figures in found.items()
        if figures
    }
    rate = max((figures["read"] for figures in middle.values()), default=0.0)
    for side, figures in middle.items():
        bound = rate / figures["bytes"]
        print(f"{side}: " + ", ".join(f"{name} {figures[name]:.1f}" for name in what if name in figures), end="")
        print(f" tokens/s; {figures['bytes'] / 1e6:.0f} MB a token, bound {bound:.0f} at {rate / 1e9:.1f} GB/s")
    for name in what:
        compare(name, middle, rate)
    if "first" in options.what:
        compare_first(options.rounds, folder)


TITLES = {
    "decode": "1 sequence, tokens/s",
    "batch": f"{SEQUENCES} sequences, tokens/s",
    "prefill": f"prefill of {PREFILL}, tokens/s",
    "features": f"hidden states of {SENTENCES} sentences of SST-2, texts/s",
}


def compare(name: str, middle: dict[str, dict[str, float]], rate: float) -> None:
    """A line for each of our sides that was measured, beside the best of its peers; batches are transformers' alone."""
    for side, (_, _, peers) in OURS.items():
        wanted = PEERS if name == "prefill" or (name in ("batch", "features") and side != "ours float32") else peers
        theirs = {peer: middle[peer][name] for peer in wanted if name in middle.get(peer, {})}
        if side not in middle or not theirs:
            continue
        peer = max(theirs, key=lambda each: theirs[each])
        mine = middle[side][name]
        limit = f"SmolLM2-135M, {TITLES[name]}, {side} beside {peer}"
        if name == "decode":
            limit += f"; {mine * middle[side]['bytes'] / rate:.0%} of the bound of memory ({rate / 1e9:.0f} GB/s)"
        record(f"decode {name}", round(mine, 1), round(theirs[peer], 1), round(mine / theirs[peer], 2), limit)


def compare_first(rounds: int, folder: Path) -> None:
    found: dict[str, list[float]] = {side: [] for side in FIRST}
    for _ in range(rounds):
        for side, seconds in found.items():
            try:
                seconds.append(first_token(side, folder))
            except subprocess.CalledProcessError as error:
                if b"No module named 'llama_cpp'" not in error.stderr:
                    raise
    middle = {side: statistics.median(seconds) for side, seconds in found.items() if seconds}
    print(", ".join(f"{side} {seconds:.2f} s" for side, seconds in middle.items()))
    for kind in ("gguf", "safetensors"):
        for program in ("transformers", "llama.cpp"):
            mine, theirs = middle[f"ours {kind}"], middle.get(f"{program} {kind}")
            if theirs is not None:
                limit = f"SmolLM2-135M, seconds of a process to its first token, {kind}, beside {program}"
                record("decode first", round(mine, 2), round(theirs, 2), round(mine / theirs, 2), limit)


if __name__ == "__main__":
    main()
