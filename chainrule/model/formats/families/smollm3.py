"""SmolLM 3: Llama with some layers that have no rotary positions. Knows no weights."""

from dataclasses import dataclass, replace
from typing import Any

from chainrule.errors import ModelError
from chainrule.model.config import Config, LayerKind
from chainrule.model.formats.families.llama import LLAMA
from chainrule.model.formats.layer_fields import Fields, LayerFields, RopeFields
from chainrule.model.rotary import Rope

_ROPE = RopeFields(default_theta=2e6)


@dataclass(frozen=True)
class _NoRopeLayers(LayerFields):
    """`no_rope_layers` has a 1 for each layer with rotary positions and a 0 for one without (its name misleads)."""

    def read(self, fields: Fields, layers: int, head_width: int) -> tuple[LayerKind, ...]:
        """The kinds of layers, for `Config.layer_kinds`. Raises ModelError for a list that is none of 0 and 1."""
        (kind,) = super().read(fields, layers, head_width)
        marks, interval = fields.get("no_rope_layers"), fields.get("no_rope_layer_interval", 4)
        if marks is None and isinstance(interval, int) and interval > 0:
            marks = [int((layer + 1) % interval != 0) for layer in range(layers)]
        if not isinstance(marks, list) or len(marks) < layers or any(mark not in (0, 1) for mark in marks):
            raise ModelError(
                f"config.json: wanted no_rope_layers to be 0 or 1 for each of {layers} layers, or"
                f" no_rope_layer_interval of at least 1, got {marks!r} and {interval!r}"
            )
        return tuple(kind if mark else LayerKind() for mark in marks[:layers])

    def write(self, config: Config) -> dict[str, Any]:
        """The fields that `read` takes back."""
        ropes = [config.kind_of(layer).rope for layer in range(config.layers)]
        rope = next((rope for rope in ropes if rope is not None), Rope(_ROPE.default_theta))
        return {
            **super().write(replace(config, layer_kinds=(LayerKind(rope=rope),))),
            "no_rope_layers": [int(rope is not None) for rope in ropes],
        }


SMOLLM3 = replace(
    LLAMA,
    models="SmolLM3",
    architecture="SmolLM3ForCausalLM",
    classifier="SmolLM3ForSequenceClassification",
    defaults={**LLAMA.defaults, "num_key_value_heads": 4, "tie_word_embeddings": True},
    layers=_NoRopeLayers(_ROPE),
    extra_fields={**LLAMA.extra_fields, "use_sliding_window": False},
)
