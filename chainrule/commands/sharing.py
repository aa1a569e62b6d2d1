"""What commands with --cluster and --part have in common. Knows no command."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.errors import OptionError
from chainrule.storage.remote import is_remote
from chainrule.workers.options import Part, Sharing
from chainrule.workers.parts import Joined, write_part

if TYPE_CHECKING:
    from chainrule.tasks.examples import Task
    from chainrule.tasks.row_file import InputRows, Values, Written


@contextmanager
def shared(sharing: Sharing, *, workers: int | None = None, device: str | None = None) -> Iterator[Any]:
    """Yield the function from `begin` and the pieces to their results that works on the cluster of --cluster; None
    without it. A worker is a core; where workers load a model to `device`, a GPU or a machine."""
    if sharing.cluster is None:
        yield None
        return
    from chainrule.workers.ray_connection import cluster

    with cluster(sharing.cluster) as found:
        yield partial(found.map, whole_nodes=device is not None, device=device or "cpu", workers=workers)


@contextmanager
def working(
    sharing: Sharing,
    out: str,
    made_with: Mapping[str, Any],
    begin: Any,
    here: Callable[[Any], Any],
    device: str,
) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """Yield the function from pieces to their results, in order. With --cluster its workers compute them, each with the
    function that `begin` makes there; with --join they are read from the parts beside `out`, which are removed where
    the block succeeds: write the output in it. Else the function `here` computes them. Results are JSON values."""
    if sharing.join:
        joined = Joined(Path(out), made_with)
        try:
            yield joined.work
        finally:
            joined.close()
        joined.remove()
        return
    with shared(sharing, device=device) as share:
        yield partial(map, here) if share is None else partial(share, begin)


def write_shared(
    sharing: Sharing,
    rows: "InputRows",
    out: str,
    made_with: Mapping[str, Any],
    work: Callable[[Iterable[Any]], Iterator[Any]],
    values: "Values",
    json: bool,
    description: str,
) -> "Written | None":
    """Write the rows with their values to `out`; with --part, write the part's file, print what was done, and return
    None."""
    from chainrule.tasks.row_file import ROWS_AT_ONCE, write_rows
    from chainrule.tasks.row_writer import check_format
    from chainrule.terminal import progress_bar

    with progress_bar(None, description) as bar:
        if sharing.chosen is None:
            return write_rows(rows, out, values, lambda done: bar(done, f"{done:,} rows"))
        check_format(out)
        rows.check()
        pieces = write_part(
            Path(out), sharing.chosen, made_with, work, rows.pieces(),
            show=lambda done: bar(done, f"{done * ROWS_AT_ONCE:,} rows of this part"),
        )  # fmt: skip
    print_part(sharing.chosen, Path(out), pieces, json)
    return None


def print_part(part: Part, out: Path, pieces: int, json: bool) -> None:
    """Print what a command with --part has done."""
    from chainrule.terminal import print_json

    path = part.path(out)
    if json:
        print_json({"part": part.number, "of": part.count, "pieces": pieces, "file": str(path)})
        return
    print(f"{path}: part {part} ({pieces} pieces); when all are done, the same command with --join in place of --part")


def check_parts(command: str, source: str, out: str) -> None:
    """OptionError where parts cannot be done: every part reads the input, and writes beside the output."""
    if source == "-":
        raise OptionError(
            f"{command}: wanted a file, which every part reads, got - (standard input); write it to a file"
        )
    if is_remote(out):
        raise OptionError(f"--out {out}: wanted a path for --part and --join, got a URL; copy the joined file there")


def digest_of(task: "Task") -> str:
    """Of all in a task that predictions depend on."""
    said = repr((task.kind, task.text, task.label, task.labels, task.prompt, task.input))
    for examples in (task.train, task.test):
        said += repr((list(examples.rows), list(examples.labels), examples.groups))
    return hashlib.sha256(said.encode()).hexdigest()[:16]
