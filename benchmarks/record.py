"""One line a measurement, printed and appended to benchmarks/results.jsonl."""

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.jsonl"


def hardware() -> str:
    """Processor, cores, and the version of torch."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor()])[0]}, {os.cpu_count()} cores, torch {version('torch')}"


def record(path: str, ours: Any, peer: Any, ratio: float | None, limit: str) -> None:
    """`limit`: what the measurement holds for."""
    commit = ""
    with suppress(FileNotFoundError):  # a machine without git
        asked = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    line = {
        "path": path,
        "commit": commit.strip(),
        "hardware": hardware(),
        "command": " ".join(["python", *sys.argv]),
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "limit": limit,
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))
