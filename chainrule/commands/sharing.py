"""What commands with --cluster and --part have in common. Knows no command."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.errors import OptionError
from chainrule.storage.remote import is_remote
from chainrule.workers.options import Part, Sharing

if TYPE_CHECKING:
    from chainrule.tasks.examples import Task


@contextmanager
def shared(sharing: Sharing, *, workers: int | None = None, device: str | None = None) -> Iterator[Any]:
    """What does the work of (begin, pieces) on the cluster of --cluster, with a worker a core; or, where workers load a
    model to `device`, a GPU or a machine. None without --cluster."""
    if sharing.cluster is None:
        yield None
        return
    from chainrule.workers.ray_cluster import cluster

    with cluster(sharing.cluster) as found:
        yield partial(found.map, whole_nodes=device is not None, device=device or "cpu", workers=workers)


def print_part(part: Part, out: Path, pieces: int, json: bool) -> None:
    """What a command says that did a part of the work."""
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
