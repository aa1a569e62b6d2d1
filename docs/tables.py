"""Prints the tables of docs/huggingface.md from the code's own: python docs/tables.py. A test holds them together."""

from chainrule.model.formats.families import FAMILIES
from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import SCALINGS

COLUMNS = ("`model_type`", "models", "class in transformers", "its classifier", "what varies beside the sizes")


def features(family: Family) -> str:
    """What of the one Transformer a config.json of this family may ask for."""
    names = {
        "residual": "parallel residual",
        "key_value_heads": "grouped queries",
        "head_width": "width of a head",
        "query_key_value_bias": "attention biases",
        "mlp_bias": "MLP biases",
        "tied": "tied or not",
        "segments": "segments",
        "attention_cap": "caps of scores and logits",
        "embedding_factor": "factors of the embedding, scores, branches and logits",
    }
    found = [words for field, words in names.items() if field in family.fields and not _settled(family, field)]
    layers = family.layers
    kinds = {
        f"RoPE θ and scaling ({', '.join(SCALINGS)})": layers.rope is not None,
        "partial rotary": layers.rope is not None and layers.rope.share is not None,
        "sliding window": layers.window is not None,
        "window by layer": layers.shared_rope,
        "window and θ by layer": layers.window_rope is not None,
    }
    found = [words for words, true in kinds.items() if true] + found
    return ", ".join(found)


def _settled(family: Family, field: str) -> bool:
    return len(family.allowed.get(family.fields[field], ("more", "than one"))) == 1


def families() -> str:
    rows = [
        (
            f"`{name}`",
            family.models,
            f"`{family.architecture}`",
            f"`{family.classifier}`" if family.shared_classifier else "none: it loads here alone",
            features(family),
        )
        for name, family in FAMILIES.items()
    ]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(families())
