"""A classifier is a directory in the Hugging Face layout, the family's ForSequenceClassification: of one label, of
several at once, or of a number. Knows no tokenizer.

Shapes: C classes, D width.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chainrule.errors import ModelError
from chainrule.model.adapter import share_layers
from chainrule.model.formats.checkpoint import (
    config_fields,
    described,
    empty_model,
    is_classifier,
    load_weights,
    read_config,
    save_weights,
    weights,
    without_head,
)
from chainrule.model.formats.families import FAMILIES
from chainrule.model.formats.tensors import Tensors
from chainrule.model.transformer import Transformer
from chainrule.storage.files import write_json

PROBLEM_TYPES = {  # transformers' names of the kinds of tasks
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


class Head(nn.Module):
    """w · c: a linear map from c (the output "summary") to C outputs, in float32, plus a bias if there is one."""

    def __init__(self, w: Tensor, bias: Tensor | None = None) -> None:
        """`w` is (C, D), of any memory layout, `bias` (C,)."""
        super().__init__()
        self.w = nn.Parameter(w.contiguous())
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, features: Tensor) -> Tensor:
        """(…, D) to (…, C)."""
        outputs = features.float() @ self.w.T
        return outputs if self.bias is None else outputs + self.bias


class Loaded(NamedTuple):
    """A classifier as its directory describes it."""

    model: Transformer  # without an output layer
    w: Tensor  # (C, D) float32
    family: str
    labels: tuple[str, ...]  # of a number its name
    kind: str = "classification"  # a key of PROBLEM_TYPES
    bias: Tensor | None = None  # (C,) float32; None where it is 0


def without_output(model: Transformer) -> Transformer:
    """The same Transformer without its output layer, which a classifier's files lack; weights are shared.

    A pooler that pretraining did not have begins as the masked head's layer and norm where it is like these, else as
    the identity, before its activation.
    """
    pooler = not model.config.causal
    bare = empty_model(dataclasses.replace(without_head(model.config), pooler=pooler))
    weights = dict(model.named_parameters())
    like_head = pooler and model.pooler is None and model.head is not None and bare.config.pooler_like_head
    share_layers(model, bare, {"head.dense": "pooler.dense"} if like_head else {})
    if pooler and model.pooler is None:
        like = dict(model.head.named_parameters()) if model.head is not None and like_head else {}
        for name, parameter in bare.get_submodule("pooler").named_parameters():
            weights[f"pooler.{name}"] = like[name] if name in like else _neutral(name, parameter, model)
    bare.load_state_dict({name: weights[name] for name, _ in bare.named_parameters()}, assign=True)
    bare.compute_dtype, bare.segment_separator = model.compute_dtype, model.segment_separator
    return bare.train(model.training)


def _neutral(name: str, parameter: Tensor, model: Transformer) -> nn.Parameter:
    """A matrix that is the identity, gains of 1 or biases of 0, as `model` has its weights."""
    start = torch.zeros(parameter.shape, dtype=model.dtype, device=model.device)
    if parameter.ndim == 2:
        start = torch.eye(len(parameter), dtype=model.dtype, device=model.device)
    return nn.Parameter(start + 1 if name.endswith("norm.weight") else start)


def save_classifier(
    model: Transformer,
    w: Tensor,
    family: str,
    labels: Sequence[str],
    directory: Path,
    bos_id: int,
    kind: str = "classification",
    bias: Tensor | None = None,
) -> None:
    """config.json and model.safetensors; `model` is one `without_output`, `bos_id` is the padding."""
    fields = {
        **config_fields(model, family, bos_id),
        "architectures": [FAMILIES[family].classifier],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": PROBLEM_TYPES[kind],
    }
    write_json(directory / "config.json", fields)
    head = head_tensors(family, w, bias)
    save_weights({**weights(model, family), **head}, directory / "model.safetensors")


def head_names(family: str) -> tuple[str, ...]:
    """The tensors of the family's linear head: w, and in BERT's a bias, which is 0 where texts have one label."""
    score = FAMILIES[family].head_name
    return (f"{score}.weight",) if score == "score" else (f"{score}.weight", f"{score}.bias")


def head_has_bias(family: str) -> bool:
    """Whether the family's linear head has a bias in transformers."""
    return len(head_names(family)) > 1


def head_tensors(family: str, w: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """The family's linear head under its names; a bias that is None is 0."""
    assert bias is None or head_has_bias(family), f"the head of {family} has no bias"
    values = w.detach(), w.new_zeros(len(w)) if bias is None else bias.detach()
    return dict(zip(head_names(family), values, strict=False))


def load_classifier(directory: Path, device: torch.device, dtype: torch.dtype | None = None) -> Loaded:
    """The classifier of a directory; ModelError for a language model, and for what `load_model` refuses."""
    fields = read_config(directory)
    if not is_classifier(fields):
        named = ", ".join(map(str, fields.get("architectures") or ["no architecture named"]))
        raise ModelError(
            f"{directory}: wanted a classifier, got a language model ({named}); finetune it first,"
            " or prompt it with predict --task"
        )
    kind = kind_of(fields.get("problem_type"), directory / "config.json")
    labels = classes(fields, directory, 2 if kind == "classification" else 1)
    config, family = described(directory, fields)
    model = without_output(empty_model(config))
    shapes = zip(head_names(family), ((len(labels), model.config.width), (len(labels),)), strict=False)
    w, *bias = load_weights(model, family, Tensors(directory), device, dtype, others=dict(shapes)).values()
    return Loaded(model.eval(), w.float(), family, labels, kind, checked_bias(bias, kind, directory))


def kind_of(problem_type: Any, path: Path) -> str:
    """The kind of task of a problem_type, that of one label where there is none; ModelError for an unknown one."""
    if problem_type is None:
        return "classification"
    for kind, name in PROBLEM_TYPES.items():
        if name == problem_type:
            return kind
    raise ModelError(f"{path}: wanted a problem_type of {', '.join(PROBLEM_TYPES.values())}, got {problem_type!r}")


def checked_bias(bias: Sequence[Tensor], kind: str, directory: Path) -> Tensor | None:
    """The bias of a stored head in float32, None where it is 0 or missing; ModelError where one label has one."""
    if not any(each.any() for each in bias):
        return None
    if kind == "classification":
        raise ModelError(f"{directory}: wanted a linear head without a bias, got one that has it; finetune it here")
    return bias[0].float()


def classes(fields: dict[str, Any], directory: Path, least: int = 2) -> tuple[str, ...]:
    """The names of the classes in config.json, in the order of w's rows; ModelError where it has fewer than `least`."""
    names = fields.get("id2label") or {}
    numbers = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if len(numbers) < least or sorted(names) != sorted(numbers):
        raise ModelError(f"{directory / 'config.json'}: wanted id2label to name the classes 0, 1, ..., got {names}")
    return tuple(str(names[number]) for number in numbers)
