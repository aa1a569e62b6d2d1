"""Compiles the C++ sources beside it for this processor when they are first needed. Knows a compiler, no model.

The compiled file is kept in the user's cache folder under a hash of the source, the compiler, the processor and the
version of torch, so that it is made once. That a compiler rejects the source is kept under the same hash; any other
failure (no memory, a full disk, an interrupt) holds for one process, and the next one compiles again. Where there is no
compiler, or CHAINRULE_NATIVE=0 is set, there is no library: torch computes all.
"""

import ctypes
import hashlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent
_SECONDS = 120  # at most, for the compiler
# An error in the source, in the options, or of an assembler that is too old. None of these goes away by itself, as a
# compiler that was killed, or that found no memory or a full disk.
_REJECTED = re.compile(r"^[^\n]*\.cpp:[0-9:]+ error:|unrecognized|unknown argument|no such instruction", re.MULTILINE)


class Matrix(ctypes.Structure):
    """Weights (rows, columns) of one kind, and a bias or none; transformer.cpp has the numbers of the kinds."""

    _fields_ = (
        ("kind", ctypes.c_int64), ("rows", ctypes.c_int64), ("columns", ctypes.c_int64),
        ("data", ctypes.c_void_p), ("bias", ctypes.c_void_p),
    )  # fmt: skip


class NormCall(ctypes.Structure):
    """A norm: gains and biases in float32, LayerNorm or RMSNorm, what is added to the mean square and to the gains."""

    _fields_ = (
        ("gain", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("layer", ctypes.c_int64), ("epsilon", ctypes.c_float),
        ("offset", ctypes.c_float),
    )  # fmt: skip


class Strides(ctypes.Structure):
    """Of sequences, heads and positions, in elements."""

    _fields_ = (("sequence", ctypes.c_int64), ("head", ctypes.c_int64), ("position", ctypes.c_int64))


class AttentionCall(ctypes.Structure):
    """The struct Attention of attention.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "sequences", "heads", "key_value_heads", "queries", "keys")),
        ("head_width", ctypes.c_int64), ("causal", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "mixed")),
        *((f"{name}_strides", Strides) for name in ("query", "key", "value", "mixed")),
        ("mask", ctypes.c_void_p), ("masked", ctypes.c_int64), ("mask_sequence", ctypes.c_int64),
        ("mask_position", ctypes.c_int64), ("scale", ctypes.c_float), ("cap", ctypes.c_float),
    )  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions of transformer.cpp, for inference, or None where they cannot be had."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    return _loaded(
        "transformer.cpp",
        {
            "linear": (pointer, pointer, number, pointer, number),
            "widen": (pointer, pointer, number),
            "best": (pointer, number, number, pointer, pointer, number),
            "forward": (pointer, pointer, pointer, pointer, number),
            "attend": (pointer, number),
            "norm": (pointer, number, pointer, pointer, number, number, number),
            "gate": (number, number, pointer, pointer, number, number, number),
            "rotate": (number, pointer, number, *(pointer,) * 3, *(number,) * 6),
        },
    )


@cache
def training_library() -> ctypes.CDLL | None:
    """The compiled functions of training.cpp, or None where they cannot be had."""
    pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    return _loaded(
        "training.cpp",
        {
            "attention": (pointer, number),
            "attention_gradient": (pointer, pointer, number),
            "mlp": (pointer, number),
            "mlp_gradient": (pointer, pointer, number),
            "rms_norm": (pointer, pointer, real, number, number, pointer, pointer, number),
            "rms_norm_gradient": (*(pointer,) * 4, number, number, pointer, pointer, number),
            "swiglu": (pointer, number, number, pointer, number),
            "swiglu_gradient": (pointer, pointer, number, number, pointer, number),
            "cross_entropy": (pointer, pointer, number, number, real, pointer, number),
            "orthogonal": (pointer, number, number, number, number),
        },
    )


def _loaded(source: str, functions: Mapping[str, Sequence[Any]]) -> ctypes.CDLL | None:
    """The library of a source, compiled unless it is kept; `functions` are the types of their arguments."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if os.environ.get("CHAINRULE_NATIVE") == "0" or compiler is None or sys.platform == "win32":
        return None
    openmp = _openmp()
    command = [compiler, "-std=c++17", "-O2", "-fno-math-errno", *_processor_flags(), "-fPIC", "-shared", "-w"]
    sources = [(_FOLDER / name).read_bytes() for name in (source, "attention.h", "vectors.h")]
    made_for = (sources, command, openmp, torch.__version__, _identity(compiler), _processor())
    key = hashlib.sha256(repr(made_for).encode())
    try:
        folder = _cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{key.hexdigest()[:32]}.so"
        if not path.exists():
            if path.with_suffix(".failed").exists():
                return None
            _compile([*command, str(_FOLDER / source)], openmp, path)
        if not path.exists():
            return None
        compiled = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError, RuntimeError):
        return None  # a folder that cannot be written, a compiler that does not end, a user without a home
    for name, types in functions.items():
        function = getattr(compiled, f"chainrule_{name}")
        function.argtypes, function.restype = types, None
    return compiled


def _compile(command: list[str], openmp: str | None, path: Path) -> None:
    """Compile into `path`, whole or not at all; where the compiler rejects the source, a file beside it says why."""
    _remove_left_behind(path.parent)
    # A file of its own for each process and thread: several may compile at the same time.
    prefix = f"{path.stem}.{_host()}.{os.getpid()}."
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".tmp")
    os.close(handle)
    beside = Path(name)
    whole = [*command, "-o", str(beside)]
    try:
        done = subprocess.CompletedProcess[str](whole, 1)
        if openmp is not None:  # linked to the library that torch has loaded: two would have two pools of threads
            parallel = [*command, "-fopenmp", openmp, "-o", str(beside)]
            done = subprocess.run(parallel, capture_output=True, text=True, timeout=_SECONDS)
        if done.returncode:
            done = subprocess.run(whole, capture_output=True, text=True, timeout=_SECONDS)
        if done.returncode == 0:
            beside.replace(path)
        elif _REJECTED.search(done.stderr):
            path.with_suffix(".failed").write_text(done.stderr, encoding="utf-8")
    finally:
        beside.unlink(missing_ok=True)


def _remove_left_behind(folder: Path) -> None:
    """Remove what processes of this machine were writing when they were killed."""
    for path in folder.glob(f"*.{_host()}.*.tmp"):
        process = path.name.split(".")[2]
        if process.isdigit() and not _runs(int(process)):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _host() -> str:
    """This machine's name without dots: several may share a home."""
    return socket.gethostname().replace(".", "-")


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "chainrule" / "native"


def _processor_flags() -> list[str]:
    """Torch's own variable that hides a processor's newer instructions hides them here too."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["-mcpu=native"]
    older = {"default": ["-mtune=generic"], "avx2": ["-mavx2", "-mfma", "-mf16c"]}
    return older.get(os.environ.get("ATEN_CPU_CAPABILITY", ""), ["-march=native"])


def _processor() -> str:
    """What -march=native depends on."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.platform()
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0].splitlines()
    return "\n".join(line for line in first if line.split("\t")[0] in ("model name", "model", "flags", "Features"))


def _identity(compiler: str) -> tuple[str, int, int]:
    path = Path(compiler).resolve()
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def _openmp() -> str | None:
    """The OpenMP library that torch has loaded."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
            path = line.split(maxsplit=5)[-1]
            if Path(path).name.startswith("libgomp"):
                return path
        return None
    found = sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*.dylib"))
    return str(found[0]) if found else None
