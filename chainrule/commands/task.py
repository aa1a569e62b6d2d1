"""The command `task`: writes a task file, and shows what is in the data."""

from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from chainrule.commands.options import Columns, Json


def task(
    data: Positional[str],
    /,
    out: Path,
    columns: OmitArgPrefixes[Columns] = Columns(),
    test: Path | None = None,
    header: tuple[str, ...] = (),
    kind: Literal["classification", "free"] = "classification",
    model: str | None = None,
    json: Json = False,
) -> None:
    """Write a task file for labelled data, and show what is in it.

    Args:
        data: Labelled rows: .jsonl, .csv, .tsv or .parquet.
        out: The task file to write, a .toml.
        test: The file of the test rows; without it a fifth of the data is held out.
        header: The names of the columns, for files without such a line.
        kind: What an answer is: a class, or free text judged by exact match.
        model: Show lengths against this model's context, and the borders of its tokens.
        json: Print one JSON document.
    """
    from chainrule.adaptation.examples import Task
    from chainrule.adaptation.inspect_task import inspect_task, print_task
    from chainrule.adaptation.task_file import Settings, task_file
    from chainrule.files import write_text
    from chainrule.terminal import print_json, say

    if out.suffix != ".toml":
        raise ValueError(f"--out {out}: wanted a name that ends in .toml, got another; rename it")
    if out.exists():
        raise ValueError(f"--out {out}: wanted a new file, got one that is there; edit it, or name another")
    settings = Settings(
        Path(data), columns.text, columns.label, test=test, columns=header, kind=kind, encoding=columns.encoding
    )
    content = task_file(settings, Task.read(settings, on_error=columns.on_error, say=say).labels, out.parent)
    write_text(out, content)
    try:
        found = inspect_task(Task.load(out, on_error=columns.on_error), *_tokenizer_and_context(model))
    except BaseException:
        out.unlink()
        raise
    if json:
        print_json(found)
        return
    print_task(found)
    print(f"Written: {out}")


def _tokenizer_and_context(model: str | None) -> tuple[Any, int]:
    if model is None:
        return None, 0
    from chainrule.hub import model_directory
    from chainrule.model.checkpoint import read_config
    from chainrule.model.families import FAMILIES, family_of
    from chainrule.text.tokenizer import load_tokenizer

    directory = model_directory(model, weights=False)
    fields = read_config(directory)
    return load_tokenizer(directory), FAMILIES[family_of(fields)].read(fields).context
