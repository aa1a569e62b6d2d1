"""Each link of docs/notation.md leads to the line that it names."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "notation.md"
LINK = re.compile(r"\[`(?P<name>\w+)`\]\((?P<path>[^)#]+)#L(?P<line>\d+)\)")


def test_each_name_stands_on_the_line_that_it_links_to() -> None:
    page = PAGE.read_text(encoding="utf-8")
    links = list(LINK.finditer(page))
    assert len(links) == page.count("](")  # no link of another form escapes the check
    astray = []
    for link in links:
        name, line = link["name"], int(link["line"])
        defines = re.compile(rf"\s*(def {name}\(|class {name}\b|(self\.)?{name}(: [^=]+)?( =|  #|$))")
        lines = (PAGE.parent / link["path"]).read_text(encoding="utf-8").splitlines()
        places = [number for number, text in enumerate(lines, 1) if defines.match(text)]
        if line not in places:
            astray.append(f"{name}: {link['path']}#L{line}, it stands on {places}")
    assert astray == []


def test_each_row_links_to_code_and_to_a_test() -> None:
    rows = [row for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| ")][2:]
    assert len(rows) >= 10
    for row in rows:
        code, proof = (LINK.findall(cell) for cell in row.split(" | ")[2:])
        assert code
        assert proof
        assert all(path.startswith("../chainrule/") for _, path, _ in code)
        assert all(name.startswith("test_") and Path(path).name.startswith("test_") for name, path, _ in proof)
