"""What commands that write a folder have in common. Knows no command."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from chainrule.storage.files import nothing_left_if_refused
from chainrule.storage.locks import only_writer

if TYPE_CHECKING:
    from chainrule.training.parallel import Processes


@contextmanager
def writing(
    out: Path, processes: "Processes", *, saved: Sequence[str] = (), underway: Sequence[str] = ()
) -> Iterator[None]:
    """While these processes, of which the first writes, make the folder `out`: no other command writes to it
    (`only_writer`), and nothing is left where they are refused (`nothing_left_if_refused`)."""
    with ExitStack() as entered:
        with processes.together():
            if processes.first:
                entered.enter_context(only_writer(out))
        if processes.first:
            entered.enter_context(nothing_left_if_refused(out, saved=saved, underway=underway))
        yield
