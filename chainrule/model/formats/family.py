"""One family's way of writing the Transformer down: its config fields and its tensors' names. Knows no weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chainrule.errors import ModelError
from chainrule.model.config import Config
from chainrule.model.formats.rope_fields import Rope, read_rope, share_of, write_rope

Fields = Mapping[str, Any]  # a config.json

# One function has many names there; the first is the one we write.
_ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
}


@dataclass(frozen=True)
class Place:
    """Where one of our parameters lies in a file: in `names`, each with so many `rows` of it."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    transposed: bool
    interleaved: int  # heads, where each one's query, key and value lie together in the file; else 0


@dataclass(frozen=True)
class Family:
    """How one `model_type` writes the Transformer down."""

    models: str  # some that are written so
    architecture: str  # the class that `transformers` loads it with
    classifier: str  # its class with a linear head
    fields: Mapping[str, str]  # our field -> theirs in config.json
    defaults: Fields  # what it means there to leave a field out; all others must be given
    fixed: Fields  # our fields that config.json says nothing of
    only: Mapping[str, tuple[Any, ...]]  # fields that must have one of these values where they are given
    modules: Mapping[str, tuple[str, ...]]  # ours -> theirs; several are ours cut by rows; {} is the layer
    prefix: str  # opens the names of all but the head; files of the bare model lack it
    score: str = "score"  # its classifier's linear head
    transposed: bool = False  # matrices inside the blocks lie the other way round
    interleaved: bool = False  # query, key and value lie together, head by head
    ignored: tuple[str, ...] = ()  # endings of tensors that are no weights of the language model
    also: Fields = field(default_factory=dict)  # what else we write into config.json

    def read(self, fields: Fields) -> Config:
        """A config.json as ours.

        Raises ModelError for a field that is missing, and for one that changes the mathematics and that we do not
        compute: it is never ignored.
        """
        for name, values in {**self.only, "quantization_config": (None,)}.items():
            if name in fields:
                _check(name, fields[name], values)
        given = {**self.defaults, **fields}
        try:
            ours = {name: given[theirs] for name, theirs in self.fields.items() if name not in _ROPE}
            rope = read_rope(given, *self._rope_names) if "rope_theta" in self.fields else None
        except KeyError as error:
            raise ModelError(f"config.json: wanted the field {error}, which is missing") from None
        ours |= self.fixed
        _check(
            self.fields["activation"], ours["activation"], [name for names in _ACTIVATIONS.values() for name in names]
        )
        ours["activation"] = next(name for name, theirs in _ACTIVATIONS.items() if ours["activation"] in theirs)
        for name in ("width", "heads", "hidden", "key_value_heads", "head_width"):
            size = ours.get(name)
            if size is not None and (not isinstance(size, int) or size < 1):
                raise ModelError(
                    f"config.json: wanted {self.fields[name]} to be a whole number of at least 1, got {size!r}"
                )
        ours["key_value_heads"] = ours.get("key_value_heads") or ours["heads"]
        ours["head_width"] = ours.get("head_width") or ours["width"] // ours["heads"]
        ours["hidden"] = ours["hidden"] or 4 * ours["width"]
        if rope is not None:
            ours |= {"rope_theta": rope.theta, "rope_scaling": rope.scaling}
            if "rotary_width" not in self.fields:
                _check("partial_rotary_factor", rope.share, (1.0,))
            elif rope.share != 1:
                ours["rotary_width"] = int(ours["head_width"] * rope.share)
        return Config(**ours)

    def write(self, config: Config) -> dict[str, Any]:
        """Our config as a config.json that `read` takes back."""
        fields = {theirs: getattr(config, name) for name, theirs in self.fields.items() if name not in _ROPE}
        fields[self.fields["activation"]] = _ACTIVATIONS[config.activation][0]
        if "rope_theta" in self.fields:
            share = share_of(config.rotary_width or config.head_width, config.head_width)
            fields |= write_rope(Rope(config.rope_theta, config.rope_scaling, share), *self._rope_names)
        return {**fields, **self.also}

    @property
    def _rope_names(self) -> tuple[str, str]:
        return self.fields["rope_theta"], self.fields.get("rotary_width", "partial_rotary_factor")

    @property
    def bare(self) -> str:
        """The class that `transformers` loads it with where it has no head."""
        return self.classifier.removesuffix("ForSequenceClassification") + "Model"

    def places(self, config: Config, parameters: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
        """Our parameters (name -> shape) to their places in the family's files."""
        found = {}
        heads, groups = config.heads * config.head_width, config.key_value_heads * config.head_width
        for name, shape in parameters.items():
            module, kind = name.rsplit(".", 1)
            layer = module.split(".")[1] if module.startswith("blocks.") else ""
            theirs = self.modules[module.replace(f".{layer}.", ".{}.", 1) if layer else module]
            found[name] = Place(
                tuple(f"{piece.format(layer)}.{kind}" for piece in theirs),
                {1: (shape[0],), 2: (shape[0] // 2,) * 2, 3: (heads, groups, groups)}[len(theirs)],
                self.transposed and bool(layer) and len(shape) == 2,
                config.heads if self.interleaved and "query_key_value" in module else 0,
            )
        return found


_ROPE = ("rope_theta", "rotary_width")  # told in more than one field


def _check(name: str, found: Any, values: Iterable[Any]) -> None:
    for value in found if isinstance(found, list) else [found]:
        if value not in values:
            raise ModelError(
                f"config.json: wanted {name} to be {' or '.join(map(repr, values))}, got {value!r},"
                " which is not supported"
            )
