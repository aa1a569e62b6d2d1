"""What one GPU does, in one run of 8 minutes: the laws of the CPU, pretraining, decoding, scoring, LoRA, beside peers.

    python benchmarks/gpu.py                 # on a machine with a GPU
    python benchmarks/gpu.py --device cpu --toy

Prints one table, in which every row stands: each is measured in a process of its own with a time limit, and one that
fails, lacks a package or comes too late says so in its place. Nothing is installed, and chainrule itself need not be:
torch, numpy, safetensors, tokenizers, tiktoken, rich, scipy and pytest are enough; the peers are transformers, peft and
lm_eval where they are there. While the laws are tested, which are not timed, the functions of our compiled rows are
compiled into torch's cache. The rows with a target come first: what comes too late is worth the least.

Pretraining is the trainer's whole step (Muon, bfloat16 activations over float32 weights) on random tokens; its share is
of the rate of matrix products measured in the same process. The peer is a model of transformers of the same shape,
compiled, by fused AdamW under autocast. Decoding is greedy from prompts of 16 tokens, with CUDA graphs but for one row;
its share is of the measured rate at which memory is read, and "at first" is the rate while the graphs are recorded.
Scoring is of two label words after 16 demonstrations; LoRA's matrices have rank 16. With --toy the sizes are tiny and
the figures mean nothing.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import json
import math
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks.record import record

from chainrule import machine

ROOT = Path(__file__).parent.parent
SIZES = {  # layers, width, heads, context, vocabulary, rows of a micro-batch, micro-batches
    "124M": (12, 768, 12, 1024, 50304, 16, 4),
    "350M": (24, 1024, 16, 1024, 50304, 8, 8),
    "1B": (18, 2048, 16, 1024, 50304, 4, 8),
}
TOY = (2, 32, 2, 32, 64, 2, 2)
TARGETS = {"124M": 0.50, "350M": 0.55, "1B": 0.60}  # share of the rate of matrix products
SHOTS, RANK = 16, 16
TOTAL = 480.0  # seconds


class Shape(NamedTuple):
    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    rows: int
    parts: int

    @property
    def hidden(self) -> int:
        return 32 * max(1, round(self.width / 12))

    @property
    def step_tokens(self) -> int:
        return self.context * self.rows * self.parts


@dataclass(frozen=True)
class Setting:
    """What a row is measured with."""

    device: torch.device
    toy: bool
    seconds: float  # of each measurement, after the first steps

    def shape(self, name: str) -> Shape:
        return Shape(*(TOY if self.toy else SIZES[name]))


class Found(NamedTuple):
    """What a row shows."""

    figure: str
    verdict: str = ""


def model_of(shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    from chainrule.model.config import Config
    from chainrule.model.transformer import Transformer, initialise

    config = Config(
        vocabulary_size=shape.vocabulary, context=shape.context, width=shape.width, layers=shape.layers,
        heads=shape.heads, key_value_heads=shape.heads, head_width=shape.width // shape.heads, hidden=shape.hidden,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, 0)
    return model.to(device, dtype)


def peer_model(shape: Shape, device: torch.device) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        head_dim=shape.width // shape.heads, max_position_embeddings=shape.context, tie_word_embeddings=False,
        use_cache=False,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).to(device)


def windows(shape: Shape, device: torch.device) -> torch.Tensor:
    """(rows, context + 1) random tokens."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, shape.vocabulary, (shape.rows, shape.context + 1), generator=generator).to(device)


class RandomTokens:
    """Windows of random tokens, the same at each step."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.parts, self.tokens = shape.parts, windows(shape, device)
        self.count = torch.tensor(float(shape.rows * shape.context), device=device)

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[torch.Tensor]:
        return [self.tokens] * self.parts

    def halve(self) -> str | None:
        return None

    def loss(self, model: Any, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from chainrule.training.objectives import next_token_loss

        return next_token_loss(model, batch) * self.count, self.count


def paced(step: Callable[[], torch.Tensor], setting: Setting) -> float:
    """Seconds a step, after the first three; `step` returns the loss. Reading it waits for the device."""
    for _ in range(3):
        loss = step()
    float(loss)
    start, made = time.perf_counter(), 0
    while made < 3 or time.perf_counter() - start < setting.seconds:
        loss = step()
        made += 1
        if made % 4 == 0:
            machine.synchronise(setting.device)
    last = float(loss)
    seconds = (time.perf_counter() - start) / made
    if not math.isfinite(last):
        raise RuntimeError(f"wanted a finite loss, got {last}")
    return seconds


def peak(device: torch.device) -> str:
    return f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""


def laws(setting: Setting) -> Found:
    """The tests of tests/test_device_laws.py on the device."""
    words = ["-m", "pytest", "tests/test_device_laws.py", "--device", setting.device.type]
    words += ["-k", "logits_are or batch_generates"] if setting.toy else []
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    failed = [line.removeprefix("FAILED tests/test_device_laws.py::") for line in lines if line.startswith("FAILED")]
    if done.returncode not in (0, 1):
        raise RuntimeError(lines[-1] if lines else "pytest said nothing")
    return Found(lines[-1].strip("= "), "hold" if not failed else f"BROKEN: {'; '.join(failed)[:300]}")


def pretraining(setting: Setting, size: str, compiled: bool) -> Found:
    from chainrule.model.linear import linear_maps
    from chainrule.training.objectives import Compiled
    from chainrule.training.optimizer import Group, Matrix, Optimizer, Schedule
    from chainrule.training.trainer import Trainer

    shape = setting.shape(size)
    model = model_of(shape, setting.device)
    model.compute_dtype = torch.bfloat16
    names = {parameter: name for name, parameter in model.named_parameters()}
    maps = [Matrix(*found) for found in linear_maps(model)]
    inside = {matrix.parameter for matrix in maps}
    rest = Group([parameter for parameter in names if parameter not in inside], 1e-3)
    optimizer = Optimizer(names, maps, 0.01, [rest], Schedule(10**6), torch.bfloat16)
    objective: Any = RandomTokens(shape, setting.device)
    compiled = compiled and not setting.toy
    steps = Trainer(model, optimizer, Compiled(objective) if compiled else objective, 10**6).steps()
    return rate_of(paced(lambda: next(steps).measured[0], setting), shape, setting, model, TARGETS[size])


def peer_pretraining(setting: Setting, size: str) -> Found:
    shape = setting.shape(size)
    model = peer_model(shape, setting.device)
    compiled = model if setting.toy else torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = windows(shape, setting.device)[:, :-1]

    def step() -> torch.Tensor:
        for _ in range(shape.parts):
            with torch.autocast(setting.device.type, torch.bfloat16):
                loss = compiled(input_ids=tokens, labels=tokens).loss / shape.parts
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    ours = model_of(shape, torch.device("cpu"))
    return rate_of(paced(step, setting), shape, setting, ours, None)


def rate_of(seconds: float, shape: Shape, setting: Setting, model: Any, target: float | None) -> Found:
    from chainrule.pretraining.run import operations_per_token

    rate = shape.step_tokens / seconds
    share = rate * operations_per_token(model) / machine.matmul_rate(setting.device, torch.bfloat16)
    verdict = "" if target is None else "reached" if share >= target else "below"
    return Found(f"{rate:,.0f} tokens/s, {share:.0%} of the matmul rate{peak(setting.device)}", verdict)


class Rates(NamedTuple):
    """Tokens a second."""

    first: float  # of an engine's first batch, within which steps are recorded as graphs
    later: float


def decoded(setting: Setting, batch: int, graphs: bool | None = None) -> Rates:
    """Decoding one batch after another with the same engine."""
    from chainrule.generation.engine import Engine
    from chainrule.generation.sampling import Sampling

    model = model_of(setting.shape("124M"), setting.device, torch.bfloat16).eval()
    engine, tokens = Engine(model, batch_size=batch, fixed_shapes=graphs), 8 if setting.toy else 256
    rates = []
    for _ in range(3):
        for number in range(batch):
            engine.add([1 + (number + i) % 60 for i in range(16)], Sampling(0.0), seed=number, max_tokens=tokens)
        engine.step()
        machine.synchronise(setting.device)
        start, made = time.perf_counter(), 0
        while engine:
            made += len(engine.step())
        machine.synchronise(setting.device)
        rates.append(made / (time.perf_counter() - start))
    return Rates(rates[0], max(rates[1:]))


def bandwidth(device: torch.device) -> float:
    """Bytes a second that are read, measured by a sum."""
    numbers = torch.ones(2**28 if device.type == "cuda" else 2**22, device=device)
    numbers.sum()
    machine.synchronise(device)
    start = time.perf_counter()
    for _ in range(10):
        numbers.sum()
    machine.synchronise(device)
    return 10 * numbers.nbytes / (time.perf_counter() - start)


def decoding_one(setting: Setting, graphs: bool | None = None) -> Found:
    model = model_of(setting.shape("124M"), torch.device("cpu"))
    # A token reads all weights but the embedding's, of which it reads one row; the output has its own.
    size = 2 * (sum(parameter.numel() for parameter in model.parameters()) - model.embedding.weight.numel())
    rates = decoded(setting, 1, graphs)
    share = rates.later * size / bandwidth(setting.device)
    verdict = "" if graphs is False else "reached" if share >= 0.7 else "below"
    return Found(f"{shown(rates)}, {share:.0%} of the bandwidth", verdict)


def decoding_many(setting: Setting) -> Found:
    one, many = (decoded(setting, batch) for batch in (1, 8 if setting.toy else 256))
    times = many.later / one.later
    return Found(f"{shown(many)}, {times:.1f} times batch 1", "reached" if times >= 20 else "below")


def shown(rates: Rates) -> str:
    return f"{rates.later:,.0f} tokens/s ({rates.first:,.0f} at first)"


def questions(count: int) -> list[tuple[str, str]]:
    """(prompt, label word) of two words for each text, behind 16 demonstrations."""
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefghij") for _ in range(rng.randint(2, 7))) for _ in range(500)]

    def review() -> str:
        return "Review: " + " ".join(rng.choice(words) for _ in range(12)) + "\nSentiment:"

    shots = "".join(f"{review()} {rng.choice(['terrible', 'great'])}\n\n" for _ in range(SHOTS))
    return [(shots + prompt, word) for prompt in (review() for _ in range(count)) for word in (" terrible", " great")]


def write_scored(setting: Setting, folder: Path) -> None:
    """The model that is scored with, and its tokenizer."""
    from chainrule.language_model import LanguageModel
    from chainrule.tokens.make import train_bpe

    tokenizer = train_bpe([prompt + word for prompt, word in questions(50)], 1000)
    shape = setting.shape("124M")
    shape = shape._replace(vocabulary=max(shape.vocabulary, tokenizer.vocabulary_size), context=1024)
    LanguageModel(model_of(shape, torch.device("cpu")), tokenizer, "qwen3").save(folder)


def scoring(setting: Setting) -> Found:
    from chainrule.language_model import load
    from chainrule.scoring.continuations import pair_of, score_continuations

    asked = questions(4 if setting.toy else 512)
    with tempfile.TemporaryDirectory() as folder:
        write_scored(setting, Path(folder))
        lm = load(folder, device=setting.device.type, dtype="bfloat16")
    for _ in range(2):
        start = time.perf_counter()
        score_continuations(lm.model, [pair_of(lm.tokenizer, *each) for each in asked])
    return Found(f"{len(asked) / 2 / (time.perf_counter() - start):,.1f} texts/s")


def peer_scoring(setting: Setting) -> Found:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    asked = questions(2 if setting.toy else 64)
    with tempfile.TemporaryDirectory() as folder:
        write_scored(setting, Path(folder))
        batch = 1 if setting.toy else 32
        lm = HFLM(folder, device=setting.device.type, dtype="bfloat16", batch_size=batch, add_bos_token=True)
    requests = [Instance("loglikelihood", {}, arguments, place) for place, arguments in enumerate(asked)]
    for _ in range(2):
        start = time.perf_counter()
        lm.loglikelihood(requests, disable_tqdm=True)
    return Found(f"{len(asked) / 2 / (time.perf_counter() - start):,.1f} texts/s")


def adapting(setting: Setting) -> Found:
    from chainrule.model.formats.adapter import adapter_parts
    from chainrule.training.low_rank import LowRankMatrices
    from chainrule.training.optimizer import Group, Optimizer, Schedule
    from chainrule.training.trainer import Trainer

    shape = setting.shape("350M")
    base = model_of(shape, setting.device)
    base.to(torch.bfloat16)
    model = LowRankMatrices(base, adapter_parts(base, "qwen3"), RANK, 0).transformer
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = Optimizer(names, [], 1e-4, [Group(list(names), 1e-4)], Schedule(10**6))
    steps = Trainer(model, optimizer, RandomTokens(shape, setting.device), 10**6).steps()
    seconds = paced(lambda: next(steps).measured[0], setting)
    return Found(f"{shape.step_tokens / seconds:,.0f} tokens/s{peak(setting.device)}")


def peer_adapting(setting: Setting) -> Found:
    from peft import LoraConfig, get_peft_model

    shape = setting.shape("350M")
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        peer_model(shape, setting.device).to(torch.bfloat16), LoraConfig(r=RANK, lora_alpha=32, target_modules=every)
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    tokens = windows(shape, setting.device)[:, :-1]

    def step() -> torch.Tensor:
        for _ in range(shape.parts):
            loss = model(input_ids=tokens, labels=tokens).loss / shape.parts
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return Found(f"{shape.step_tokens / paced(step, setting):,.0f} tokens/s{peak(setting.device)}")


class Part(NamedTuple):
    """A row of the table."""

    title: str
    wanted: str
    limit: float  # seconds
    measure: Callable[[Setting], Found]
    compiled: bool = False  # by us


def parts() -> list[Part]:
    """All rows."""
    found = [
        Part("laws of the CPU", "hold", 100, laws),
        Part("decode 124M, batch 1", "70% of the bandwidth", 40, decoding_one),
        Part("decode 124M, batch 256", "20 times batch 1", 40, decoding_many),
    ]
    shares = {size: f"{target:.0%} of the matmul rate" for size, target in TARGETS.items()}
    for size, share in shares.items():
        ours = partial(pretraining, size=size, compiled=True)
        found.append(Part(f"pretraining {size}, compiled", share, 110, ours, compiled=True))
    found += [
        Part("decode 124M, batch 1, without graphs", "", 40, partial(decoding_one, graphs=False)),
        Part(f"{SHOTS} shots 124M", "", 60, scoring),
        Part(f"{SHOTS} shots 124M, lm_eval", "", 60, peer_scoring),
        Part("LoRA 350M", "", 60, adapting),
        Part("LoRA 350M, peft", "", 60, peer_adapting),
    ]
    for size in shares:
        peer = partial(peer_pretraining, size=size)
        found.append(Part(f"pretraining {size}, transformers compiled", "", 110, peer))
    for size, share in shares.items():
        eager = partial(pretraining, size=size, compiled=False)
        found.append(Part(f"pretraining {size}, eager", share, 40, eager))
    return found


def started(number: int, words: list[str], output: int | None = subprocess.PIPE) -> "subprocess.Popen[str]":
    """A process that measures a row, with whatever it starts."""
    command = [sys.executable, __file__, *words, "--part", str(number)]
    return subprocess.Popen(command, stdout=output, stderr=output, text=True, cwd=ROOT, start_new_session=True)


def ended(process: "subprocess.Popen[str]", limit: float) -> tuple[str, str]:
    """What a process printed within `limit` seconds; it and all that it started are ended then."""
    try:
        return process.communicate(timeout=max(0.0, limit))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measured(number: int, limit: float, words: list[str]) -> Found:
    """A row, in a process of its own; what went wrong, if something did."""
    if limit < 5:
        return Found("not measured", "the time was over")
    process = started(number, words)
    try:
        printed, said = ended(process, limit)
    except subprocess.TimeoutExpired:
        return Found("not measured", f"no answer within {limit:.0f} s")
    try:
        return Found(*json.loads(printed.splitlines()[-1]))
    except (IndexError, ValueError):
        lines = [line for line in said.splitlines() if line.strip()] or [f"ended with {process.returncode}"]
        return Found("not measured", lines[-1][:200])


@contextmanager
def compiling(rows: list[Part], words: list[str], ends: float) -> Iterator[None]:
    """Within, the functions of our compiled rows are compiled; at the end they are waited for."""
    numbers = [number for number, part in enumerate(rows) if part.compiled]
    running = [started(number, [*words, "--warm", str(len(numbers))], subprocess.DEVNULL) for number in numbers]
    try:
        yield
    finally:
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                ended(process, min(60.0, ends - time.monotonic()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--total", type=float, default=TOTAL, help="seconds of all")
    parser.add_argument("--only", help="rows whose title has this in it")
    parser.add_argument("--part", type=int, help="measure one row in this process and print it")
    parser.add_argument("--warm", type=int, help="for --part: compile alone, as one of N processes")
    options = parser.parse_args()
    device = machine.device(options.device)
    rows = [part for part in parts() if options.only is None or options.only in part.title]
    if options.part is not None:
        if options.warm and device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(0.9 / options.warm)  # the laws need some too
        setting = Setting(device, options.toy, 0.0 if options.toy or options.warm else options.seconds)
        print(json.dumps(rows[options.part].measure(setting)))
        return
    from chainrule.terminal import print_table

    ends, table = time.monotonic() + options.total, []
    words = ["--device", options.device, "--seconds", str(options.seconds)]
    words += ["--toy"] if options.toy else []
    words += [] if options.only is None else ["--only", options.only]
    for number, part in enumerate(rows):
        limit = 4 * part.limit if options.toy else part.limit  # the toy is for machines that do other work
        with compiling(rows, words, ends) if part.measure is laws else nullcontext():
            found = measured(number, min(limit, ends - time.monotonic()), words)
        table.append((part.title, found.figure, part.wanted, found.verdict))
        print(*table[-1], sep="  ", file=sys.stderr, flush=True)
    name = torch.cuda.get_device_name() if device.type == "cuda" else str(device)
    print(name)
    print_table(("what", "measured", "wanted", ""), table)
    if not options.toy:
        for title, figure, wanted, verdict in table:
            record(f"gpu {title}", figure, wanted, None, f"{name}: {verdict}")


if __name__ == "__main__":
    main()
