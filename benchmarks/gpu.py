"""What one GPU does, in one run of minutes: the laws of the CPU, pretraining, decoding. Prints one table.

    python benchmarks/gpu.py                 # on a machine with a GPU
    python benchmarks/gpu.py --device cpu --toy

Pretraining is the trainer's whole step (Muon, bfloat16 activations over float32 weights) on random tokens; its share is
of the rate of matrix products measured here. Decoding is greedy from a prompt of 16 tokens; its share is of the
measured rate at which memory is read. With --toy the sizes are tiny and the figures mean nothing.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import time
from collections.abc import Iterator

import torch
from benchmarks.record import record

from chainrule import machine
from chainrule.generation.engine import Engine
from chainrule.generation.sampling import Sampling
from chainrule.model.config import Config
from chainrule.model.kv_cache import KVCache
from chainrule.model.linear import linear_maps
from chainrule.model.transformer import Transformer, initialise
from chainrule.pretraining.run import operations_per_token
from chainrule.terminal import print_table
from chainrule.training.objectives import Compiled, next_token_loss
from chainrule.training.optimizer import Group, Matrix, Optimizer, Schedule
from chainrule.training.trainer import Trainer

SIZES = {  # layers, width, heads, context, vocabulary, rows of a micro-batch, micro-batches, target share
    "124M": (12, 768, 12, 1024, 50304, 16, 4, 0.50),
    "350M": (24, 1024, 16, 1024, 50304, 8, 8, 0.55),
    "1B": (18, 2048, 16, 1024, 50304, 4, 8, 0.60),
}
TOY = {"124M": (2, 32, 2, 32, 64, 2, 2, 0.50)}
Row = tuple[str, str, str, str]


def model_of(shape: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Transformer:
    layers, width, heads, context, vocabulary = map(int, shape[:5])
    config = Config(
        vocabulary_size=vocabulary, context=context, width=width, layers=layers, heads=heads, key_value_heads=heads,
        head_width=width // heads, hidden=32 * max(1, round(width / 12)),
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, 0)
    return model.to(device, dtype)


class RandomTokens:
    """Windows of random tokens, the same at each step."""

    def __init__(self, shape: tuple[float, ...], device: torch.device) -> None:
        rows, self.parts = int(shape[5]), int(shape[6])
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, int(shape[4]), (rows, int(shape[3]) + 1), generator=generator)
        self.tokens, self.count = tokens.to(device), torch.tensor(float(rows * int(shape[3])), device=device)

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[torch.Tensor]:
        return [self.tokens] * self.parts

    def halve(self) -> str | None:
        return None

    def loss(self, model: Transformer, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return next_token_loss(model, batch) * self.count, self.count


def trainer_of(model: Transformer, objective: RandomTokens, compiled: bool) -> Trainer:
    names = {parameter: name for name, parameter in model.named_parameters()}
    maps = [Matrix(*found) for found in linear_maps(model)]
    inside = {matrix.parameter for matrix in maps}
    rest = Group([parameter for parameter in names if parameter not in inside], 1e-3)
    precision = model.compute_dtype or torch.float32
    optimizer = Optimizer(names, maps, 0.01, [rest], Schedule(10**6), precision)
    return Trainer(model, optimizer, Compiled(objective) if compiled else objective, 10**6)


def laws(device: torch.device) -> Iterator[Row]:
    """In float32: the CPU's logits, with and without a cache, and the CPU's losses."""
    shape = TOY["124M"]
    models = [model_of(shape, where) for where in (torch.device("cpu"), device)]
    for model in models:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not parameter.any():  # what begins at 0 would hide differences
                    parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    tokens = torch.randint(0, 64, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted, found = (model(tokens.to(model.device)).cpu() for model in models)
        cache = KVCache(2, 20, torch.zeros(3, dtype=torch.long, device=device), 2, 16, torch.float32)
        parts = [models[1](tokens[:, i : i + 5].to(device), cache=cache).cpu() for i in range(0, 20, 5)]
    for name, other in (("logits", found), ("logits with a cache", torch.cat(parts, 1))):
        apart = float((wanted - other).abs().max() / wanted.abs().max())
        yield f"law: {name} of the CPU", f"{apart:.1e}", "1e-4", "holds" if apart < 1e-4 else "BROKEN"
    losses = []
    for model in models:
        steps = trainer_of(model, RandomTokens(shape, model.device), compiled=False).steps()
        losses.append([next(steps).loss for _ in range(5)])
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    yield "law: losses of 5 steps of the CPU", f"{apart:.1e}", "1e-3", "holds" if apart < 1e-3 else "BROKEN"


def pretraining(name: str, shape: tuple[float, ...], device: torch.device, compiled: bool, seconds: float) -> Row:
    dtype = torch.bfloat16
    model = model_of(shape, device)
    model.compute_dtype = dtype
    steps = trainer_of(model, RandomTokens(shape, device), compiled).steps()
    float(next(steps).loss), float(next(steps).loss)
    start, made = time.perf_counter(), 0
    while made < 3 or time.perf_counter() - start < seconds:
        progress = next(steps)
        made += 1
        if made % 5 == 0:
            machine.synchronise(device)
    assert progress.loss == progress.loss, "the loss is not a number"
    spent = time.perf_counter() - start
    rate = made * shape[3] * shape[5] * shape[6] / spent
    share = rate * operations_per_token(model) / machine.matmul_rate(device, dtype)
    how = "compiled" if compiled else "eager"
    figure = f"{rate:,.0f} tokens/s, {share:.0%} of the matmul rate"
    return f"pretraining {name}, {how}", figure, f"{shape[7]:.0%}", "reached" if share >= shape[7] else "below"


def decoding(shape: tuple[float, ...], device: torch.device, batch: int, tokens: int) -> float:
    """Tokens a second."""
    model = model_of(shape, device, torch.bfloat16).eval()
    engine = Engine(model, batch_size=batch)
    for number in range(batch):
        engine.add(
            [1 + (number + i) % 60 for i in range(16)], Sampling(0.0), seed=number, max_tokens=tokens, stop_tokens=()
        )
    for _ in range(3):
        engine.step()
    machine.synchronise(device)
    start, made = time.perf_counter(), 0
    while engine:
        made += len(engine.step())
    machine.synchronise(device)
    return made / (time.perf_counter() - start)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each pretraining measurement")
    options = parser.parse_args()
    device = machine.device(options.device)
    sizes = TOY if options.toy else SIZES
    rows: list[Row] = list(laws(device))
    for name, shape in sizes.items():
        for compiled in (False,) if options.toy else (False, True):
            try:
                rows.append(pretraining(name, shape, device, compiled, 0.2 if options.toy else options.seconds))
            except torch.OutOfMemoryError as error:
                rows.append((f"pretraining {name}", "out of memory", f"{shape[7]:.0%}", str(error).splitlines()[0]))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    shape = sizes["124M"]
    one, many = (decoding(shape, device, batch, 8 if options.toy else 256) for batch in (1, 256))
    size = 2 * sum(parameter.numel() for parameter in model_of(shape, torch.device("cpu")).parameters())
    share = one * size / bandwidth(device)
    rows.append(("decode 124M, batch 1", f"{one:,.0f} tokens/s, {share:.0%} of the bandwidth", "70%", ""))
    rows.append(("decode 124M, batch 256", f"{many:,.0f} tokens/s, {many / one:.1f} times batch 1", "20 times", ""))
    print_table(("what", "measured", "wanted", ""), rows, torch.cuda.get_device_name() if device.type == "cuda" else "")
    if not options.toy:
        for what, found, wanted, verdict in rows:
            record(f"gpu {what}", found, wanted, None, verdict)


if __name__ == "__main__":
    main()
