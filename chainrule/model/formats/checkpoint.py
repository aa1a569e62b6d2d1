"""A model is a directory in the Hugging Face layout; safetensors only, never a pickle. Knows no tokenizer."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from chainrule.errors import ModelError
from chainrule.model.config import Config
from chainrule.model.formats.families import FAMILIES, family_of
from chainrule.model.formats.family import Place
from chainrule.model.formats.others import what_it_is
from chainrule.model.formats.tensors import Tensors
from chainrule.model.transformer import Transformer
from chainrule.storage.files import whole_file, write_json

_WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_config(directory: Path) -> dict[str, Any]:
    """The fields of config.json; ModelError where the directory holds no model."""
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{directory}: wanted a model directory (config.json, model.safetensors), {what_it_is(directory)}"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: wanted JSON, got {error}") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{path}: wanted a JSON object, got {type(fields).__name__}")
    return fields


def weights(model: Transformer, family: str) -> dict[str, Tensor]:
    """The model's parameters under the family's names."""
    parameters = dict(model.named_parameters())
    tensors = {}
    for name, place in _places(model, family).items():
        pieces = parameters[name].detach().split(place.rows)
        for theirs, piece in zip(place.names, pieces, strict=True):
            tensors[theirs] = _theirs(piece, place)
    return tensors


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, whole or not at all; a tensor may have any memory layout."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as beside:
        try:
            save_file(contiguous, beside, metadata={"format": "pt"})
        except SafetensorError as error:
            failure = OSError(f"{path}: could not be written ({error}); what was there before is untouched: make room")
            failure.filename = str(path)  # as the operating system's own errors name it
            raise failure from None


def save_model(
    model: Transformer,
    family: str,
    directory: Path,
    bottom: int,
    stop_tokens: Sequence[int] | None = None,
    generation: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """config.json, generation_config.json and model.safetensors, as `transformers` loads them."""
    save_config(model, family, directory, bottom, stop_tokens, generation)
    save_weights(weights(model, family), directory / "model.safetensors")


def save_config(
    model: Transformer,
    family: str,
    directory: Path,
    bottom: int,
    stop_tokens: Sequence[int] | None = None,
    generation: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """`stop_tokens` end a generated text; by default ⊥ alone. A model that does not generate has none.

    `generation`: what else generation_config.json says.
    """
    write_json(directory / "config.json", config_fields(model, family, bottom))
    if model.config.causal:
        eos = bottom if stop_tokens in (None, (bottom,)) else list(stop_tokens or ())
        fields = {**generation, **dict.fromkeys(_SPECIAL, bottom), "eos_token_id": eos}
        write_json(directory / "generation_config.json", fields)


def config_fields(model: Transformer, family: str, bottom: int) -> dict[str, Any]:
    """What config.json says of a language model."""
    described = FAMILIES[family].write(model.config)
    # what stands between φ and its use is told by the tensors, and by the architecture
    config = model.config
    said = FAMILIES[family].read(described)
    said = dataclasses.replace(said if config.language_head else without_head(said), pooler=config.pooler)
    assert said == config, f"a {family} cannot say all of {model.config}"
    return {
        "architectures": [FAMILIES[family].architecture if config.language_head else FAMILIES[family].bare],
        "model_type": family,
        **described,
        **dict.fromkeys(_SPECIAL, bottom),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def load_model(directory: Path, device: torch.device, dtype: torch.dtype | None = None) -> tuple[Transformer, str]:
    """The Transformer of a directory and its family; weights in `dtype`, or as they lie in the file.

    Raises ModelError for a directory that holds no model, a family that is not ours, a field that is not supported, a
    file that is cut short, and tensors that are missing, left over or of a wrong shape.
    """
    fields = read_config(directory)
    refuse_classifier(directory, fields)
    config, family, tensors = described_by(directory, fields)
    model = empty_model(config)
    load_weights(model, family, tensors, device, dtype)
    return model.eval(), family


def described_by(directory: Path, fields: Mapping[str, Any]) -> tuple[Config, str, Tensors]:
    """What a directory's config.json and tensors describe, its family, and the tensors: only these tell whether there
    is a pooler and, where the architecture is that of a bare model, a language-model head."""
    config, family = described(fields)
    tensors = Tensors(directory)
    config = dataclasses.replace(config, pooler=tensors.hold("pooler.dense.weight"))
    named = [str(name) for name in fields.get("architectures") or []]
    head = FAMILIES[family].modules["output" if config.causal else "head"][0]
    has_head = (
        any(name.endswith(_WITH_HEAD) for name in named)
        or (config.causal and config.tied)
        or any(name.startswith(f"{head}.") for name in tensors.stored)
    )
    return config if has_head else without_head(config), family, tensors


def without_head(config: Config) -> Config:
    """The same model with features and no logits."""
    return dataclasses.replace(config, tied=True, masked_head=False, language_head=False)


def is_classifier(fields: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a linear head on a language model."""
    return any(str(name).endswith("ForSequenceClassification") for name in fields.get("architectures") or [])


def refuse_classifier(directory: Path, fields: Mapping[str, Any]) -> None:
    """ModelError where a language model is wanted and config.json describes a classifier."""
    if is_classifier(fields):
        raise ModelError(
            f"{directory}: wanted a language model, got a classifier ({fields['architectures'][0]});"
            " load it with load_classifier, or give it to predict"
        )


def described(fields: Mapping[str, Any]) -> tuple[Config, str]:
    """What a config.json describes, and its family."""
    family = family_of(fields)
    return FAMILIES[family].read(fields), family


def empty_model(config: Config) -> Transformer:
    """Without weights."""
    with torch.device("meta"):
        return Transformer(config)


def load_weights(
    model: Transformer,
    family: str,
    tensors: Tensors,
    device: torch.device,
    dtype: torch.dtype | None = None,
    beside: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Put a directory's tensors into a model, by name; the same errors as `load_model`.

    What lies in the file as we want it stays there, mapped to memory; what does not is copied piece by piece, so that
    no weight is held twice. `beside`: names and shapes of tensors that are no part of the model; they are returned as
    they lie in the file.
    """
    prefix = FAMILIES[family].prefix
    for name, shape in beside.items():
        tensors.check(name, shape)
    found = {name: tensors.passing(name).to(device) for name in beside}
    embedding, output = (f"{FAMILIES[family].modules[ours][0]}.weight" for ours in ("embedding", "output"))
    bare = not any(name.startswith(prefix) for name in tensors.stored)  # as the bare model's files are named
    embedding = embedding.removeprefix(prefix) if bare else embedding
    # Of two tied matrices a file may hold either.
    alone = model.config.tied and embedding not in tensors.stored and output in tensors.stored
    if embedding not in tensors.stored and not alone:
        _refuse_foreign_prefix(tensors, embedding, prefix)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    left = set(tensors.stored) - set(beside)
    state = {}
    reads = []
    for name, place in _places(model, family).items():
        names = [theirs.removeprefix(prefix) if bare else theirs for theirs in place.names]
        if alone and name == "embedding.weight":
            names = [output]
        for theirs, rows in zip(names, place.rows, strict=True):
            shape = (rows, *shapes[name][1:])
            stored = tensors.check(theirs, shape[::-1] if place.transposed else shape)
        as_stored = device.type == "cpu" and dtype in (None, stored) and not place.transposed and not place.interleaved
        whole = tensors.mapped(names) if as_stored else None
        if whole is None:
            whole = torch.empty(shapes[name], dtype=dtype or stored, device=device)
            for theirs, part in zip(names, whole.split(place.rows), strict=True):
                if as_stored:
                    reads.append((theirs, part))
                else:
                    part.copy_(_ours(tensors.passing(theirs), place))
        state[name] = torch.nn.Parameter(whole)
        left.difference_update(names)
    _check_left(tensors, left, model, family)
    tensors.fill(reads)
    model.load_state_dict(state, assign=True)
    return found


# What a wrapper puts in front of every name, and how it is taken off.
_WRAPPED = {
    "base_model.model.": "they were saved from a PEFT model: save what its merge_and_unload() gives",
    "_orig_mod.": "they were saved from a compiled model: save its _orig_mod",
    "module.": "they were saved from a DataParallel model: save its module",
}


def _refuse_foreign_prefix(tensors: Tensors, embedding: str, prefix: str) -> None:
    """ModelError where the embedding is there, behind a prefix that is not the family's."""
    bare = embedding.removeprefix(prefix)
    spelled = (prefix + bare, bare)
    known = [start for start in _WRAPPED if any(start + name in tensors.stored for name in spelled)]
    ends = [found.removesuffix(name) for name in spelled for found in tensors.stored if found.endswith(f".{name}")]
    for foreign in (*known, *ends):
        found = next(foreign + name for name in spelled if foreign + name in tensors.stored)
        raise ModelError(
            f"{tensors.directory}: wanted the tensor {prefix}{bare}, got {found}: all names begin with {foreign};"
            f" {_WRAPPED.get(foreign, 'rename the tensors')}, so that they begin without it"
        )


def _check_left(tensors: Tensors, left: set[str], model: Transformer, family: str) -> None:
    """ModelError for a tensor that the model has no place for, and for an output that is not tied as it should be."""
    directory = tensors.directory
    names = FAMILIES[family].modules
    output, embedding = (f"{names[ours][0]}.weight" for ours in ("output", "embedding"))
    if model.config.tied and output in left and embedding in tensors.stored:
        left.remove(output)
        if not torch.equal(tensors.passing(output), tensors.passing(embedding)):
            raise ModelError(
                f"{directory}: wanted {output} to be {embedding}, as config.json ties them, got two matrices;"
                " say in config.json that tie_word_embeddings is false"
            )
    extra = sorted(name for name in left if not name.endswith(FAMILIES[family].ignored))
    if extra:
        raise ModelError(
            f"{directory}: wanted the tensors of a {family} model, got also {extra[0]} ({len(extra)} left over)"
        )


def count_parameters(directory: Path) -> int:
    """Of a directory's safetensors, from their headers alone; the same errors as `load_model`."""
    tensors = Tensors(directory)
    return sum(math.prod(stored.shape) for stored in tensors.stored.values())


def _places(model: Transformer, family: str) -> dict[str, Place]:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return FAMILIES[family].places(model.config, shapes)


def _ours(piece: Tensor, place: Place) -> Tensor:
    """What a file holds, as our parameter holds it."""
    if place.interleaved:
        return piece.unflatten(0, (place.interleaved, 3, -1)).transpose(0, 1).flatten(0, 2)
    return piece.T if place.transposed else piece


def _theirs(piece: Tensor, place: Place) -> Tensor:
    """The other way round."""
    if place.interleaved:
        return piece.unflatten(0, (3, place.interleaved, -1)).transpose(0, 1).flatten(0, 2)
    return piece.T if place.transposed else piece
