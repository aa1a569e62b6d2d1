"""The examples in docstrings give what they say, and each public name says what it is."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import chainrule

PACKAGE = Path(chainrule.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("chainrule", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_some_docstrings_have_examples() -> None:
    assert len(WITH_EXAMPLES) >= 4


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_of_a_module_are_true(module: str) -> None:
    found = doctest.testmod(import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


def test_every_public_name_has_a_docstring_and_so_do_its_methods() -> None:
    bare = []
    for name in chainrule.__all__:
        value = getattr(chainrule, name)
        if isinstance(value, str):  # the version
            continue
        if not inspect.getdoc(value):
            bare.append(name)
        for member, function in vars(value).items() if inspect.isclass(value) else ():
            wrapped = function.fget if isinstance(function, property) else getattr(function, "__func__", function)
            if not member.startswith("_") and inspect.isfunction(wrapped) and not wrapped.__doc__:
                bare.append(f"{name}.{member}")
    assert bare == []
