"""Rows that were pasted into the page, a text, a tab and a label a line: their task, and the file that keeps them.
Knows no request."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from chainrule.errors import DataError
from chainrule.tasks.examples import Task
from chainrule.tasks.prompt import Prompt
from chainrule.tasks.task_file import Settings

PASTED = "rows.jsonl"  # the file that a pasted task's rows are saved in
MOST_PASTED = 5_000  # rows


def pasted_records(rows: str) -> list[dict[str, str]]:
    """A record for each line, its text and its label on both sides of the last tab; empty lines are left out."""
    found = []
    for number, line in enumerate(rows.split("\n"), 1):  # splitlines would divide at U+2028 in a text too
        if not line.strip():
            continue
        text, tab, label = line.rpartition("\t")
        if not tab or not text.strip() or not label.strip():
            raise DataError(f"line {number}: wanted a text, a tab and a label, got {line[:40]!r}; correct it")
        found.append({"text": text.strip(), "label": label.strip()})
    if len(found) > MOST_PASTED:
        raise DataError(
            f"rows: wanted at most {MOST_PASTED:,}, got {len(found):,}; write a task file, serve it with --task"
        )
    return found


def pasted_task(rows: str) -> Task:
    """The task of pasted rows: read from a file as the saved one will be, so that both hold out the same fifth."""
    content = pasted_file(rows)
    with TemporaryDirectory() as folder:
        path = Path(folder) / PASTED
        path.write_text(content, encoding="utf-8")
        try:
            return replace(Task.read(Settings(path, ("text",), "label")), prompt=Prompt.default(("text",), "label"))
        except DataError as error:
            raise DataError(str(error).replace(str(path), "rows")) from None


def pasted_file(rows: str) -> str:
    """The pasted rows as JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in pasted_records(rows))
