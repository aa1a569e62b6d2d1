"""How a config.json describes what may differ between layers: rotary positions and windows. Knows no model.

`transformers` 5 writes all of a rotation into `rope_parameters`; before, θ and the share of a head that is rotated were
fields of their own, and the scaling was in `rope_scaling`. Both are read, and both are written. Where layers are of two
kinds, `layer_types` has a name for each: "sliding_attention", with a window, or "full_attention".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chainrule.errors import ModelError
from chainrule.model.config import Config, LayerKind
from chainrule.model.rotary import LongRope, Rope, RopeScaling

_LLAMA3 = {"original_context": "original_max_position_embeddings", "low": "low_freq_factor", "high": "high_freq_factor"}
SCALINGS = {  # rope_type -> RopeScaling's fields and theirs
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {"factor": "factor", **_LLAMA3},
}
_FULL, _SLIDING = "full_attention", "sliding_attention"

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class RopeFields:
    """The names of one rotation's fields beside `rope_parameters`."""

    theta: str = "rope_theta"
    share: str | None = None  # the share of a head's width that is rotated; None: all of it
    default_theta: float = 10_000.0

    @property
    def kinds(self) -> tuple[str, ...]:
        """What rope_type may be."""
        return tuple(SCALINGS)

    def read(self, fields: Fields, parameters: Any, head_width: int) -> Rope:
        """`parameters` is what `rope_scaling` or `rope_parameters` holds.

        Raises ModelError for a scaling that is not supported and for two values of θ, KeyError for a missing field.
        """
        rope = parameters or {}
        if not isinstance(rope, Mapping):
            raise ModelError(f"config.json: wanted rope_parameters to be an object, got {rope!r}")
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if not isinstance(kind, str) or kind not in SCALINGS:
            raise ModelError(
                f"config.json: wanted a rope_type of {', '.join(self.kinds)}, got {kind!r}, which is not supported"
            )
        known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *SCALINGS[kind].values()}
        for name in rope:
            if name not in known:
                raise ModelError(f"config.json: wanted no {name} with a rope_type of {kind}: that is not supported")
        theta = rope.get("rope_theta") or fields.get(self.theta) or self.default_theta
        if (fields.get(self.theta) or theta) != theta:
            raise ModelError(
                f"config.json: wanted one rope theta, got {self.theta} {fields[self.theta]} and {theta} in"
                " rope_parameters"
            )
        scaling = {ours: rope[theirs] for ours, theirs in SCALINGS[kind].items()}
        share = rope.get("partial_rotary_factor") or fields.get(self.share or "partial_rotary_factor") or 1.0
        if self.share is None and share != 1:
            raise ModelError(
                f"config.json: wanted partial_rotary_factor to be 1.0, got {share!r}, which is not supported"
            )
        for value in (theta, share, *scaling.values()):
            if not isinstance(value, int | float) or value <= 0:
                raise ModelError(f"config.json: wanted numbers above 0 for rotary positions, got {value!r}")
        width = None if share == 1 else int(head_width * share)
        return Rope(theta, RopeScaling(**scaling) if scaling else None, width)

    def parameters(self, rope: Rope, head_width: int) -> dict[str, Any]:
        """`rope_parameters` as `transformers` 5 has it."""
        scaling = rope.scaling
        assert not isinstance(scaling, LongRope), "only phi3 writes it"
        kind = "default" if scaling is None else "llama3" if scaling.original_context else "linear"
        written = {
            "rope_type": kind,
            "rope_theta": rope.theta,
            **{theirs: getattr(scaling, ours) for ours, theirs in SCALINGS[kind].items()},
        }
        if self.share is not None:
            written["partial_rotary_factor"] = share_of(rope.width or head_width, head_width)
        return written

    def older_fields(self, parameters: Fields) -> dict[str, Any]:
        """The same as readers before `transformers` 5 have it."""
        fields = {self.theta: parameters["rope_theta"]}
        if parameters["rope_type"] != "default":
            fields["rope_scaling"] = parameters
        if self.share is not None:
            fields[self.share] = parameters["partial_rotary_factor"]
        return fields


@dataclass(frozen=True)
class LayerFields:
    """How a family's config.json describes its layers."""

    rope: RopeFields | None = RopeFields()  # None: no rotary positions
    window: str | None = None  # the field of the window's size, if layers may have one
    window_rope: RopeFields | None = None  # layers are of two kinds: this is the rotation of those with a window
    shared_rope: bool = False  # layers are of two kinds, with and without a window, and both have the rotation `rope`
    pattern: int = 1  # where layers are of two kinds and `layer_types` is missing: every such layer has no window

    def read(self, fields: Fields, layers: int, head_width: int) -> tuple[LayerKind, ...]:
        """The kinds of layers, for `Config.layer_kinds`. Raises ModelError and KeyError as `RopeFields.read`."""
        window = None if self.window is None else fields[self.window]
        parameters = fields.get("rope_scaling") or fields.get("rope_parameters")
        if self.window_rope is None:
            rope = None if self.rope is None else self.rope.read(fields, parameters, head_width)
            kinds = {_FULL: LayerKind(None, rope), _SLIDING: LayerKind(window, rope)}
            if not self.shared_rope:
                return (kinds[_SLIDING],)
            return tuple(kinds[each] for each in self._types(fields, layers, window))
        assert self.rope is not None, "layers of two kinds have rotary positions"
        types = self._types(fields, layers, window)
        nested = fields.get("rope_parameters") or {}
        if not isinstance(nested, Mapping):
            raise ModelError(f"config.json: wanted rope_parameters to be an object, got {nested!r}")
        if not {_FULL, _SLIDING}.issuperset(nested):
            raise ModelError(f"config.json: wanted rope_parameters to have {_FULL} and {_SLIDING}, got {list(nested)}")
        full = {**(nested.get(_FULL) or {}), **(fields.get("rope_scaling") or {})}
        kinds = {
            _FULL: LayerKind(None, self.rope.read(fields, full, head_width)),
            _SLIDING: LayerKind(window, self.window_rope.read(fields, nested.get(_SLIDING), head_width)),
        }
        return tuple(kinds[each] for each in types)

    def _types(self, fields: Fields, layers: int, window: Any) -> list[str]:
        """The name of each layer's kind, where layers are of two kinds."""
        pattern = fields.get("sliding_window_pattern") or self.pattern
        types = fields.get("layer_types")
        if not isinstance(pattern, int) or pattern < 1:
            raise ModelError(f"config.json: wanted sliding_window_pattern of at least 1, got {pattern!r}")
        if types is None:
            types = [_SLIDING if (layer + 1) % pattern else _FULL for layer in range(layers)]
        known = isinstance(types, list) and all(each in (_FULL, _SLIDING) for each in types)
        if not known or len(types) != layers:
            raise ModelError(
                f"config.json: wanted layer_types to be {_FULL} or {_SLIDING} for each of {layers} layers, got {types}"
            )
        if _SLIDING in types and window is None:
            raise ModelError(
                f"config.json: wanted {self.window} to be a number, as some layers have a window, got None"
            )
        return list(types)

    def write(self, config: Config) -> dict[str, Any]:
        """The fields that `read` takes back."""
        kinds = [config.kind_of(layer) for layer in range(config.layers)]
        windows = [kind for kind in kinds if kind.window is not None]
        size = windows[0].window if windows else None
        fields: dict[str, Any] = {} if self.window is None else {self.window: size}
        types = [_FULL if kind.window is None else _SLIDING for kind in kinds]
        if self.rope is None:
            return fields
        if self.window_rope is None:
            rope = kinds[0].rope
            assert rope is not None
            parameters = self.rope.parameters(rope, config.head_width)
            fields |= {**self.rope.older_fields(parameters), "rope_parameters": parameters}
            return {**fields, "layer_types": types} if self.shared_rope else fields
        nested = {}
        for name, names, kind in (
            (_FULL, self.rope, next((kind for kind in kinds if kind.window is None), None)),
            (_SLIDING, self.window_rope, windows[0] if windows else None),
        ):
            rope = Rope(names.default_theta) if kind is None or kind.rope is None else kind.rope
            nested[name] = names.parameters(rope, config.head_width)
        fields |= {**self.rope.older_fields(nested[_FULL]), self.window_rope.theta: nested[_SLIDING]["rope_theta"]}
        return {**fields, "rope_parameters": nested, "layer_types": types}


def share_of(rotated: int, width: int) -> float:
    """The share for which readers, who multiply the width by it and round down, get `rotated`."""
    share = rotated / width
    return share if int(width * share) == rotated else math.nextafter(share, 1)
