"""The command `info`: what a model's directory holds."""

from chainrule.commands.options import Json, Model


def info(
    model: Model,
    /,
    json: Json = False,
) -> None:
    """Show what a model folder holds: family, sizes, tokenizer, training.

    Example:
        chainrule info runs/books
    """
    from chainrule.inspection import inspect_model
    from chainrule.terminal import print_json, print_table

    found = inspect_model(model)
    if json:
        print_json(found)
        return
    print_table(("", ""), [(name.replace("_", " "), str(value)) for name, value in found.items()])
