"""A classifier is a directory in the Hugging Face layout, the family's ForSequenceClassification. Knows no tokenizer.

Shapes: C classes, D width.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chainrule.errors import ModelError
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


class Head(nn.Module):
    """w · c: a linear map from c (the output "summary") to the logits of C classes, without bias, in float32."""

    def __init__(self, w: Tensor) -> None:
        """`w` is (C, D), of any memory layout."""
        super().__init__()
        self.w = nn.Parameter(w.contiguous())

    def forward(self, features: Tensor) -> Tensor:
        """(…, D) to (…, C)."""
        return features.float() @ self.w.T


class Loaded(NamedTuple):
    """A classifier as its directory describes it."""

    model: Transformer  # without an output layer
    w: Tensor  # (C, D) float32
    family: str
    labels: tuple[str, ...]


def without_output(model: Transformer) -> Transformer:
    """The same Transformer without its output layer, which a classifier's files lack; weights are shared.

    A pooler that pretraining did not have begins as the masked head's layer and norm where it is like these, else as
    the identity, before its activation.
    """
    pooler = not model.config.causal
    bare = empty_model(dataclasses.replace(without_head(model.config), pooler=pooler))
    weights = dict(model.named_parameters())
    if pooler and model.pooler is None:
        like = dict(model.head.named_parameters()) if model.head is not None and bare.config.pooler_like_head else {}
        for name, parameter in bare.get_submodule("pooler").named_parameters():
            weights[f"pooler.{name}"] = like[name] if name in like else _neutral(name, parameter, model)
    bare.load_state_dict({name: weights[name] for name, _ in bare.named_parameters()}, assign=True)
    bare.compute_dtype = model.compute_dtype
    return bare.train(model.training)


def _neutral(name: str, parameter: Tensor, model: Transformer) -> nn.Parameter:
    """A matrix that is the identity, gains of 1 or biases of 0, as `model` has its weights."""
    start = torch.zeros(parameter.shape, dtype=model.dtype, device=model.device)
    if parameter.ndim == 2:
        start = torch.eye(len(parameter), dtype=model.dtype, device=model.device)
    return nn.Parameter(start + 1 if name.endswith("norm.weight") else start)


def save_classifier(
    model: Transformer, w: Tensor, family: str, labels: Sequence[str], directory: Path, bos_id: int
) -> None:
    """config.json and model.safetensors; `model` is one `without_output`, `bos_id` is the padding."""
    fields = {
        **config_fields(model, family, bos_id),
        "architectures": [FAMILIES[family].classifier],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
    write_json(directory / "config.json", fields)
    head = dict(zip(head_names(family), (w.detach(), w.new_zeros(len(w))), strict=False))
    save_weights({**weights(model, family), **head}, directory / "model.safetensors")


def head_names(family: str) -> tuple[str, ...]:
    """The tensors of the family's linear head: w, and in BERT's a bias, which is 0."""
    score = FAMILIES[family].head_name
    return (f"{score}.weight",) if score == "score" else (f"{score}.weight", f"{score}.bias")


def load_classifier(directory: Path, device: torch.device, dtype: torch.dtype | None = None) -> Loaded:
    """The classifier of a directory; ModelError for a language model, and for what `load_model` refuses."""
    fields = read_config(directory)
    if not is_classifier(fields):
        named = ", ".join(map(str, fields.get("architectures") or ["no architecture named"]))
        raise ModelError(
            f"{directory}: wanted a classifier, got a language model ({named}); finetune it first, or load it with load"
        )
    labels = classes(fields, directory)
    config, family = described(directory, fields)
    model = without_output(empty_model(config))
    shapes = zip(head_names(family), ((len(labels), model.config.width), (len(labels),)), strict=False)
    w, *bias = load_weights(model, family, Tensors(directory), device, dtype, others=dict(shapes)).values()
    if any(each.any() for each in bias):
        raise ModelError(f"{directory}: wanted a linear head without a bias, got one that has it; finetune it here")
    return Loaded(model.eval(), w.float(), family, labels)


def classes(fields: dict[str, Any], directory: Path) -> tuple[str, ...]:
    """The names of the classes in config.json, in the order of w's rows; ModelError where it has none."""
    names = fields.get("id2label") or {}
    numbers = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if len(numbers) < 2 or sorted(names) != sorted(numbers):
        raise ModelError(f"{directory / 'config.json'}: wanted id2label to name the classes 0, 1, ..., got {names}")
    return tuple(str(names[number]) for number in numbers)
