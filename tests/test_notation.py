"""Each link of docs/notation.md leads to a file that defines what it names."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "notation.md"
LINK = re.compile(r"\[`(?P<name>\w+)`\]\((?P<path>[^)#]+)\)")


def test_each_name_is_defined_in_the_file_that_it_links_to() -> None:
    page = PAGE.read_text(encoding="utf-8")
    links = list(LINK.finditer(page))
    assert len(links) == page.count("](")  # no link of another form escapes the check
    missing = []
    for link in links:
        name = link["name"]
        defines = re.compile(rf"\s*(def {name}\(|class {name}\b|(self\.)?{name}(: [^=]+)?( =|  #|$))", re.MULTILINE)
        if not defines.search((PAGE.parent / link["path"]).read_text(encoding="utf-8")):
            missing.append(f"{name}: {link['path']}")
    assert missing == []


def test_each_row_links_to_code_and_to_a_test() -> None:
    rows = [row for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| ")][2:]
    assert len(rows) >= 10
    for row in rows:
        code, proof = (LINK.findall(cell) for cell in row.split(" | ")[2:])
        assert code
        assert proof
        assert all(path.startswith("../chainrule/") for _, path in code)
        assert all(name.startswith("test_") and Path(path).name.startswith("test_") for name, path in proof)
