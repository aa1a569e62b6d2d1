"""Phi-3: Llama with fused matrices, and rotations slowed each by a number of its own. Knows no weights."""

import math
from dataclasses import dataclass, replace
from typing import Any

from chainrule.errors import ModelError
from chainrule.model.config import Config
from chainrule.model.formats.families.llama import DEFAULTS, FIELDS, MODULES, NO_DROPOUT
from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import Fields, LayerFields, RopeFields
from chainrule.model.rotary import LongRope, Rope

_ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True)
class _LongRopeFields(RopeFields):
    """A rope_type of longrope (su and yarn in the first files), beside what every family has."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What rope_type may be."""
        return (*super().kinds, "longrope")

    def read(self, fields: Fields, parameters: Any, head_width: int) -> Rope:
        """As `RopeFields.read`; ModelError also for lists that are not one number above 0 for each rotation."""
        kind = parameters.get("rope_type", parameters.get("type")) if isinstance(parameters, dict) else None
        if kind not in ("longrope", "su", "yarn"):
            return super().read(fields, parameters, head_width)
        kept = ("rope_theta", "partial_rotary_factor")
        rope = super().read(fields, {name: parameters[name] for name in kept if name in parameters}, head_width)
        whole, original = fields["max_position_embeddings"], fields.get(_ORIGINAL) or parameters.get(_ORIGINAL, 4096)
        short, long = parameters["short_factor"], parameters["long_factor"]
        rotations = (rope.width or head_width) // 2
        factor = parameters.get("factor") or (whole / original if _numbers([whole, original]) else 1.0)
        attention = parameters.get("attention_factor") or 1.0
        for name, numbers, count in (
            ("short_factor", short, rotations), ("long_factor", long, rotations), (_ORIGINAL, [original, whole], 2),
            ("factor", [factor], 1), ("attention_factor", [attention], 1),
        ):  # fmt: skip
            if not _numbers(numbers) or len(numbers) != count:
                raise ModelError(f"config.json: wanted {name} to be {count} numbers above 0, got {numbers!r}")
        slowed = 1.0 if factor <= 1 or original < 2 else math.sqrt(1 + math.log(factor) / math.log(original))
        magnitude = parameters.get("attention_factor") or slowed
        return replace(rope, scaling=LongRope(tuple(short), tuple(long), magnitude, original, whole))

    def parameters(self, rope: Rope, head_width: int) -> dict[str, Any]:
        """`rope_parameters` as `transformers` 5 has it."""
        scaling = rope.scaling
        if not isinstance(scaling, LongRope):
            return super().parameters(rope, head_width)
        return super().parameters(replace(rope, scaling=None), head_width) | {
            "rope_type": "longrope",
            "short_factor": list(scaling.short),
            "long_factor": list(scaling.long),
            "attention_factor": scaling.magnitude,
            _ORIGINAL: scaling.original_context,
        }


class _Phi3(Family):
    """Its config.json has the original context of a LongRope outside of rope_parameters too."""

    def write(self, config: Config) -> dict[str, Any]:
        """Our config as a config.json that `read` takes back."""
        fields, scaling = super().write(config), _scaling(config)
        if scaling is None:
            return fields
        return {**fields, "max_position_embeddings": scaling.whole_context, _ORIGINAL: scaling.original_context}


def _numbers(values: Any) -> bool:
    """Whether this is a list of numbers above 0."""
    return isinstance(values, list) and all(isinstance(each, int | float) and each > 0 for each in values)


def _scaling(config: Config) -> LongRope | None:
    rope = config.layer_kinds[0].rope
    return rope.scaling if rope is not None and isinstance(rope.scaling, LongRope) else None


PHI3 = _Phi3(
    models="Phi-3, Phi-3.5, Phi-4 (text)",
    architecture="Phi3ForCausalLM",
    classifier="Phi3ForSequenceClassification",
    fields=FIELDS,
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5, "sliding_window": None},
    fixed={"query_key_norm": None},
    allowed={"attention_bias": (False,), "mlp_bias": (False,)},
    modules={
        **MODULES,
        "blocks.{}.attention.query_key_value": ("model.layers.{}.self_attn.qkv_proj",),
        "blocks.{}.mlp.up": ("model.layers.{}.mlp.gate_up_proj",),
    },
    prefix="model.",
    layers=LayerFields(_LongRopeFields(share="partial_rotary_factor"), window="sliding_window"),
    extra_fields={**NO_DROPOUT, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
)
