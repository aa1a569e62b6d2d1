"""Prints the tables of docs/huggingface.md and docs/gguf.md from the code's own: python docs/tables.py. Tests hold them
together."""

import sys
from collections.abc import Collection
from pathlib import Path

from chainrule.model.formats.families import FAMILIES
from chainrule.model.formats.family import Family
from chainrule.model.formats.gguf_layout import ARCHITECTURES
from chainrule.model.formats.gguf_write import EXPORTED

COLUMNS = ("`model_type`", "models", "class in transformers", "its classifier", "what varies beside the sizes")

WITHOUT_CLASSIFIER = ("granite",)  # in transformers


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
        f"RoPE θ and scaling ({', '.join(layers.rope.kinds if layers.rope else ())})": layers.rope is not None,
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
            f"`{family.classifier}`" if name not in WITHOUT_CLASSIFIER else "none: it loads here alone",
            features(family),
        )
        for name, family in FAMILIES.items()
    ]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


GGUF_COLUMNS = ("`model_type`", "llama.cpp's name", "read from a GGUF", "exported as one", "held to llama.cpp by tests")
# llama.cpp's names of the families that no GGUF is read of here; it has none for OPT and GPT-Neo.
OTHERS_IN_LLAMA_CPP = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "distilbert"), "bert"),
    "modernbert": "modern-bert",
}


def llama_cpp_name(model_type: str) -> str | None:
    """llama.cpp's name of a family's architecture; None where it has none."""
    return EXPORTED.get(model_type) or OTHERS_IN_LLAMA_CPP.get(model_type)


def gguf(tested: Collection[str]) -> str:
    """`tested`: the families whose exported files the tests run in llama.cpp."""
    rows = []
    for name in FAMILIES:
        theirs = llama_cpp_name(name)
        architecture = ARCHITECTURES.get(theirs or "")
        read = "no"
        if architecture is not None:
            read = "yes" if architecture.model_type == name else f"yes, as `{architecture.model_type}`"
        others = ("yes" if name in families else "no" for families in (EXPORTED, tested))
        rows.append((f"`{name}`", f"`{theirs}`" if theirs else "none", read, *others))
    lines = [GGUF_COLUMNS, ("---",) * len(GGUF_COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from conftest import GGUF_FAMILIES

    print(families(), gguf(GGUF_FAMILIES), sep="\n\n")
