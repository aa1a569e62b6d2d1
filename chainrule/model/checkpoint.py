"""A model is a directory in the Hugging Face layout; safetensors only, never a pickle. Knows no tokenizer."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chainrule.files import whole_file, write_json
from chainrule.model.families import FAMILIES, family_of, places
from chainrule.model.transformer import Transformer

# Buffers that old files carry and that are no weights.
_NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_config(directory: Path) -> dict[str, Any]:
    """The fields of config.json; ValueError where the directory holds no model."""
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{directory}: wanted a model directory (config.json, model.safetensors), found no config.json"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: wanted JSON, got {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: wanted a JSON object, got {type(fields).__name__}")
    return fields


def weights(model: Transformer, family: str) -> dict[str, Tensor]:
    """The model's parameters under the family's names, ready for a file."""
    parameters = dict(model.named_parameters())
    tensors = {}
    for name, place in _places(model, family).items():
        pieces = parameters[name].detach().split(place.rows)
        for theirs, piece in zip(place.names, pieces, strict=True):
            tensors[theirs] = (piece.T if place.transposed else piece).contiguous()
    return tensors


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, whole or not at all."""
    with whole_file(path) as beside:
        try:
            save_file(dict(tensors), beside, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{path}: could not be written ({error}); what was there before is untouched") from None


def save_model(model: Transformer, family: str, directory: Path, bottom: int) -> None:
    """config.json, generation_config.json and model.safetensors, as `transformers` loads them."""
    save_config(model, family, directory, bottom)
    save_weights(weights(model, family), directory / "model.safetensors")


def save_config(model: Transformer, family: str, directory: Path, bottom: int) -> None:
    fields = config_fields(model, family, bottom)
    write_json(directory / "config.json", fields)
    write_json(directory / "generation_config.json", {name: fields[name] for name in _SPECIAL})


def config_fields(model: Transformer, family: str, bottom: int) -> dict[str, Any]:
    """What config.json says of a language model."""
    return {
        "architectures": [FAMILIES[family].architecture],
        "model_type": family,
        **FAMILIES[family].write(model.config),
        **dict.fromkeys(_SPECIAL, bottom),
        "dtype": str(model.embedding.weight.dtype).removeprefix("torch."),
    }


def load_model(directory: Path, device: torch.device, dtype: torch.dtype | None = None) -> tuple[Transformer, str]:
    """The Transformer of a directory and its family; weights in `dtype`, or as they lie in the file.

    Raises ValueError for a directory that holds no model, a family that is not ours, a field that is not supported, a
    file that is cut short, and tensors that are missing, left over or of a wrong shape.
    """
    fields = read_config(directory)
    if is_classifier(fields):
        raise ValueError(
            f"{directory}: wanted a language model, got a classifier ({fields['architectures'][0]});"
            " load it with load_classifier, or give it to predict"
        )
    model, family = empty_model(fields, directory)
    load_weights(model, family, directory, device, dtype)
    return model.eval(), family


def is_classifier(fields: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a linear head on a language model."""
    return any(str(name).endswith("ForSequenceClassification") for name in fields.get("architectures") or [])


def empty_model(fields: Mapping[str, Any], directory: Path) -> tuple[Transformer, str]:
    """The Transformer of a config.json, without weights, and its family."""
    family = family_of(fields)
    try:
        config = FAMILIES[family].read(fields)
    except KeyError as error:
        raise ValueError(f"{directory / 'config.json'}: wanted the field {error}, which is missing") from None
    with torch.device("meta"):
        model = Transformer(config)
    return model, family


def load_weights(
    model: Transformer,
    family: str,
    directory: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    beside: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Put the weights of a directory's safetensors into a model, by name; the same errors as `load_model`.

    `beside`: names and shapes of tensors that are no part of the model; they are returned as they lie in the file.
    """
    files = _open(directory, device)
    found = {name: _take(files, name, shape, directory) for name, shape in beside.items()}
    prefix = FAMILIES[family].prefix
    bare = not any(name.startswith(prefix) for name in files)  # as the bare model's files are named
    state = {}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, place in _places(model, family).items():
        pieces = []
        for theirs, rows in zip(place.names, place.rows, strict=True):
            stored = theirs.removeprefix(prefix) if bare else theirs
            shape = (rows, *shapes[name][1:])
            pieces.append(_take(files, stored, shape[::-1] if place.transposed else shape, directory))
        whole = (
            pieces[0] if len(pieces) == 1 else torch.cat([piece.T if place.transposed else piece for piece in pieces])
        )
        if len(pieces) == 1 and place.transposed:
            whole = whole.T.contiguous()
        state[name] = torch.nn.Parameter(whole.to(dtype or whole.dtype))
    left = [
        name
        for name in files
        if not name.endswith(_NOT_WEIGHTS) and not (model.config.tied and name == "lm_head.weight")
    ]
    if left:
        raise ValueError(
            f"{directory}: wanted the tensors of a {family} model, got also {left[0]} ({len(left)} left over)"
        )
    model.load_state_dict(state, assign=True)
    return found


def count_parameters(directory: Path) -> int:
    """Of a directory's safetensors, from their headers alone; the same errors as `load_model`."""
    files = _open(directory, torch.device("cpu"))
    return sum(math.prod(file.get_slice(name).get_shape()) for name, file in files.items())


def _places(model: Transformer, family: str) -> dict[str, Any]:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return places(FAMILIES[family], model.config, shapes)


def _open(directory: Path, device: torch.device) -> dict[str, Any]:
    """Tensor name -> the open file it lies in."""
    paths = sorted(directory.glob("model*.safetensors"))
    if not paths:
        hint = (
            "; a pickle is never read: convert it with transformers' save_pretrained"
            if any(directory.glob("*.bin"))
            else ""
        )
        raise ValueError(f"{directory}: wanted model.safetensors, found none{hint}")
    found = {}
    for path in paths:
        try:
            file = safe_open(path, framework="pt", device=str(device))
        except SafetensorError as error:
            raise ValueError(
                f"{path}: wanted a whole safetensors file, got one that is cut short or altered ({error})"
            ) from None
        found.update(dict.fromkeys(file.keys(), file))
    return found


def _take(files: dict[str, Any], name: str, shape: tuple[int, ...], directory: Path) -> Tensor:
    if name not in files:
        raise ValueError(f"{directory}: wanted the tensor {name}, which the files lack")
    tensor: Tensor = files.pop(name).get_tensor(name)
    if tensor.shape != shape:
        raise ValueError(f"{directory}: wanted {name} of shape {list(shape)}, got {list(tensor.shape)}")
    return tensor
