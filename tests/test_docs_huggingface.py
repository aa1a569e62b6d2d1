"""docs/huggingface.md says what the code does."""

import re
import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_families_is_the_codes_own() -> None:
    (table,) = re.findall(
        r"<!-- families -->\n(.*)\n<!-- /families -->", (DOCS / "huggingface.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert table == runpy.run_path(str(DOCS / "tables.py"))["families"]()
