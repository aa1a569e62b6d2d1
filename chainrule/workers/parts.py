"""Parts of a command's work: each done by a command of its own into a file, joined by another. Knows bytes and names.

A part's file: a line of JSON, the header, which says what the part was made with; then the results of its pieces in
order, each as its length in 8 bytes and its CRC-32 in 4 (little-endian), and so many bytes; then the length 2**64 - 1
and a line of JSON with the number of all pieces, those of the other parts included. Piece k, from 0, is in part
k % count + 1.
"""

import glob
import json
import os
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from chainrule.errors import ChainruleError, DataError, FolderError, WorkerKilledError
from chainrule.storage.files import publish
from chainrule.storage.locks import locked
from chainrule.storage.run_folder import shown
from chainrule.workers.options import Part

Piece = TypeVar("Piece")
Result = TypeVar("Result")
_FORMAT = "chainrule part 1"
_END = 2**64 - 1
_NAME = re.compile(r"\.part-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Packed:
    """How results are written: `pack` to bytes, and `unpack` back."""

    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]


AS_JSON = Packed(lambda result: json.dumps(result, ensure_ascii=False).encode(), json.loads)


def identity(command: str, **depends_on: Any) -> dict[str, Any]:
    """What all parts of one work have in common: the command, the version, and all that the results depend on."""
    from importlib.metadata import version

    named = {"command": command, "version": version("chainrule"), **depends_on}
    found: dict[str, Any] = json.loads(json.dumps(named, default=str))  # as it will be read back
    return found


def write_part(
    out: Path,
    part: Part,
    made_with: Mapping[str, Any],
    work: Callable[[Iterable[Piece]], Iterator[Result]],
    pieces: Iterable[Piece],
    packed: Packed = AS_JSON,
    attached: Mapping[str, bytes] | None = None,
    show: Callable[[int], None] = lambda pieces: None,
) -> int:
    """Do the part's share of the pieces and write its file beside `out`; the number of its pieces.

    `work`: from pieces to their results, in order. `made_with`: `identity(...)`, which all parts must share.
    `attached`: files that the join needs. A part that is done already is left alone; one that was interrupted goes on
    after its last whole piece. Raises FolderError for a part that was made with something else, or that another command
    does now; a ChainruleError of the work leaves nothing, but for a WorkerKilledError.
    """
    if not out.name or not out.parent.is_dir():
        got = f"no {out.parent}; make it first" if out.name else "none; name one"
        raise FolderError(f"--out {out}: wanted a name in a folder that is there, got {got}")
    path = part.path(out)

    def refusal(other: str) -> FolderError:
        return FolderError(
            f"--part {part}: wanted a part that no other command does, got one that {other} does now; wait until it has"
            " ended"
        )

    with locked(path.with_name(f".{path.name}.lock"), refusal):
        if path.exists():
            with _Reader(path) as done:
                _require_same(done, made_with)
                return sum(1 for _ in done.results())
        header = {"format": _FORMAT, "part": part.number, "of": part.count, "made_with": dict(made_with)}
        header["attached"] = {name: b64encode(content).decode() for name, content in (attached or {}).items()}
        partial = path.with_name(f".{path.name}.partial")
        written = before = _whole_pieces(partial, header)
        total = 0

        def own() -> Iterator[Piece]:
            nonlocal total
            for index, piece in enumerate(pieces):
                total = index + 1
                if index % part.count == part.number - 1 and index // part.count >= before:
                    yield piece

        try:
            with partial.open("ab") as file:
                if not file.tell():
                    file.write(_line(header))
                for result in work(own()):
                    file.write(_framed(packed.pack(result)))
                    file.flush()
                    written += 1
                    show(written)
                file.write(_END.to_bytes(8, "little") + _line({"pieces": total}))
        except WorkerKilledError:
            raise  # the same command goes on
        except ChainruleError:
            partial.unlink(missing_ok=True)
            raise
        publish(partial, path)
        return written


def _framed(content: bytes) -> bytes:
    """A result as the file has it."""
    return len(content).to_bytes(8, "little") + zlib.crc32(content).to_bytes(4, "little") + content


def _whole_pieces(partial: Path, header: Mapping[str, Any]) -> int:
    """How many results an interrupted command left in `partial`, whose rest is cut off; it goes if it is of another
    work."""
    if not partial.is_file():
        return 0
    try:
        with _Reader(partial, finished=False) as left:
            if left.header == header:
                count, end = left.whole()
                os.truncate(partial, end)
                return count
    except DataError:
        pass
    partial.unlink()
    return 0


class Joined:
    """The parts beside `out`, read together. Raises FolderError where one is missing or was made with something else.

    `attached`: the files that the first part brings.
    """

    def __init__(self, out: Path, made_with: Mapping[str, Any], packed: Packed = AS_JSON) -> None:
        self._packed = packed
        self._parts: list[_Reader] = []
        try:
            for path in _paths(out):
                self._parts.append(_Reader(path))
                _require_same(self._parts[-1], made_with)
                if self._parts[-1].attached != self._parts[0].attached:
                    raise FolderError(
                        f"{path}: wanted what {self._parts[0].path.name} was made with, got another tokenizer; remove"
                        " it, and do the part again"
                    )
            self.attached = self._parts[0].attached
        except Exception:
            self.close()
            raise

    def work(self, pieces: Iterable[Any], done: int = 0) -> Iterator[Any]:
        """The result of each piece, which is not looked at, from its part's file. `done`: how many pieces before these
        were joined already, by a command that was killed.

        Raises DataError where the parts have fewer or more pieces.
        """
        results = [part.results() for part in self._parts]
        for index in range(done):
            next(results[index % len(results)], None)
        count = done
        for index, _ in enumerate(pieces, done):
            content = next(results[index % len(results)], None)
            if content is None:
                raise self._another_input(index % len(results))
            count += 1
            yield self._packed.unpack(content)
        for index, part in enumerate(self._parts):
            if next(results[index], None) is not None or part.pieces != count:
                raise self._another_input(index)

    def _another_input(self, index: int) -> DataError:
        return DataError(
            f"{self._parts[index].path}: wanted the results of this input, got those of another number of pieces;"
            " remove it, and do the part again"
        )

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def remove(self) -> None:
        """Remove the files of the parts: what they hold is in the output now."""
        self.close()
        for part in self._parts:
            part.path.unlink(missing_ok=True)


def _paths(out: Path) -> list[Path]:
    """The files of all parts, in order; FolderError naming those that are missing."""
    found = {}
    for path in out.parent.glob(f"{glob.escape(out.name)}.part-*-of-*") if out.parent.is_dir() else ():
        if match := _NAME.fullmatch(path.name.removeprefix(out.name)):
            found[Part(int(match[1]), int(match[2]))] = path
    if not found:
        raise FolderError(
            f"--join: wanted parts beside {out} ({out.name}.part-1-of-N and so on), found none; do them first, with"
            " --part 1/N and so on"
        )
    counts = sorted({part.count for part in found})
    if len(counts) > 1:
        raise FolderError(
            f"--join: wanted parts of one division beside {out}, got some of {' and some of '.join(map(str, counts))};"
            " remove those that are not meant"
        )
    missing = [str(number) for number in range(1, counts[0] + 1) if Part(number, counts[0]) not in found]
    if missing:
        raise FolderError(
            f"--join: wanted {counts[0]} parts beside {out}, part {', '.join(missing)} is missing; do it with --part"
            f" {missing[0]}/{counts[0]}"
        )
    return [found[Part(number, counts[0])] for number in range(1, counts[0] + 1)]


def _require_same(part: "_Reader", made_with: Mapping[str, Any]) -> None:
    before = part.header["made_with"]
    for name in [*made_with, *(name for name in before if name not in made_with)]:
        if before.get(name) != made_with.get(name):
            is_option = name not in ("command", "version", "input", "model", "task", "tokenizer")
            called = f"--{name.replace('_', '-')}" if is_option else f"the {name}"
            raise FolderError(
                f"{part.path}: wanted a part with {called} {shown(made_with.get(name))}, got one made with"
                f" {shown(before.get(name))}; give all parts the same options, data and version, or remove it"
            )


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


class _Reader:
    """A part's file. Raises DataError for one that was cut or altered."""

    def __init__(self, path: Path, finished: bool = True) -> None:
        self.path = path
        self._file: BinaryIO = path.open("rb")
        self._finished = finished
        self.pieces = -1  # all of the work; known at the end of the file
        try:
            self.header: dict[str, Any] = json.loads(self._whole_line())
            if self.header["format"] != _FORMAT or not isinstance(self.header["made_with"], dict):
                raise ValueError("another format")
            self.attached = {name: b64decode(content) for name, content in self.header["attached"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._file.close()
            raise self._damaged() from error

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def _damaged(self) -> DataError:
        return DataError(
            f"{self.path}: wanted a whole part, got one that was cut or altered; remove it, and do it again"
        )

    def _whole_line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise ValueError("cut")
        return line

    def results(self) -> Iterator[bytes]:
        """The results, in order."""
        while True:
            length = int.from_bytes(head, "little") if len(head := self._file.read(8)) == 8 else None
            if length == _END:
                try:
                    self.pieces = int(json.loads(self._whole_line())["pieces"])
                except (ValueError, KeyError, TypeError):
                    raise self._damaged() from None
                return
            check = self._file.read(4)
            left = os.fstat(self._file.fileno()).st_size - self._file.tell()
            if length is None or length > left:
                raise self._damaged()
            content = self._file.read(length)
            if zlib.crc32(content).to_bytes(4, "little") != check:
                raise self._damaged()
            yield content

    def whole(self) -> tuple[int, int]:
        """How many results there are whole, and the offset of their end."""
        count, end = 0, self._file.tell()
        try:
            for _ in self.results():
                count, end = count + 1, self._file.tell()
        except DataError:
            pass
        return count, end
