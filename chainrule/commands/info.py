"""The command `info`: what a model's directory holds."""

from tyro.conf import Positional

from chainrule.commands.options import Json


def info(model: Positional[str], /, json: Json = False) -> None:
    """What a directory holds: family, sizes, tokenizer, and how it was trained.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        json: Print one JSON document.
    """
    from chainrule.inspection import inspect_model
    from chainrule.terminal import print_json, print_table

    found = inspect_model(model)
    if json:
        print_json(found)
        return
    print_table(("", ""), [(name.replace("_", " "), str(value)) for name, value in found.items()])
