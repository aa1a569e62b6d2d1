"""Compiles transformer.cpp for this processor when it is first needed, and loads it. Knows a compiler, no model.

The compiled file is kept in the user's cache folder under a hash of the source, the compiler and the processor, so that
it is made once. Where there is no compiler, or CHAINRULE_NATIVE=0 is set, there is no library: torch computes all.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_name("transformer.cpp")
_SECONDS = 120  # at most, for the compiler


class Matrix(ctypes.Structure):
    """Weights (rows, columns) of one kind, and a bias or none; transformer.cpp has the numbers of the kinds."""

    _fields_ = (
        ("kind", ctypes.c_int64), ("rows", ctypes.c_int64), ("columns", ctypes.c_int64),
        ("data", ctypes.c_void_p), ("bias", ctypes.c_void_p),
    )  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be had."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if os.environ.get("CHAINRULE_NATIVE") == "0" or compiler is None or sys.platform == "win32":
        return None
    openmp = _openmp()
    command = [compiler, "-std=c++17", "-O2", *_processor_flags(), "-fPIC", "-shared", "-w"]
    key = hashlib.sha256(repr((_SOURCE.read_bytes(), command, openmp, _identity(compiler), _processor())).encode())
    try:
        folder = _cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{key.hexdigest()[:32]}.so"
        if not path.exists():
            if path.with_suffix(".failed").exists():
                return None
            _compile(command, openmp, path)
        return _declared(ctypes.CDLL(str(path))) if path.exists() else None
    except (OSError, subprocess.SubprocessError, RuntimeError):
        return None  # a folder that cannot be written, a compiler that does not end, a user without a home


def _compile(command: list[str], openmp: str | None, path: Path) -> None:
    """Compile into `path`, whole or not at all; where the compiler fails, a file beside it has the message."""
    # A file of its own for each process and thread: several may compile at the same time.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".tmp")
    os.close(handle)
    beside = Path(name)
    whole = [*command, str(_SOURCE), "-o", str(beside)]
    try:
        done = subprocess.CompletedProcess[str](whole, 1)
        if openmp is not None:  # linked to the library that torch has loaded: two would have two pools of threads
            parallel = [*command[:-1], "-w", "-fopenmp", str(_SOURCE), openmp, "-o", str(beside)]
            done = subprocess.run(parallel, capture_output=True, text=True, timeout=_SECONDS)
        if done.returncode:
            done = subprocess.run(whole, capture_output=True, text=True, timeout=_SECONDS)
        if done.returncode:
            path.with_suffix(".failed").write_text(done.stderr, encoding="utf-8")
        else:
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _declared(compiled: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    compiled.chainrule_linear.argtypes = (pointer, pointer, number, pointer, number)
    compiled.chainrule_widen.argtypes = (pointer, pointer, number)
    compiled.chainrule_forward.argtypes = (pointer, pointer, pointer, pointer, number)
    for name in ("linear", "widen", "forward"):
        getattr(compiled, f"chainrule_{name}").restype = None
    return compiled


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
