"""Tokens a second of whole training steps, update included, beside transformers' GPT-2 of the same shape.

    python benchmarks/train.py --shapes 10M 124M --dtype bfloat16

Both eager, the same batch, fused AdamW, float32 weights; bfloat16 is autocast there and `compute_dtype` here. The two
take turns, each in a process of its own.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.record import record

SHAPES = {  # layers, width, heads, context, vocabulary, rows
    "10M": (6, 384, 6, 256, 65, 16),
    "124M": (12, 768, 12, 256, 50257, 4),
}


def config_of(shape: tuple[int, ...]) -> Any:
    """The shape as transformers' GPT2Config, which both sides read."""
    from transformers import GPT2Config

    layers, width, heads, context, vocabulary, _ = shape
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        attn_pdrop=0,
        embd_pdrop=0,
        resid_pdrop=0,
        bos_token_id=0,
        eos_token_id=0,
    )


def our_step(shape: tuple[int, ...], dtype: torch.dtype, tokens: torch.Tensor) -> Callable[[], None]:
    from chainrule.memory import keep_freed_memory
    from chainrule.model.formats.families import FAMILIES
    from chainrule.model.transformer import Transformer, initialise
    from chainrule.training.objectives import next_token_loss
    from chainrule.training.optimizer import Group, Optimizer, Schedule
    from chainrule.training.trainer import Trainer

    class SameBatch:
        def batches(self, step: int, rank: int = 0, world: int = 1) -> list[torch.Tensor]:
            return [tokens]

        def halve(self) -> str | None:
            return None

        def loss(self, model: Any, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            count = torch.tensor(float(batch[:, 1:].numel()))
            return next_token_loss(model, batch) * count, count

    keep_freed_memory()  # as the command line does
    model = Transformer(FAMILIES["gpt2"].read(config_of(shape).to_dict()))
    initialise(model, 0)
    model.compute_dtype = dtype
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = Optimizer(names, [], 1e-4, [Group(list(names), 1e-4)], Schedule(10**6))
    steps = Trainer(model, optimizer, SameBatch(), 10**6).steps()
    return lambda: next(steps) and None


def peer_step(shape: tuple[int, ...], dtype: torch.dtype, tokens: torch.Tensor) -> Callable[[], None]:
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel(config_of(shape)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(tokens[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(side: str, name: str, dtype: str, seconds: float, profile: bool) -> float:
    shape = SHAPES[name]
    torch.manual_seed(0)
    tokens = torch.randint(0, shape[4], (shape[5], shape[3] + 1))
    step = (our_step if side == "ours" else peer_step)(shape, getattr(torch, dtype), tokens)
    step()
    step()
    if profile:
        with torch.profiler.profile() as profiler:
            step()
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15), file=sys.stderr)
    start, made = time.perf_counter(), 0
    while made < 3 or time.perf_counter() - start < seconds:
        step()
        made += 1
    return made * shape[5] * shape[3] / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--side", choices=["ours", "peer"], help="measure one side in this process and print it")
    options = parser.parse_args()
    if options.side:
        print(measure(options.side, options.shapes[0], options.dtype, options.seconds, options.profile))
        return
    for name in options.shapes:
        rates: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(options.rounds):
            for side, found in rates.items():
                command = [sys.executable, __file__, "--side", side, "--shapes", name, "--dtype", options.dtype]
                command += ["--seconds", str(options.seconds), *(["--profile"] if options.profile else [])]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found.append(float(done.stdout.split()[-1]))
        ours, peer = (statistics.median(found) for found in rates.values())
        ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["peer"], strict=True))
        print(f"{name} {options.dtype}: ours {ours:,.0f} tokens/s, transformers {peer:,.0f}, ratio {ratio:.2f}")
        record("train", round(ours), round(peer), round(ratio, 2), f"{name}, {options.dtype}, eager, AdamW, one batch")


if __name__ == "__main__":
    main()
