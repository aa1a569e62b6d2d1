"""The command `task`: writes a task file, and reports on the data."""

from pathlib import Path
from typing import Annotated, Any, Literal

from chainrule.arguments import Help
from chainrule.commands.options import Columns, Json, Model, refuse_without
from chainrule.errors import OptionError


def task(
    data: str,
    /,
    out: Path,
    columns: Columns = Columns(),
    header: Annotated[tuple[str, ...], Help("NAME")] = (),
    kind: Literal["classification", "multilabel", "regression", "free"] = "classification",
    label_separator: Annotated[str, Help("TEXT")] = "|",
    none: bool = False,
    test: Path | None = None,
    model: Model | None = None,
    json: Json = False,
) -> None:
    """Write a task file for labelled data, and show what is in the data.

    Args:
        data: Labelled rows (.jsonl .csv .tsv .parquet).

    Options:
        out: Task file to write, ending in .toml.
        header: Names of all columns, for files without a header line.
        kind: One of some labels; several labels at once; a number; or free answers judged by exact match.
        label_separator: Stands between the labels in a cell, with --kind multilabel.
        none: An empty cell means that no label applies, with --kind multilabel.
        test: File of the test rows (default: a fifth of DATA is held out).
        model: Also show how this model tokenizes the texts, and which exceed its context.

    Example:
        chainrule task reviews.csv --text review --label stars --out reviews.toml
        chainrule task comments.csv --text comment --label toxic insult threat --kind multilabel --out comments.toml
    """
    from chainrule.storage.files import write_text
    from chainrule.tasks.examples import Task
    from chainrule.tasks.inspect_task import inspect_task, print_task
    from chainrule.tasks.task_file import Settings, label_and_columns, task_file
    from chainrule.terminal import log, print_json

    if out.suffix != ".toml":
        raise OptionError(f"--out {out}: wanted a name that ends in .toml, got another; rename it")
    if out.exists():
        raise OptionError(f"--out {out}: wanted a new file, got one that is there; edit it, or name another")
    if kind != "multilabel":
        refuse_without("--kind multilabel", label_separator=(label_separator, "|"), none=(none, False))
    label, label_columns = label_and_columns(columns.label, kind)
    settings = Settings(
        Path(data), columns.text, label, test=test, columns=header, kind=kind, encoding=columns.encoding,
        label_columns=label_columns, label_separator=label_separator, none=none,
    )  # fmt: skip
    content = task_file(settings, Task.read(settings, on_error=columns.on_error, log=log).labels, out.parent)
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
    from chainrule.model.formats.checkpoint import read_config
    from chainrule.model.formats.families import FAMILIES, family_of
    from chainrule.storage.hub import model_directory
    from chainrule.tokens.tokenizer import load_tokenizer

    directory = model_directory(model, weights=False)
    fields = read_config(directory)
    return load_tokenizer(directory), FAMILIES[family_of(fields)].read(fields).context
