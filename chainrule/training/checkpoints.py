"""Checkpoints to resume training from, checked by their hashes before use. Knows tensors, not models."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from chainrule.errors import FolderError
from chainrule.model.formats.checkpoint import save_weights
from chainrule.storage.files import atomic_directory, sha256, write_json

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    step: int
    path: Path
    state: Mapping[str, Any]  # counts, seconds and the like

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its files: "model", "optimizer", or "best"."""
        return load_file(self.path / f"{name}.safetensors")


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> Path:
    """Write folder/<step>/ atomically; then remove earlier checkpoints."""
    path = folder / str(step)
    with atomic_directory(path) as temporary:
        for name, values in tensors.items():
            save_weights(values, temporary / f"{name}.safetensors")
        hashes = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / "state.json", {**state, "sha256": hashes})
    for step_before, before in _steps(folder).items():
        if step_before < step:
            shutil.rmtree(before)
    return path


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint to resume from, or None; FolderError where one of its files is missing or altered."""
    steps = _steps(folder)
    if not steps:
        return None
    step = max(steps)
    path = steps[step]
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        hashes = state.pop("sha256")
        if not isinstance(hashes, dict) or "seconds" not in state:
            raise ValueError("one without its hashes or its seconds")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FolderError(f"{path / 'state.json'}: wanted a checkpoint's state, got {error}; {_cure(path)}") from None
    for name, wanted in hashes.items():
        if not (path / name).is_file() or sha256(path / name) != wanted:
            raise FolderError(
                f"{path / name}: wanted the file that was saved, got one that is missing or altered; {_cure(path)}"
            )
    return Checkpoint(step, path, state)


def _cure(path: Path) -> str:
    return f"remove {path} to start from an earlier checkpoint or the beginning"


def _steps(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    return {int(path.name): path for path in folder.iterdir() if path.name.isdigit()}
