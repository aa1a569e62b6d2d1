"""The folder of a finetuning: begun, continued, or refused as another's. Knows options and weights, no training."""

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
import torch

from chainrule import machine
from chainrule.errors import ModelError, OptionError
from chainrule.finetuning.options import FinetuneOptions
from chainrule.language_model import Pretrained
from chainrule.model.adapter import is_adapted
from chainrule.model.formats.adapter_files import WEIGHTS
from chainrule.model.quantised import blocks_of
from chainrule.storage.files import write_text
from chainrule.storage.run_folder import find_record, read_record, require_same
from chainrule.tasks.examples import Examples
from chainrule.training.parallel import Processes
from chainrule.training.parallel_options import ParallelOptions
from chainrule.training.torchrun import require_same_command

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from chainrule.finetuning.classifier import Classifier
    from chainrule.prompting.prompted import Prompted

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
    return Decided(dtype_name(machine.training_dtype(dtype, lm.device)), torch.get_num_threads() * processes)


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
    called = {"examples": "the examples of TASK", "model": "the weights of MODEL"}
    require_same_command(processes, asked, called, parallel)
    with processes.together():
        if out is not None and processes.first:
            decided = open_folder(out, asked, decided)
    decided = Decided(**processes.from_first(dataclasses.asdict(decided)))
    if out is not None:
        torch.set_num_threads(max(1, decided.threads // processes.world))
    return decided


def check_base(lm: Pretrained, out: Path | None) -> None:
    """ModelError for a model that has adapters beside its weights already, and for one of no file where the adapter is
    to be saved, which names its base."""
    if out is not None and lm.path is None:
        raise ModelError(
            "--train lora: wanted a model in a file of its own, which the new adapter names, got an adapter, or a model"
            " made in Python; merge the adapter (chainrule export ADAPTER --to huggingface --out FOLDER), or save the"
            " model, and take that"
        )
    if is_adapted(lm.model):
        raise ModelError(
            "--train lora: wanted a model without adapter, got one beside quantised weights; load it without quantize,"
            " which merges it"
        )


def check_together(examples: int, processes: Processes) -> None:
    """OptionError for fewer examples a step than processes."""
    if examples < processes.world:
        raise OptionError(
            f"finetune: wanted an example for each of {processes.world} processes, got {examples} at a time;"
            " start fewer"
        )


def keep(predictor: "Classifier | Prompted", out: Path | None, processes: Processes) -> None:
    """The first process saves the predictor to `out`, if it was given, and removes the checkpoints."""
    with processes.together():
        if out is not None and processes.first:
            predictor.save(out)
            shutil.rmtree(out / "training", ignore_errors=True)


def holds_weights(out: Path | None) -> bool:
    """Whether a folder holds what a finetuning makes."""
    return out is not None and any((out / name).is_file() for name in ("model.safetensors", WEIGHTS))


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
