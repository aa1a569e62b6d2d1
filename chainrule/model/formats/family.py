"""One family's format of the Transformer: its config fields and its tensors' names. Knows no weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from chainrule.errors import ModelError
from chainrule.model.config import Config
from chainrule.model.formats.layer_fields import Fields, LayerFields
from chainrule.model.linear import Linear

# One function has many names there. The first is the one we write, unless a family has another.
_MOST_LAYERS = 10_000  # each is built before its tensors are looked for
_ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
}


@dataclass(frozen=True)
class TensorLocation:
    """Where one of our parameters is in a file: in the tensors of these `names`, each with a part of its rows."""

    names: tuple[str, ...]
    parts: tuple[int, ...]  # rows of each
    transposed: bool
    interleaved: int  # heads, where each one's query, key and value are together in the file; else 0


@dataclass(frozen=True)
class Family:
    """How one `model_type` is written."""

    models: str  # examples
    architecture: str  # its class in `transformers`
    classifier: str  # its class with a linear head; where `transformers` has none, classifiers load here alone
    fields: Mapping[str, str]  # our field -> theirs in config.json
    defaults: Fields  # the values of fields that are missing; all others must be given
    fixed: Fields  # our fields that config.json does not mention
    allowed: Mapping[str, tuple[Any, ...]]  # fields that must have one of these values where they are given
    modules: Mapping[str, tuple[str, ...]]  # ours -> theirs, or the parts of ours; {} is the layer
    prefix: str  # of the names of all but the head; files of the bare model lack it
    layers: LayerFields = field(default_factory=LayerFields)
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)  # our field -> their value -> ours
    head_name: str = "score"  # its classifier's linear head
    transposed: bool = False  # matrices inside the blocks are stored transposed
    interleaved: bool = False  # query, key and value are together, head by head
    ignored: tuple[str, ...] = ()  # endings of tensors that are no weights of the language model
    extra_fields: Fields = field(default_factory=dict)  # what else we write into config.json
    # The field of the padding's id, where positions count from the next number on, and the context from 0.
    positions_after: str | None = None

    def read(self, fields: Fields) -> Config:
        """A config.json as ours.

        Raises ModelError for a missing field, and for one that changes the mathematics and is not supported: none is
        ever ignored.
        """
        for name, values in {**self.allowed, "quantization_config": (None,)}.items():
            if name in fields:
                _check(name, fields[name], values)
        given = {**self.defaults, **fields}
        try:
            ours = {**{name: given[theirs] for name, theirs in self.fields.items()}, **self.fixed}
            for name, translation in self._values.items():
                if not isinstance(ours[name], str | int | float | None):
                    raise ModelError(f"config.json: wanted one {self.fields[name]}, got {ours[name]!r}")
                _check(self.fields[name], ours[name], list(translation))
                ours[name] = translation[ours[name]]
            for name in ("width", "layers", "heads", "hidden", "key_value_heads", "head_width"):
                size = ours.get(name)
                if name == "layers" and type(size) is int and size > _MOST_LAYERS:
                    raise ModelError(
                        f"config.json: wanted {self.fields[name]} of at most {_MOST_LAYERS}, got {size}; restore it"
                    )
                if size is not None and (type(size) is not int or size < 1):
                    raise ModelError(
                        f"config.json: wanted {self.fields[name]} to be a whole number of at least 1, got {size!r}"
                    )
            ours["key_value_heads"] = ours.get("key_value_heads") or ours["heads"]
            ours["head_width"] = ours.get("head_width") or ours["width"] // ours["heads"]
            ours["hidden"] = ours["hidden"] or 4 * ours["width"]
            if self.positions_after is not None:
                ours |= _after(given[self.positions_after], self.positions_after, ours["context"])
            kinds = self.layers.read(given, ours["layers"], ours["head_width"])
        except KeyError as error:
            raise ModelError(f"config.json: wanted the field {error}, which is missing") from None
        return Config(**ours, layer_kinds=kinds)

    def write(self, config: Config) -> dict[str, Any]:
        """Our config as a config.json that `read` takes back."""
        fields = {theirs: getattr(config, name) for name, theirs in self.fields.items()}
        for name, translation in self._values.items():
            fields[self.fields[name]] = next(
                theirs for theirs, ours in translation.items() if ours == fields[self.fields[name]]
            )
        if self.positions_after is not None:
            fields[self.positions_after] = config.position_offset - 1
            fields[self.fields["context"]] += config.position_offset
        return {**fields, **self.layers.write(config), **self.extra_fields}

    @property
    def _values(self) -> dict[str, Mapping[Any, Any]]:
        """The first of several names of theirs is the one we write."""
        activations = {theirs: ours for ours, names in _ACTIVATIONS.items() for theirs in names}
        return {**self.values, "activation": {**self.values.get("activation", {}), **activations}}

    @property
    def bare(self) -> str:
        """Its class in `transformers` without a head."""
        return self.classifier.removesuffix("ForSequenceClassification") + "Model"

    def locations(self, model: nn.Module, heads: int) -> dict[str, TensorLocation]:
        """Our parameters, by name, to their locations in the family's files; `heads` is that of the config."""
        found = {}
        for name, parameter in model.named_parameters():
            module, kind = name.rsplit(".", 1)
            layer = module.split(".")[1] if module.startswith("blocks.") else ""
            theirs = self.modules[module.replace(f".{layer}.", ".{}.", 1) if layer else module]
            linear = model.get_submodule(module)
            parts = linear.parts if len(theirs) > 1 and isinstance(linear, Linear) else (len(parameter),)
            found[name] = TensorLocation(
                tuple(f"{each.format(layer)}.{kind}" for each in theirs),
                parts,
                self.transposed and bool(layer) and parameter.ndim == 2,
                heads if self.interleaved and "query_key_value" in module else 0,
            )
        return found


def _after(padding: Any, name: str, rows: Any) -> dict[str, int]:
    """Our fields of positions that begin after the padding's id, of an embedding of so many rows."""
    if not isinstance(padding, int) or padding < 0 or not isinstance(rows, int) or rows < padding + 2:
        raise ModelError(f"config.json: wanted {name} to leave positions of {rows!r}, got {padding!r}")
    return {"position_offset": padding + 1, "context": rows - padding - 1}


def _check(name: str, found: Any, values: Iterable[Any]) -> None:
    for value in found if isinstance(found, list) else [found]:
        if value not in values:
            raise ModelError(
                f"config.json: wanted {name} to be {' or '.join(map(repr, values))}, got {value!r},"
                " which is not supported"
            )
