"""docs/huggingface.md and docs/gguf.md say what the code does."""

import re
import runpy
from pathlib import Path

import pytest
from conftest import GGUF_FAMILIES

from chainrule.model.formats.families import FAMILIES

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_families_is_the_codes_own() -> None:
    (table,) = re.findall(
        r"<!-- families -->\n(.*)\n<!-- /families -->", (DOCS / "huggingface.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert table == runpy.run_path(str(DOCS / "tables.py"))["families"]()


def test_the_table_of_gguf_is_the_codes_own() -> None:
    (table,) = re.findall(
        r"<!-- gguf -->\n(.*)\n<!-- /gguf -->", (DOCS / "gguf.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert table == runpy.run_path(str(DOCS / "tables.py"))["gguf"](GGUF_FAMILIES)


def test_llama_cpp_has_what_the_table_says() -> None:
    package = pytest.importorskip("gguf")
    name = runpy.run_path(str(DOCS / "tables.py"))["llama_cpp_name"]
    theirs = set(package.MODEL_ARCH_NAMES.values())
    assert {name(family) for family in FAMILIES} - {None} <= theirs
    without = [family for family in FAMILIES if name(family) is None]
    assert without == ["opt", "gpt_neo"] and not {"opt", "gptneo", "gpt-neo"} & theirs
