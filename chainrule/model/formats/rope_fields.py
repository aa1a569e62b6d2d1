"""How a config.json tells rotary positions: θ, a scaling, the share of a head that is rotated. Knows no model.

`transformers` 5 writes all of it into `rope_parameters`; before, θ and the share were fields of their own, and the
scaling lay in `rope_scaling`. Both are read, and both are written.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from chainrule.errors import ModelError
from chainrule.model.rotary import RopeScaling

_LLAMA3 = {"original_context": "original_max_position_embeddings", "low": "low_freq_factor", "high": "high_freq_factor"}
SCALINGS = {  # rope_type -> RopeScaling's fields and theirs
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {"factor": "factor", **_LLAMA3},
}


class Rope(NamedTuple):
    theta: float
    scaling: RopeScaling | None
    share: float  # of a head's width


def read_rope(fields: Mapping[str, Any], theta_name: str, share_name: str) -> Rope:
    """`theta_name` and `share_name` are what the family calls its fields beside `rope_parameters`.

    Raises ModelError for a scaling that is not ours and for two values of θ, KeyError for a field that is missing.
    """
    rope = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise ModelError(f"config.json: wanted rope_parameters to be an object, got {rope!r}")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in SCALINGS:
        raise ModelError(
            f"config.json: wanted a rope_type of {', '.join(SCALINGS)}, got {kind!r}, which is not supported"
        )
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *SCALINGS[kind].values()}
    for name in rope:
        if name not in known:
            raise ModelError(f"config.json: wanted no {name} with a rope_type of {kind}: that is not supported")
    theta = rope.get("rope_theta") or fields.get(theta_name) or 10_000.0
    if (fields.get(theta_name) or theta) != theta:
        raise ModelError(
            f"config.json: wanted one rope theta, got {theta_name} {fields[theta_name]} and {theta} in rope_parameters"
        )
    scaling = {ours: rope[theirs] for ours, theirs in SCALINGS[kind].items()}
    share = rope.get("partial_rotary_factor") or fields.get(share_name) or 1.0
    return Rope(theta, RopeScaling(**scaling) if scaling else None, share)


def write_rope(rope: Rope, theta_name: str, share_name: str) -> dict[str, Any]:
    """The fields that `read_rope` takes back, under the names of transformers 5 and under those of readers before."""
    theta, scaling, share = rope
    kind = "default" if scaling is None else "llama3" if scaling.original_context else "linear"
    parameters = {
        "rope_type": kind,
        "rope_theta": theta,
        **{theirs: getattr(scaling, ours) for ours, theirs in SCALINGS[kind].items()},
    }
    fields: dict[str, Any] = {theta_name: theta, "rope_parameters": parameters}
    if scaling is not None:
        fields["rope_scaling"] = parameters
    if share_name != "partial_rotary_factor":
        fields[share_name] = parameters["partial_rotary_factor"] = share
    return fields


def share_of(rotated: int, width: int) -> float:
    """The share that readers, who multiply the width by it and cut, take back to `rotated`."""
    share = rotated / width
    return share if int(width * share) == rotated else math.nextafter(share, 1)
