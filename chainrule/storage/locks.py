"""Locks, so that two commands never write the same files at once. Knows files and processes, not what is written.

A lock is a file that its command holds by flock, beside what it writes: the system lets go of it when the process ends,
however it does, so that nothing stays locked after a kill. Where a file system has no such locks, nothing is locked.
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chainrule.errors import FolderError
from chainrule.storage.files import LOCK, refuse_broken_link

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# A process that torchrun starts again, perhaps on another host, may come before the one that it replaces has ended.
_PATIENCE = 40.0  # seconds; torchrun gives a process 30 s to end
_TRIES = 100  # to make a folder and the lock in it, while others remove the folder


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Within, no other command writes to the folder `out`, which is made if need be, and removed if it stays empty.

    Raises FolderError where another does, and for a link to nothing. An `out` that cannot be a folder, or not be
    written to, is not locked: what is done with it refuses that.
    """
    refuse_broken_link(out)
    made: list[Path] = []

    def make() -> None:
        made.extend(folder for folder in (out, *out.parents) if not folder.exists() and folder not in made)
        out.mkdir(parents=True, exist_ok=True)

    def refusal(other: str) -> FolderError:
        return FolderError(
            f"--out {out}: wanted a folder that no other command writes to, got one that {other} writes to now; wait"
            " until it has ended, or choose another"
        )

    try:
        with locked(out / LOCK, refusal, make):
            yield
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def locked(
    path: Path, refusal: Callable[[str], FolderError], make: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lock file `path`, which is removed at the end. Where another process holds it, `refusal` of that one's
    name is raised. `make` makes its folder, if need be."""
    handle = _taken(path, refusal, make)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):  # the folder is gone, or cannot be written to any more
                path.unlink()  # while it is held: nobody else can have taken it
            os.close(handle)


def _taken(path: Path, refusal: Callable[[str], FolderError], make: Callable[[], None]) -> int | None:
    """The open lock file; None where there can be none."""
    ends = time.monotonic() + (_PATIENCE if os.environ.get("WORLD_SIZE", "1") != "1" else 0.0)
    while fcntl is not None:
        handle = _opened(path, make)
        if handle is None:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _owner(handle)
            os.close(handle)
            if time.monotonic() >= ends:
                raise refusal(other) from None
            time.sleep(0.2)
            continue
        except OSError as error:
            os.close(handle)
            if error.errno == errno.ESTALE:  # NFS: the other command, on another host, has removed it meanwhile
                continue
            path.unlink(missing_ok=True)  # this file system has no locks
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                with suppress(OSError):  # on a full disk the owner has no name, but it is locked
                    os.truncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle
        os.close(handle)  # the other command has removed it meanwhile
    with suppress(OSError):
        make()
    return None


def _owner(handle: int) -> str:
    """The name of the process that holds a lock file, as it has written it there."""
    with suppress(OSError):
        return os.read(handle, 200).decode(errors="replace") or "another process"
    return "another process"


def _opened(path: Path, make: Callable[[], None]) -> int | None:
    """The lock file, opened; None where it cannot be made."""
    for _ in range(_TRIES):
        try:
            make()
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another command that ended has removed the folder meanwhile, or it cannot be made
            continue
        except OSError:
            return None
    return None
