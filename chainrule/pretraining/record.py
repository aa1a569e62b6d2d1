"""What run.toml records of a run: what was asked for, what was decided, and of which data. Knows no model."""

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
import torch

from chainrule.corpus.write import CorpusOptions, Shards
from chainrule.pretraining.options import PretrainOptions
from chainrule.pretraining.run import Decided
from chainrule.storage.files import sha256, write_text
from chainrule.storage.remote import without_secrets
from chainrule.storage.run_folder import find_record, read_record, require_same, unaltered
from chainrule.training.parallel import Processes

# Of a run that was killed before run.toml was written.
_WRITTEN_FIRST = ("data", "tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json")


def asked_options(
    data: Sequence[str], options: PretrainOptions, corpus: CorpusOptions, device: str, dtype: str
) -> dict[str, Any]:
    """The options as run.toml records them, without those that do not change the result."""
    asked = {
        "data": [without_secrets(name) for name in data],
        **dataclasses.asdict(options),
        **dataclasses.asdict(corpus),
        "device": device,
        "dtype": dtype,
    }
    asked["from"] = asked.pop("start")
    asked["optimizer"] = options.optimizer_name
    for name in ("workers", "verify", "keep", "mask"):  # these change nothing; mask follows from the objective
        del asked[name]
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in asked.items() if value is not None
    }


def stored_run(out: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What run.toml records, if `out` holds a run of the same options; None if it holds none."""
    path = find_record(out, ("run.toml",), "a run", before=_WRITTEN_FIRST)
    if path is None:
        return None
    stored = read_record(path, "a run", wanted=("options", "decided", "data"))
    defaults = dataclasses.asdict(PretrainOptions())  # of options that are newer than the run
    before = {name: default for name, default in defaults.items() if name in asked} | stored["options"]
    require_same(out, before, asked, called={"data": "DATA"})
    return stored


def checked_manifest(
    shards: Shards, out: Path, options: PretrainOptions, stored: dict[str, Any] | None, processes: Processes
) -> str:
    """The hash of the shards' manifest. FolderError where the run was begun with others, DataError for altered ones."""
    manifest = sha256(shards.directory / "manifest.json")
    if stored is not None:
        before, called = {"shards": stored["data"]["manifest"]}, {"shards": f"the shards in {shards.directory}"}
        require_same(out, before, {"shards": manifest}, called)
    if options.verify:
        shards.verify()
    elif stored is not None and processes.first:
        shards.verify(unchanged=stored["data"].get("files"))
    return manifest


def decided_before(out: Path, stored: dict[str, Any] | None, processes: Processes) -> Decided | None:
    """What was decided when the run was begun; its threads are divided among the processes."""
    if stored is None:
        return None
    with unaltered(out / "run.toml", "the record of a run"):
        decided = Decided(**stored["decided"])
    torch.set_num_threads(max(1, decided.threads // processes.world))
    return decided


def write_record(out: Path, asked: dict[str, Any], decided: Decided, shards: Shards, base: str | None = None) -> None:
    """Write run.toml: everything that is needed to do it again. `base`: the hash of a frozen model."""
    record: dict[str, Any] = {
        "options": asked,
        "decided": dataclasses.asdict(decided),
        "data": {
            "manifest": sha256(shards.directory / "manifest.json"),
            "tokens": len(shards.split("train")),
            "files": shards.sizes_and_times(),
        },
        "versions": {name: version(name) for name in ("chainrule", "torch", "tokenizers", "tiktoken")},
    }
    if base is not None:
        record["base"] = base
    write_text(out / "run.toml", tomli_w.dumps(record))
