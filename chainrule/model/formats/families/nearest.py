"""Which of our families a config.json of another resembles most, and which of its fields that one lacks."""

from collections.abc import Mapping
from difflib import SequenceMatcher

from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import Fields

_SHOWN = 4  # of the fields that are lacking
# Fields that change no logits.
_SILENT = {
    "model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "auto_map", "_name_or_path",
    "use_cache", "chunk_size_feed_forward", "output_hidden_states", "output_attentions", "return_dict",
    "is_encoder_decoder", "problem_type", "id2label", "label2id", "pretraining_tp", "max_window_layers",
}  # fmt: skip
_SILENT_PARTS = ("dropout", "pdrop", "token_id", "init", "layerdrop")
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")


def nearest(fields: Fields, families: Mapping[str, Family]) -> tuple[str, list[str]] | None:
    """The name of a family and the fields that it lacks; None where no family knows most of the fields.

    Fields that are None or False are left out: they turn something off.
    """
    given = {
        name
        for name, value in fields.items()
        if value is not None and value is not False and name not in _SILENT
        if not any(part in name for part in _SILENT_PARTS)
    }
    found = []
    for name, family in families.items():
        lacking = given - _known(family)
        alike = SequenceMatcher(None, name, str(fields.get("model_type"))).ratio()
        found.append((len(given) - 2 * len(lacking), alike, name, sorted(lacking)))
    score, _, name, lacking_there = max(found)
    return (name, lacking_there) if score > 0 else None


def described(fields: Fields, families: Mapping[str, Family]) -> str:
    """The same as the end of a sentence; nothing where there is none."""
    near = nearest(fields, families)
    if near is None:
        return ""
    name, lacking = near
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    which = (
        f"which lacks {', '.join(lacking[:_SHOWN])}{more}"
        if lacking
        else "which has all fields of its config.json, not what else is new"
    )
    return f"; the nearest is {name}, {which}"


def _known(family: Family) -> set[str]:
    """The fields of config.json that a family reads or writes."""
    layers = family.layers
    rotations = [rope for rope in (layers.rope, layers.window_rope) if rope is not None]
    names = {
        *family.fields.values(),
        *family.defaults,
        *family.allowed,
        *family.extra_fields,
        layers.window or "vocab_size",
    }
    names |= {*_ROPE, *(rope.theta for rope in rotations)} if rotations else set()
    return names | {rope.share for rope in rotations if rope.share is not None}
