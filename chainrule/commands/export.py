"""The command `export`: a model written for other programs."""

from typing import Annotated, Literal

from chainrule.arguments import Help
from chainrule.commands.options import Json, Model
from chainrule.errors import OptionError


def export(
    model: Model,
    /,
    out: Annotated[str, Help("FILE")],
    to: Literal["gguf", "huggingface"] = "gguf",
    type: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] | None = None,
    json: Json = False,
) -> None:
    """Write a model as GGUF for llama.cpp and Ollama, or as a Hugging Face folder. An adapter is merged.

    Args:
        to: Form; with huggingface, --out is a folder.
        out: File to write; an Ollama Modelfile is written beside a GGUF.
        type: Weights of a GGUF (default f16); q8_0 and q4_0 are quantised.

    Example:
        chainrule export runs/books --out books.gguf --type q8_0
    """
    from pathlib import Path

    from chainrule.exporting.export import export_gguf, export_huggingface
    from chainrule.terminal import print_json, print_table

    if to == "huggingface":
        if type is not None:
            raise OptionError("--type: wanted --to gguf beside it, got --to huggingface; leave --type out")
        made = export_huggingface(model, Path(out))
    else:
        made = export_gguf(model, Path(out), type or "f16")
    if json:
        print_json(made)
    else:
        print_table(("", ""), [(name.replace("_", " "), str(value)) for name, value in made.items()])
