"""This machine: device, precision, threads, the rate of its matrix products, how many tokens one call should process.
Knows no model."""

import ctypes
import shutil
import time
from collections.abc import Mapping
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Literal

import torch

from chainrule.errors import ChainruleError, OptionError

Phase = Literal["prefill", "scoring", "features", "finetuning", "pretraining"]

# Tokens of one call of the model, padding counted: a CPU reaches its full rate while a layer's activations fit its
# caches, a GPU needs many. Where batches are cut into parts of like length (finetuning), small parts have less padding;
# in bfloat16 a CPU wants few parts, since each copies the weights into that precision.
TOKENS_AT_ONCE: Mapping[Phase, Mapping[str, int]] = {
    "prefill": {"cpu": 2**9, "cuda": 2**12, "mps": 2**12},
    "scoring": {"cpu": 2**13, "cuda": 2**13, "mps": 2**13},
    "features": {"cpu": 2**11, "cuda": 2**16, "mps": 2**13},
    "finetuning": {"cpu": 384, "cpu bfloat16": 2**12, "cuda": 2**16, "mps": 2**13},
    "pretraining": {"cpu": 2**13, "cuda": 2**16, "mps": 2**14},
}


_PAUSE_SOFT = 1  # omp.h: settings stay


def tokens_at_once(phase: Phase, device: torch.device, dtype: torch.dtype | None = None) -> int:
    """How many tokens, padding counted, one call of the model should process."""
    table = TOKENS_AT_ONCE[phase]
    return table.get(f"{device.type} {str(dtype).removeprefix('torch.')}", table[device.type])


def device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU. ChainruleError for one not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there.get(name, False):
        found = ", ".join(kind for kind, here in there.items() if here)
        raise ChainruleError(f"--device: wanted one of {found} (what this machine has), got {name}")
    return torch.device(name)


def dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of that name for inference; "auto" is float32 on a CPU and bfloat16 on a GPU."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in named:
        raise ChainruleError(f"--dtype: wanted auto, float32 or bfloat16, got {name}")
    return named[name]


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished, so that a duration can be measured."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.05) -> float:
    """Floating-point operations a second in products of square matrices, the best of a few; measured once a process.

    Small matrices first: in an emulated precision one large product can take seconds.
    """
    largest = 8192 if device.type == "cuda" else 1024
    best, end = 0.0, time.perf_counter() + seconds
    for size in chain((largest // 4,) * 2, repeat(largest)):
        a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
        synchronise(device)
        start = time.perf_counter()
        a @ b
        synchronise(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
        if time.perf_counter() > end:
            break
    return best


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision for training; "auto" is bfloat16 where matrix products are 1.5 times faster with it."""
    if name != "auto" or device.type == "cuda":
        return dtype(name, device)
    faster = matmul_rate(device, torch.bfloat16) > 1.5 * matmul_rate(device, torch.float32)
    return torch.bfloat16 if faster else torch.float32


def compiler() -> bool:
    """Whether there is a C++ compiler for `torch.compile`."""
    return any(map(shutil.which, ("c++", "g++", "clang++", "cl")))


def release_threads() -> None:
    """End the threads that OpenMP keeps for the calling thread, which are made again when it next computes.

    OpenMP (libgomp) counts those of all threads. Where they are more than the processors, threads that wait for each
    other sleep at once instead of watching for a few microseconds, and a step of decoding takes up to twice as long. So
    a thread that will compute no more, or not soon, releases its own.
    """
    try:
        pause = ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):
        return  # another library, or one that is not linked so
    pause(_PAUSE_SOFT)


def to_device(tensor: torch.Tensor, where: torch.device | str) -> torch.Tensor:
    """A CPU's tensor on a device. A GPU is not waited for: a copy from memory that may be swapped out would be."""
    where = torch.device(where)
    return tensor.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else tensor.to(where)


def overwrite(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a CPU's tensor into one on a device, which is not waited for."""
    target.copy_(source.pin_memory() if target.device.type == "cuda" else source, non_blocking=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the system, had no memory left. PyTorch has no error class for the latter."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def empty_cache(device: torch.device) -> None:
    """Give back memory that PyTorch keeps on a device, in pieces that may fit nothing."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: torch.device = torch.device("cpu")) -> float:
    """Bytes of a device's memory that this program can still take: what the system has, at most what is left of the
    limit of its control group (a container's); infinite where the system does not say."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by PyTorch, to be used again
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    free = 1024.0 * next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 2**60)
    return min(free, control_group_memory())


def require_memory(purpose: str, sizes: Mapping[str, float], device: torch.device, cure: str) -> None:
    """OptionError where `sizes`, by what they are for, are together more than `device` has free. `cure`: what would
    take less."""
    needed, free = sum(sizes.values()), free_memory(device)
    if needed > free:
        parts = ", ".join(f"{name} {shown_bytes(size)}" for name, size in sizes.items())
        where = "on the GPU" if device.type == "cuda" else "of memory"
        raise OptionError(
            f"{purpose}: wanted about {shown_bytes(needed)} {where} ({parts}), got {shown_bytes(free)} free; {cure}"
        )


def shown_bytes(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def control_group_memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes left of the memory limits of this process's control groups, of version 1 or 2, the file cache counted as
    free; infinite without a limit."""
    left = float("inf")
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return left
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        group = top / path.lstrip("/")
        for folder in dict.fromkeys((group, *group.parents, top)):  # in a container the path may be the host's
            if folder == top or top in folder.parents:
                left = min(left, _left_in(folder, *names))
    return left


def _left_in(folder: Path, limit: str, used: str) -> float:
    try:
        most, taken = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, used))
        statistics = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        counts = {name: int(count) for name, count in (line.split() for line in statistics)}
        cached = counts.get("total_inactive_file", counts.get("inactive_file", 0))  # with the groups below it
        return float("inf") if most == "max" else max(0.0, float(int(most) - int(taken) + cached))
    except (OSError, ValueError):
        return float("inf")
