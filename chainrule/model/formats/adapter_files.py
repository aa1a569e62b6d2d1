"""An adapter's files are PEFT's: adapter_config.json and adapter_model.safetensors. Knows no layers and no tokenizer.

What PEFT has no field for, the classes of a classifier, whether it gives one, several or a number, and a hash of the
base's weights, is in a third file.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from chainrule.errors import ModelError
from chainrule.model.formats.checkpoint import save_weights
from chainrule.model.quantised import weights_of
from chainrule.model.transformer import Transformer
from chainrule.storage.files import write_json
from chainrule.storage.hub import model_directory

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_EXTRA = "chainrule_adapter.json"
PREFIX = "base_model.model."
MERGE = "merge it with peft (merge_and_unload), and take the merged model"
CLASSIFICATION = "SEQ_CLS"
# What changes the mathematics and is not supported, with the values that do not.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM", CLASSIFICATION, "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM"),
    "bias": ("none",),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "lora_bias": (False, None),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
}
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq")  # initialisations that change the base's weights too
_HEADS = tuple(f"{PREFIX}{name}.weight" for name in ("score", "classifier", "classifier.out_proj"))


@dataclass(frozen=True)
class Adapter:
    """An adapter's files."""

    fields: Mapping[str, Any]  # adapter_config.json
    tensors: Mapping[str, Tensor]  # under PEFT's names
    extra: Mapping[str, Any]  # base_sha256, quantized; of a classifier labels and problem_type; nothing in PEFT's own
    trained_on: Transformer | None = None  # the base, where it is in memory: hashed when the adapter is saved

    @property
    def base(self) -> str:
        """The base model as people name it: a path, or a name on the Hub, with its revision."""
        revision = self.fields.get("revision")
        return f"{self.fields['base_model_name_or_path']}{f'@{revision}' if revision else ''}"

    @property
    def modules(self) -> list[str]:
        """The modules that have matrices, as transformers names them."""
        wanted = self.fields.get("target_modules") or []
        return [wanted] if isinstance(wanted, str) else sorted(wanted)

    @property
    def quantized(self) -> str:
        """How the base was quantised when the adapter was trained beside it, as `load` takes it; "none": not at all."""
        return str(self.extra.get("quantized", "none"))

    @property
    def is_classifier(self) -> bool:
        return self.fields.get("task_type") == CLASSIFICATION

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of a classifier; those of others are LABEL_0, LABEL_1, ... as in transformers."""
        if "labels" in self.extra:
            return tuple(self.extra["labels"])
        count = next((len(tensor) for name, tensor in self.tensors.items() if name.endswith(_HEADS) and tensor.ndim), 0)
        return tuple(f"LABEL_{number}" for number in range(count))

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Those of a module: a pattern is one of PEFT's, a regular expression for the end of the module's name."""

        def of(pattern: str, default: str, otherwise: float) -> Any:
            patterns = self.fields.get(pattern) or {}
            return next(
                (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module)),
                self.fields.get(default, otherwise),
            )

        rank, alpha = of("rank_pattern", "r", 8), of("alpha_pattern", "lora_alpha", 8)
        if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise ModelError(
                f"{CONFIG}: wanted a rank of at least 1 and a number alpha, got {rank!r} and {alpha!r}; restore it"
            )
        return rank, alpha / (rank**0.5 if self.fields.get("use_rslora") else rank)

    def save(self, directory: Path) -> None:
        """Write them."""
        write_json(directory / CONFIG, dict(self.fields))
        tensors = {name: tensor.detach().cpu() for name, tensor in self.tensors.items()}
        hashed = {} if self.trained_on is None else {"base_sha256": weights_hash(self.trained_on)}
        if self.extra or hashed:
            write_json(directory / _EXTRA, {**self.extra, **hashed})
        save_weights(tensors, directory / WEIGHTS)


def weights_hash(model: Transformer) -> str:
    """SHA-256 of all parameters rounded to bfloat16: the same whichever precision they were loaded in, and for a
    file's own blocks whether they were kept or widened."""
    digest = hashlib.sha256()
    for name, parameter in weights_of(model):
        digest.update(name.encode())
        digest.update(parameter.detach().bfloat16().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter, and no model."""
    return (directory / CONFIG).is_file() and not (directory / "config.json").is_file()


def read_adapter(directory: Path) -> Adapter:
    """The adapter of a directory; ModelError for what is none, or of a kind that is not supported."""
    path = directory / CONFIG
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        name = fields["base_model_name_or_path"]
        if not isinstance(name, str) or not name:
            raise ValueError(f"base_model_name_or_path is {name!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: wanted the description of an adapter and its base model, got {error!r}") from None
    for field, values in _PLAIN.items():
        if fields.get(field, values[0]) not in values:
            raise ModelError(
                f"{path}: wanted {field} {values[0]!r}, got {fields[field]!r}, which is not supported; {MERGE}"
            )
    targets = fields.get("target_modules") or []
    names = isinstance(targets, list) and all(isinstance(one, str) for one in targets)
    if not names and not isinstance(targets, str):
        raise ModelError(f"{path}: wanted target_modules to be names of modules, got {targets!r}")
    for field in ("rank_pattern", "alpha_pattern"):
        _check_pattern(path, field, fields.get(field) or {})
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        raise ModelError(
            f"{path}: wanted an adapter of an unchanged base model, got init_lora_weights {start!r}, which changes it;"
            " save the adapter with peft's path_initial_model_for_weight_conversion"
        )
    weights = directory / WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{directory}: wanted {WEIGHTS}, which an adapter's folder has, found none; fetch it again")
    try:
        return Adapter(fields, load_file(weights), _extra(directory / _EXTRA))
    except SafetensorError as error:
        raise ModelError(
            f"{weights}: wanted a whole safetensors file, got one that is cut short or altered ({error})"
        ) from None


def _check_pattern(path: Path, field: str, patterns: Any) -> None:
    """ModelError unless these are numbers by regular expressions."""
    try:
        for pattern in dict(patterns):
            re.compile(pattern)
    except (TypeError, ValueError, re.error):
        raise ModelError(f"{path}: wanted {field} to have a number for each pattern, got {patterns!r}") from None


def _extra(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = {**json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: wanted a JSON object, got {error}; restore it") from None
    labels = found.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels) or len({*labels}) < len(labels):
        raise ModelError(f"{path}: wanted labels to be a list of different classes, got {labels!r}; restore it")
    return found


def base_directory(directory: Path, adapter: Adapter, *, weights: bool = True) -> Path:
    """Where the base model is; ModelError where it is not."""
    try:
        found = model_directory(adapter.base, weights=weights)
        missing = None if found.exists() else "there is no such file or folder"
    except ModelError as error:
        missing = str(error)
    if missing is not None:
        raise ModelError(
            f"{directory}: wanted the adapter's base model {adapter.base}, got none ({missing}); put it there, or"
            f" correct base_model_name_or_path in {CONFIG}"
        )
    if is_adapter(found):
        raise ModelError(f"{directory}: wanted an adapter of a model, got one of another adapter, {adapter.base}")
    return found
