"""The folder of a finetuning: begun, continued, or refused as another's. Knows options and weights, no training."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
import torch

from chainrule import machine
from chainrule.finetuning.options import FinetuneOptions
from chainrule.language_model import Pretrained
from chainrule.model.formats.adapter_files import WEIGHTS
from chainrule.model.quantised import blocks_of
from chainrule.storage.files import write_text
from chainrule.storage.run_folder import find_record, read_record, require_same
from chainrule.tasks.examples import Examples
from chainrule.training.parallel import Processes
from chainrule.training.parallel_options import ParallelOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_NEWER = {"by": "head", "chat": False, "quantize": "none", "normalise": "sum"}  # that earlier versions did not record


@dataclass(frozen=True)
class Decided:
    """What was decided once. A resumed finetuning keeps it: else its last bits would change."""

    dtype: str  # that the training computes in
    threads: int

    @property
    def precision(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found


def decide(lm: Pretrained, dtype: str, processes: int = 1) -> Decided:
    """What this machine decides for so many processes; `dtype` as in `machine.training_dtype`."""
    return Decided(dtype_name(machine.training_dtype(dtype, lm.device)), machine.threads() * processes)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def asked_of(lm: Pretrained, reads: Any, examples: Examples, options: "DataclassInstance") -> dict[str, Any]:
    """All that the result depends on, as run.toml records it. `reads`: how a row is read, for JSON."""
    asked = dataclasses.asdict(options)
    asked["device"] = lm.device.type
    content = json.dumps([*reads, [dict(row) for row in examples.rows], list(examples.labels)])
    asked["examples"] = hashlib.sha256(content.encode()).hexdigest()
    model = hashlib.sha256(lm.tokenizer.hash.encode())
    for name, parameter in (*lm.model.named_parameters(), *blocks_of(lm.model)):
        model.update(name.encode())
        model.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    asked["model"] = model.hexdigest()
    asked["quantize"] = lm.quantize
    return {name: value for name, value in asked.items() if value is not None and value != _NEWER.get(name)}


def open_together(
    lm: Pretrained,
    reads: Any,
    examples: Examples,
    options: FinetuneOptions,
    out: Path | None,
    processes: Processes,
    parallel: ParallelOptions,
) -> Decided:
    """What is decided for a finetuning, by the first process for all, and kept in `out`; the threads are taken.

    Raises ChainruleError where the processes were not all asked for the same, and what `open_folder` raises.
    """
    decided, asked = decide(lm, options.dtype, processes.world), dict[str, Any]()
    if out is not None or processes.world > 1:
        asked = asked_of(lm, reads, examples, options)
    processes.require_same(_named(asked, parallel))
    with processes.together():
        if out is not None and processes.first:
            decided = open_folder(out, asked, decided)
    decided = Decided(**processes.from_first(dataclasses.asdict(decided)))
    if out is not None:
        torch.set_num_threads(max(1, decided.threads // processes.world))
    return decided


def holds_weights(out: Path | None) -> bool:
    """Whether a folder holds what a finetuning makes."""
    return out is not None and any((out / name).is_file() for name in ("model.safetensors", WEIGHTS))


def _named(asked: dict[str, Any], parallel: ParallelOptions) -> dict[str, Any]:
    """What must be the same in all processes, as messages name it."""
    called = {"examples": "the examples of TASK", "model": "the weights of MODEL"}
    options = {called.get(name, f"--{name.replace('_', '-')}"): value for name, value in asked.items()}
    versions = {f"the version of {name}": version(name) for name in ("chainrule", "torch")}
    shared = {"--shard": parallel.shard, "--wait": parallel.wait}
    return {**options, **shared, "--checkpoint-activations": parallel.checkpoint_activations, **versions}


def open_folder(out: Path, asked: dict[str, Any], decided: Decided) -> Decided:
    """What was decided for the finetuning in `out`, which is begun if it is new; FolderError if it is another."""
    path = find_record(out, ("run.toml",), "a finetuning")
    if path is None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "run.toml", tomli_w.dumps({"finetune": asked, "decided": dataclasses.asdict(decided)}))
        return decided
    stored = read_record(path, "a finetuning", wanted=("finetune", "decided"))
    require_same(out, stored["finetune"], asked, called={"examples": "the examples", "model": "the model"})
    return Decided(**stored["decided"])
