"""What is installed is what is written here: every module and every other file of the package is in the wheel."""

import tomllib
from pathlib import Path

import chainrule

PACKAGE = Path(chainrule.__file__).parent
SETTINGS = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_file_that_is_no_module_is_named_as_package_data() -> None:
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]["chainrule"]
    named = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    others = {path for path in files if path.suffix != ".py"}
    assert PACKAGE / "comparison" / "report" / "report.html" in others
    assert others == named


def test_every_folder_of_modules_is_a_package() -> None:
    """setuptools looks for modules only where there is an `__init__.py`."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert len(folders) > 10
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
