"""PEFT's adapters and our layers: written from trained matrices, and merged into the model they belong to.

PEFT has a pair of matrices for each module of transformers, so a fused layer of ours has several. A classifier's
adapter has the head too. Knows no tokenizer.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from chainrule.errors import ModelError, OptionError
from chainrule.model.adapter import LowRank, merged, untied, with_adapters
from chainrule.model.formats.adapter_files import (
    CLASSIFICATION,
    MERGE,
    PREFIX,
    Adapter,
    base_directory,
    weights_hash,
)
from chainrule.model.formats.checkpoint import empty_model, in_file_layout, in_our_layout, load_model
from chainrule.model.formats.classifier import (
    PROBLEM_TYPES,
    Loaded,
    checked_bias,
    head_names,
    head_tensors,
    kind_of,
    without_output,
)
from chainrule.model.formats.families import FAMILIES
from chainrule.model.formats.family import TensorLocation
from chainrule.model.formats.load_quantised import Quantize, load_quantised
from chainrule.model.linear import Linear
from chainrule.model.quantised import QuantisedLinear, is_quantised
from chainrule.model.transformer import Transformer
from chainrule.storage.gguf import is_gguf


def adapter_parts(model: Transformer, family: str) -> dict[str, tuple[int, ...]]:
    """The outputs of each map of our linear layers that is a module in transformers, by the layer's name."""
    return {name: location.parts for name, location in _layers(model, family).items()}


class Base(NamedTuple):
    """The model that an adapter was trained on."""

    model: Transformer
    family: str
    name: str  # a directory, or a name on the Hub
    quantize: str = "none"  # how it was quantised when it was loaded

    @property
    def quantized(self) -> dict[str, str]:
        """What an adapter says of it."""
        return {"quantized": self.quantize} if is_quantised(self.model) else {}


def classifier_adapter(
    base: Base,
    bare: Transformer,
    adapters: Mapping[str, Mapping[int, LowRank]],
    w: Tensor,
    labels: tuple[str, ...],
    rank: int,
    alpha: float,
    kind: str = "classification",
    bias: Tensor | None = None,
) -> Adapter:
    """The files of a classifier: `adapters` and a linear head on `bare`, the base without its output.

    The head is `w` (C, D) and a `bias` (C,), None where it is 0.
    """
    tensors = _matrices(bare, base.family, adapters)
    fields = _fields(base, tensors, rank, alpha, CLASSIFICATION)
    tensors |= {PREFIX + name: tensor for name, tensor in head_tensors(base.family, w, bias).items()}
    whole = ["classifier", "score"]
    if bare.pooler is not None:  # the base may lack it, and transformers would draw it at random
        pooler = _pooler(bare, base.family)
        tensors |= {PREFIX + name: tensor for name, tensor in pooler.items()}
        first = next(iter(pooler))  # in the base's encoder, or beside or in what a family calls its classifier
        whole.append("pooler" if "pooler" in first else first.partition(".")[0])
    fields["modules_to_save"] = list(dict.fromkeys(whole))
    extra: dict[str, Any] = {"labels": list(labels), **base.quantized}
    if kind != "classification":
        extra["problem_type"] = PROBLEM_TYPES[kind]
    return Adapter(fields, tensors, extra, base.model)


def language_adapter(base: Base, adapters: Mapping[str, Mapping[int, LowRank]], rank: int, alpha: float) -> Adapter:
    """The files of a language model, causal or masked, with `adapters` beside its layers."""
    tensors = _matrices(base.model, base.family, adapters)
    task = "CAUSAL_LM" if base.model.config.causal else None
    return Adapter(_fields(base, tensors, rank, alpha, task), tensors, base.quantized, base.model)


def _matrices(model: Transformer, family: str, adapters: Mapping[str, Mapping[int, LowRank]]) -> dict[str, Tensor]:
    """A and B of each map under PEFT's names."""
    tensors: dict[str, Tensor] = {}
    for name, location in _layers(model, family).items():
        for index, adapter in adapters.get(name, {}).items():
            module = location.names[index].removesuffix(".weight")
            tensors[f"{PREFIX}{module}.lora_A.weight"] = adapter.A
            tensors[f"{PREFIX}{module}.lora_B.weight"] = in_file_layout(adapter.B, _untransposed(location))
    return tensors


def _fields(base: Base, tensors: Mapping[str, Tensor], rank: int, alpha: float, task: str | None) -> dict[str, Any]:
    """adapter_config.json; `tensors` are those of A and B alone."""
    path = Path(base.name)
    name, _, revision = (str(path.resolve()), "", "") if path.exists() else base.name.partition("@")
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": name,
        "revision": revision or None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({_target(name) for name in tensors}),
        "modules_to_save": None,
        "fan_in_fan_out": FAMILIES[base.family].transposed,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "inference_mode": True,
    }


def _target(tensor: str) -> str:
    """How adapter_config.json names the module of a tensor: BERT calls more than one kind of layer dense."""
    *_, above, module, _, _ = tensor.split(".")
    return f"{above}.{module}" if module == "dense" else module


def load_adapted(
    directory: Path, adapter: Adapter, device: torch.device, dtype: torch.dtype, quantize: Quantize = "auto"
) -> tuple[Transformer, str, Path]:
    """The language model of an adapter merged into its base, its family, and the base's directory.

    Merged in float32, then converted to `dtype`; beside the base where that was quantised for the training, and
    `quantize` allows it. Raises ModelError as `read_adapter` does, for a base that is missing
    or not the one that the adapter was trained on, and for matrices that do not fit it.
    """
    if adapter.is_classifier:
        raise ModelError(
            f"{directory}: wanted a language model, got the adapter of a classifier; use it with chainrule predict"
            f" {directory}"
        )
    model, family, where = _language_beside(directory, adapter, device)
    return _ready(model, dtype, beside=quantize in ("auto", adapter.quantized)), family, where


def _language_beside(directory: Path, adapter: Adapter, device: torch.device) -> tuple[Transformer, str, Path]:
    base, family, where = _base(directory, adapter, device)
    model, left = attached(directory, adapter, base, family)
    _refuse_left(directory, left, family)
    return model, family, where


def load_unmerged(directory: Path, adapter: Adapter, device: torch.device) -> Transformer:
    """The model of an adapter, its matrices beside the weights of the base, computed in float32; of a classifier
    without its head. Raises ModelError as `load_adapted` and `load_adapted_classifier` do."""
    beside = _classifier_beside if adapter.is_classifier else _language_beside
    model: Transformer = beside(directory, adapter, device)[0]
    model.compute_dtype = torch.float32
    return model.requires_grad_(False).eval()


def load_beside(directory: Path, adapter: Adapter, base: Transformer, family: str) -> Transformer:
    """The language model of an adapter beside the weights of its base, with which it shares their memory.

    Raises ModelError as `load_adapted` does.
    """
    if adapter.is_classifier:
        raise ModelError(f"{directory}: wanted a language model, got the adapter of a classifier; give it to predict")
    _check_base(directory, adapter, base)
    model, left = attached(directory, adapter, base, family)
    _refuse_left(directory, left, family)
    return model.eval()


def load_adapted_classifier(directory: Path, adapter: Adapter, device: torch.device, dtype: torch.dtype) -> Loaded:
    """The classifier of an adapter merged into its base; errors as in `load_adapted`."""
    if not adapter.is_classifier:
        raise ModelError(
            f"{directory}: wanted a classifier, got the adapter of a language model; finetune it first,"
            " or prompt it with predict --task"
        )
    found = _classifier_beside(directory, adapter, device)
    return found._replace(model=_ready(found.model, dtype, beside=True))


def _classifier_beside(directory: Path, adapter: Adapter, device: torch.device) -> Loaded:
    base, family, _ = _base(directory, adapter, device)
    bare = without_output(base)
    model, left = attached(directory, adapter, bare, family)
    head = [f"{PREFIX}{name}" for name in head_names(family)]
    labels, kind = adapter.labels, kind_of(adapter.extra.get("problem_type"), directory)
    least = 2 if kind == "classification" else 1
    if head[0] not in left or left[head[0]].shape != (len(labels), bare.config.width) or len(labels) < least:
        raise ModelError(
            f"{directory}: wanted {head[0]} of {max(least, len(labels))} classes and width {bare.config.width}, got"
            f" {list(left[head[0]].shape) if head[0] in left else 'none: the head was not saved'}"
        )
    w, *bias = (left.pop(name) for name in head if name in left)
    added = checked_bias(bias, kind, directory)
    if bare.pooler is not None:
        own = dict(model.get_submodule("pooler").named_parameters())
        for (part, parameter), name in zip(own.items(), _pooler(bare, family), strict=True):
            stored = left.pop(PREFIX + name, parameter)
            if stored.shape != parameter.shape:
                raise ModelError(
                    f"{directory}: wanted {PREFIX + name} of {list(parameter.shape)}, got {list(stored.shape)}; the"
                    " adapter is of another model, or altered"
                )
            within, _, last = f"pooler.{part}".rpartition(".")
            model.get_submodule(within).register_parameter(last, nn.Parameter(stored.detach().to(device)))
    _refuse_left(directory, left, family)
    added = None if added is None else added.to(device)
    return Loaded(model, w.float().to(device), family, labels, kind, added)


def _ready(model: Transformer, dtype: torch.dtype, *, beside: bool) -> Transformer:
    """A model with adapters for use: merged, in `dtype`; where it is quantised, and may stay `beside`, as it is."""
    if beside and is_quantised(model):
        model.compute_dtype = dtype
        return model.requires_grad_(False).eval()
    made = merged(model).to(dtype)
    made.compute_dtype = None
    return made.eval()


def attached(
    directory: Path, adapter: Adapter, base: Transformer, family: str
) -> tuple[Transformer, dict[str, Tensor]]:
    """The base with the adapter's matrices beside its layers, and the tensors that are none of these. Where the output
    has some and is the embedding too, it becomes a layer of its own: the embedding stays as it is."""
    left = dict(adapter.tensors)
    if base.config.causal and base.config.tied and _keys(_output_module(base, family), FAMILIES[family].prefix, left):
        base = untied(base)
    adapters: dict[str, dict[int, LowRank]] = {}
    for name, location in _layers(base, family).items():
        for index, (theirs, rows) in enumerate(zip(location.names, location.parts, strict=True)):
            module = theirs.removesuffix(".weight")
            layer: Any = base.get_submodule(name)
            keys = _keys(module, FAMILIES[family].prefix, left)
            if keys is None:
                continue
            A, B = (left.pop(key) for key in keys)
            rank, scale, inputs = *adapter.rank_and_scale(module), layer.in_features
            if A.shape != (rank, inputs) or B.shape != (rows, rank):
                raise ModelError(
                    f"{directory}: wanted matrices of {[rank, inputs]} and {[rows, rank]} for {module} and"
                    f" its rank, got {list(A.shape)} and {list(B.shape)}; the adapter is of another model, or altered"
                )
            if not (A.isfinite().all() and B.isfinite().all()):
                raise ModelError(f"{directory}: wanted finite numbers for {module}, got nan or inf; fetch it again")
            A, B = A.float().to(base.device), in_our_layout(B, _untransposed(location)).float().to(base.device)
            adapters.setdefault(name, {})[index] = LowRank(A, B, scale)
            copy = left.get(f"{PREFIX}{module}.base_layer.weight")  # of the output layer PEFT saves the base's too
            if copy is not None and torch.equal(copy.to(layer.weight), layer.weight):
                del left[f"{PREFIX}{module}.base_layer.weight"]
    if not adapters:
        got = min(left, default="no tensors")
        raise ModelError(f"{directory}: wanted LoRA matrices of linear layers of a {family} model, got {got}; {MERGE}")
    return with_adapters(base, adapter_parts(base, family), adapters), left


def _output_module(model: Transformer, family: str) -> str:
    """What the output layer of a causal model is called in a file, where it is not tied."""
    own = empty_model(dataclasses.replace(model.config, tied=False))
    return FAMILIES[family].locations(own, own.config.heads)["output.weight"].names[0].removesuffix(".weight")


def _keys(module: str, prefix: str, tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The names of a module's A and B, in files of the whole model or of one without a head; None where it has none."""
    for name in (module, module.removeprefix(prefix)):
        one, other = (f"{PREFIX}{name}.lora_{matrix}.weight" for matrix in "AB")
        if one in tensors and other in tensors:
            return one, other
    return None


def _base(directory: Path, adapter: Adapter, device: torch.device) -> tuple[Transformer, str, Path]:
    """The base model in its own precision, its family and where it is."""
    where = base_directory(directory, adapter)
    if adapter.quantized != "none":
        try:
            model, family = load_quantised(where, device, torch.float32, cast(Quantize, adapter.quantized))
        except OptionError as error:
            raise ModelError(f"{directory}: {error}") from None
    else:
        # a GGUF's own precision is that of its matrices: its norms would lose digits
        model, family = load_model(where, device, torch.float32 if is_gguf(where) else None)
    _check_base(directory, adapter, model)
    return model, family, where


def _check_base(directory: Path, adapter: Adapter, base: Transformer) -> None:
    wanted = adapter.extra.get("base_sha256")
    if wanted is not None and weights_hash(base) != wanted:
        raise ModelError(
            f"{directory}: wanted the base model that the adapter was trained on, got other weights in {adapter.base};"
            " restore them"
        )


def _refuse_left(directory: Path, left: Mapping[str, Tensor], family: str) -> None:
    if left:
        raise ModelError(
            f"{directory}: wanted LoRA matrices of linear layers of a {family} model, got also {min(left)}"
            f" ({len(left)} left over), which is not supported; {MERGE}"
        )


def _layers(model: Transformer, family: str) -> dict[str, TensorLocation]:
    """Where the weights of our linear layers are in a file of transformers, by the layer's name."""
    # of a model without blocks: those of a layer in blocks are the same
    locations = FAMILIES[family].locations(empty_model(model.config), model.config.heads)
    kinds = Linear | QuantisedLinear
    names = [name for name, module in model.named_modules() if isinstance(module, kinds) and name != "pooler"]
    return {name: locations[f"{name}.weight"] for name in names}


def _pooler(model: Transformer, family: str) -> dict[str, Tensor]:
    """The pooler's parameters under the family's names."""
    locations = FAMILIES[family].locations(model, model.config.heads)
    own = model.get_submodule("pooler").named_parameters(prefix="pooler")
    return {locations[name].names[0]: parameter for name, parameter in own}


def _untransposed(location: TensorLocation) -> TensorLocation:
    """PEFT's matrices are never transposed, whatever the base's are."""
    return dataclasses.replace(location, transposed=False)
