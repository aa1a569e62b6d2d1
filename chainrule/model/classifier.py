"""A classifier is a directory in the Hugging Face layout, the family's ForSequenceClassification. Knows no tokenizer.

Shapes: C classes, D width.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chainrule.files import write_json
from chainrule.model.checkpoint import (
    config_fields,
    empty_model,
    is_classifier,
    load_weights,
    read_config,
    save_weights,
    weights,
)
from chainrule.model.families import FAMILIES
from chainrule.model.transformer import Transformer

_HEAD = "score.weight"  # in every causal family


class Head(nn.Module):
    """w · c_{T+1}: a linear map from φ at the last token to the logits of C classes, without a bias; in float32."""

    def __init__(self, w: Tensor) -> None:
        """`w` is (C, D)."""
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, features: Tensor) -> Tensor:
        """(…, D) to (…, C)."""
        return features.float() @ self.w.T


class Loaded(NamedTuple):
    model: Transformer  # without an output layer
    w: Tensor  # (C, D) float32
    family: str
    labels: tuple[str, ...]


def without_output(model: Transformer) -> Transformer:
    """The same Transformer, its weights shared, with nothing but φ: a classifier's files hold no output layer."""
    with torch.device("meta"):
        bare = Transformer(dataclasses.replace(model.config, tied=True))
    bare.load_state_dict({name: model.get_parameter(name) for name, _ in bare.named_parameters()}, assign=True)
    bare.compute_dtype = model.compute_dtype
    return bare.train(model.training)


def save_classifier(
    model: Transformer, w: Tensor, family: str, labels: Sequence[str], directory: Path, bottom: int
) -> None:
    """config.json and model.safetensors; `model` is one `without_output`, ⊥ is the padding."""
    fields = {
        **config_fields(model, family, bottom),
        "architectures": [FAMILIES[family].classifier],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
    write_json(directory / "config.json", fields)
    save_weights({**weights(model, family), _HEAD: w.detach().contiguous()}, directory / "model.safetensors")


def load_classifier(directory: Path, device: torch.device, dtype: torch.dtype | None = None) -> Loaded:
    """The classifier of a directory; ValueError for a language model, and for what `load_model` refuses."""
    fields = read_config(directory)
    if not is_classifier(fields):
        named = ", ".join(map(str, fields.get("architectures") or ["no architecture named"]))
        raise ValueError(
            f"{directory}: wanted a classifier, got a language model ({named}); finetune it first, or load it with load"
        )
    labels = _labels(fields, directory)
    model, family = empty_model(fields)
    model = without_output(model)
    shape = (len(labels), model.config.width)
    w = load_weights(model, family, directory, device, dtype, beside={_HEAD: shape})[_HEAD]
    return Loaded(model.eval(), w.float(), family, labels)


def _labels(fields: dict[str, Any], directory: Path) -> tuple[str, ...]:
    """The classes in the order of w's rows."""
    names = fields.get("id2label") or {}
    numbers = [str(number) for number in range(len(names))]
    if len(names) < 2 or sorted(names) != sorted(numbers):
        raise ValueError(f"{directory / 'config.json'}: wanted id2label to name the classes 0, 1, ..., got {names}")
    return tuple(str(names[number]) for number in numbers)
