"""What `make docs` does to the pages on the way to the site: mkdocs calls these by their names."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")  # a link to a file that is no page: code, tests, benchmarks


def on_files(files: Any, config: Any) -> Any:
    """The README is the front page."""
    from mkdocs.structure.files import File

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=front_page(readme)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A link to code becomes the path of its file, which can be read where the code is."""
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)


def front_page(readme: str) -> str:
    """The README with its links as they are seen from docs/."""
    return re.sub(r"\]\((?!https?://|#)([^)]+)\)", lambda link: f"]({_seen_from_docs(link[1])})", readme)


def _seen_from_docs(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
