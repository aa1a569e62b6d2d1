"""Imports only go down the list of rooms, and no two files import each other, however long the way round."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import chainrule

PACKAGE = Path(chainrule.__file__).parent
ROOMS = """
    errors machine memory terminal arguments storage workers drawing uncertainty tokens corpus model training generation
    scoring
    masked_language_model language_model model_source inspection pretraining tasks prompting finetuning
    exporting comparison serving integrations demo commands cli __main__
""".split()  # from the ground floor up


def modules() -> dict[str, Path]:
    """Each module's name, without the package's, and its file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """The modules that each module imports, within functions and for types too."""
    names = modules()
    found: dict[str, set[str]] = {}
    for module, path in names.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "chainrule":
                source = ".".join(node.module.split(".")[1:])
                for name in node.names:
                    deeper = f"{source}.{name.name}".strip(".")
                    found[module].add(deeper if deeper in names else source)
    return found


def room(module: str) -> str:
    return module.split(".")[0]


def test_each_module_stands_in_a_room_of_the_list() -> None:
    assert {room(module) for module in modules()} - {""} == set(ROOMS)


def test_imports_only_go_down() -> None:
    upwards = [
        f"{module} imports {imported}"
        for module, all_imported in imports().items()
        for imported in all_imported
        if module and ROOMS.index(room(imported)) > ROOMS.index(room(module))
    ]
    assert upwards == []


def test_no_circle_of_imports() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None
