"""A model is a directory in the Hugging Face layout; safetensors only, never a pickle. Knows no tokenizer."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
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
from chainrule.model.formats.family import TensorLocation
from chainrule.model.formats.gguf_tensors import Blocks, GGUFTensors, gguf_config
from chainrule.model.formats.layer_fields import Fields
from chainrule.model.formats.left_tensors import check_left, refuse_foreign_prefix
from chainrule.model.formats.load_memory import LoadMemory, Planned
from chainrule.model.formats.others import what_it_is
from chainrule.model.formats.tensors import Tensors
from chainrule.model.quantise import put_blocks
from chainrule.model.transformer import Transformer
from chainrule.storage.files import atomic_write, write_json
from chainrule.storage.gguf import is_gguf

_WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_config(directory: Path) -> dict[str, Any]:
    """The fields of config.json, or what a GGUF says in their place; ModelError where there is no model."""
    if is_gguf(directory):
        return gguf_config(directory)
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
    for name, location in _locations(model, family).items():
        parts = parameters[name].detach().split(location.parts)
        for theirs, part in zip(location.names, parts, strict=True):
            tensors[theirs] = in_file_layout(part, location)
    return tensors


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, whole or not at all; a tensor may have any memory layout."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            failure = OSError(f"{path}: could not be written ({error}); what was there before is untouched: make room")
            failure.filename = str(path)  # as the operating system's own errors name it
            raise failure from None


def save_model(
    model: Transformer,
    family: str,
    directory: Path,
    bos_id: int,
    stop_tokens: Sequence[int] | None = None,
    generation: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """config.json, generation_config.json and model.safetensors, as `transformers` loads them."""
    save_config(model, family, directory, bos_id, stop_tokens, generation)
    save_weights(weights(model, family), directory / "model.safetensors")


def save_config(
    model: Transformer,
    family: str,
    directory: Path,
    bos_id: int,
    stop_tokens: Sequence[int] | None = None,
    generation: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """`bos_id` is also the padding; `stop_tokens` end a generated text, by default `bos_id` alone.

    `generation`: further fields of generation_config.json, which is written for causal models.
    """
    write_json(directory / "config.json", config_fields(model, family, bos_id))
    if model.config.causal:
        save_generation(directory, bos_id, stop_tokens, generation)


def save_generation(
    directory: Path,
    bos_id: int,
    stop_tokens: Sequence[int] | None = None,
    generation: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """generation_config.json; parameters as of `save_config`."""
    eos = bos_id if stop_tokens in (None, (bos_id,)) else list(stop_tokens or ())
    fields = {**generation, **dict.fromkeys(_SPECIAL, bos_id), "eos_token_id": eos}
    write_json(directory / "generation_config.json", fields)


def config_fields(model: Transformer, family: str, bos_id: int) -> dict[str, Any]:
    """The config.json of a language model."""
    config, described = model.config, FAMILIES[family].write(model.config)
    # The pooler is known by its tensors, and the language-model head by the architecture.
    again = FAMILIES[family].read(described)
    again = dataclasses.replace(again if config.language_head else without_head(again), pooler=config.pooler)
    assert again == config, f"a config.json of {family} cannot describe {config}"
    return {
        "architectures": [FAMILIES[family].architecture if config.language_head else FAMILIES[family].bare],
        "model_type": family,
        **described,
        **{name: bos_id for name in _SPECIAL if name not in described},
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def load_model(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    keep: Collection[str] = (),
) -> tuple[Transformer, str]:
    """The Transformer of a directory and its family; weights in `dtype`, or in that of the file.

    `keep`: kinds of a GGUF's blocks that stay as they are in the file, in layers that compute with them.

    Raises ModelError for a directory that holds no model, a family that is not ours, a field that is not supported, a
    file that is cut short, and tensors that are missing, left over or of a wrong shape.
    """
    fields = read_config(directory)
    refuse_classifier(directory, fields)
    config, family, tensors = described_by(directory, fields)
    model = empty_model(config)
    load_weights(model, family, tensors, device, dtype, keep=keep)
    return model.eval(), family


def described_by(directory: Path, fields: Fields) -> tuple[Config, str, Tensors | GGUFTensors]:
    """What a directory's config.json and tensors describe, its family, and the tensors."""
    config, family = described(directory, fields)
    tensors = open_tensors(directory)
    return with_tensors(config, family, fields, tensors.stored), family, tensors


def with_tensors(config: Config, family: str, fields: Fields, names: Collection[str]) -> Config:
    """A config.json's config, completed by the tensors' names: only these tell whether there is a pooler and, where the
    architecture is that of a bare model, a language-model head."""
    modules, prefix = FAMILIES[family].modules, FAMILIES[family].prefix
    pooler = {f"{each.removeprefix(start)}.weight" for each in modules.get("pooler", ()) for start in ("", prefix)}
    config = dataclasses.replace(config, pooler=not pooler.isdisjoint(names))
    head = modules["output" if config.causal else "head"][0]
    has_head = (
        any(name.endswith(_WITH_HEAD) for name in _architectures(fields))
        or (config.causal and config.tied)
        or any(name.startswith(f"{head}.") for name in names)
    )
    return config if has_head else without_head(config)


def open_tensors(path: Path) -> Tensors | GGUFTensors:
    """Those of a directory's safetensors, or of a GGUF."""
    return GGUFTensors(path) if is_gguf(path) else Tensors(path)


def without_head(config: Config) -> Config:
    """The same model with features and no logits."""
    return dataclasses.replace(config, tied=True, masked_head=False, language_head=False)


def is_classifier(fields: Fields) -> bool:
    """Whether a config.json describes a linear head on a language model."""
    return any(name.endswith("ForSequenceClassification") for name in _architectures(fields))


def _architectures(fields: Fields) -> list[str]:
    """The classes in transformers that a config.json names."""
    names = fields.get("architectures")
    return list(map(str, names)) if isinstance(names, list) else []


def refuse_classifier(directory: Path, fields: Fields) -> None:
    """ModelError where a language model is wanted and config.json describes a classifier."""
    if is_classifier(fields):
        raise ModelError(
            f"{directory}: wanted a language model, got a classifier ({fields['architectures'][0]});"
            f" use it with chainrule predict {directory}"
        )


def described(directory: Path, fields: Fields) -> tuple[Config, str]:
    """What a directory's config.json describes, and its family."""
    try:
        family = family_of(fields)
        return FAMILIES[family].read(fields), family
    except ModelError as error:
        raise ModelError(f"{directory}{'/' if str(error).startswith('config.json') else ': '}{error}") from None


def empty_model(config: Config) -> Transformer:
    """A Transformer without weights, on the meta device."""
    with torch.device("meta"):
        return Transformer(config)


def load_weights(
    model: Transformer,
    family: str,
    tensors: Tensors | GGUFTensors,
    device: torch.device,
    dtype: torch.dtype | None = None,
    others: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    keep: Collection[str] = (),
) -> dict[str, Tensor]:
    """Load a directory's tensors into a model, by name; the same errors as `load_model`.

    Tensors already in the right dtype and layout are memory-mapped; others are copied one by one, so that no weight is
    in memory twice. `others`: names and shapes of tensors that are no part of the model; they are returned unchanged.
    `keep` as in `load_model`.
    """
    prefix = FAMILIES[family].prefix
    for name, shape in others.items():
        tensors.check(name, shape)
    found = {name: tensors.to_copy(name).to(device) for name in others}
    embedding, output = (f"{FAMILIES[family].modules[ours][0]}.weight" for ours in ("embedding", "output"))
    bare = not any(name.startswith(prefix) for name in tensors.stored)  # saved from the model without a head
    embedding = embedding.removeprefix(prefix) if bare else embedding
    # Of two tied matrices a file may have either.
    output_alone = model.config.tied and embedding not in tensors.stored and output in tensors.stored
    if embedding not in tensors.stored and not output_alone:
        refuse_foreign_prefix(tensors, embedding, prefix)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    left = set(tensors.stored) - set(others)
    planned = []
    for name, location in _locations(model, family).items():
        names = [theirs.removeprefix(prefix) if bare else theirs for theirs in location.names]
        if output_alone and name == "embedding.weight":
            names = [output]
        for theirs, rows in zip(names, location.parts, strict=True):
            shape = (rows, *shapes[name][1:])
            stored = tensors.check(theirs, shape[::-1] if location.transposed else shape)
        left.difference_update(names)
        planned.append(Planned(name, location, names, shapes[name], stored, device, dtype, keep))
    memory = LoadMemory(tensors.directory, device)
    for one in planned:
        memory.add(*one.size(tensors))
    memory.check()
    state = {}
    blocks: dict[str, Blocks] = {}
    reads = []
    for one in planned:
        if one.kept(tensors) and isinstance(tensors, GGUFTensors):
            kept = tensors.kept_blocks(one.names, keep)
            assert kept is not None, "`keeps` has said so"
            blocks[one.name] = kept._replace(blocks=in_our_layout(kept.blocks, one.location).contiguous().to(device))
            continue
        whole = tensors.mapped(one.names) if one.as_stored else None
        if whole is None:
            whole = torch.empty(one.shape, dtype=dtype or one.stored, device=device)
            for theirs, part in zip(one.names, whole.split(one.location.parts), strict=True):
                if one.as_stored:
                    reads.append((theirs, part))
                else:
                    part.copy_(in_our_layout(tensors.to_copy(theirs), one.location))
        state[one.name] = torch.nn.Parameter(whole)
    check_left(tensors, left, model.config, family)
    tensors.fill(reads)
    put_blocks(model, blocks, state)
    model.load_state_dict(state, assign=True)
    return found


def _locations(model: Transformer, family: str) -> dict[str, TensorLocation]:
    return FAMILIES[family].locations(model, model.config.heads)


def in_our_layout(part: Tensor, location: TensorLocation) -> Tensor:
    """A file's tensor in the layout of our parameter."""
    if location.interleaved:
        return part.unflatten(0, (location.interleaved, 3, -1)).transpose(0, 1).flatten(0, 2)
    return part.T if location.transposed else part


def in_file_layout(part: Tensor, location: TensorLocation) -> Tensor:
    """The other way round."""
    if location.interleaved:
        return part.unflatten(0, (3, location.interleaved, -1)).transpose(0, 1).flatten(0, 2)
    return part.T if location.transposed else part
