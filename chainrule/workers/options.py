"""How a command's work is shared: by a Ray cluster, or in parts by several commands. Imports nothing heavy."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from chainrule.arguments import Help
from chainrule.errors import OptionError


@dataclass(frozen=True)
class Part:
    """Part `number`, from 1, of `count`: the pieces number, number + count, number + 2 * count, ... of all."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def path(self, out: Path) -> Path:
        """The file of this part, beside the output."""
        return out.with_name(f"{out.name}.part-{self.number}-of-{self.count}")


@dataclass(frozen=True)
class Sharing:
    """Who does a command's work.

    Many machines:
        cluster: Share the work among the machines of a Ray cluster: auto, or its address HOST:PORT.
        part: Do the Ith of N parts and write a file beside --out; I counts from 1.
        join: Join the parts beside --out into what the command without --part writes, and remove them.
    """

    cluster: Annotated[str | None, Help("ADDRESS")] = None
    part: Annotated[str | None, Help("I/N")] = None
    join: bool = False

    def __post_init__(self) -> None:
        if self.part is not None:
            _part(self.part)
        if self.join and (self.part is not None or self.cluster is not None):
            other = "--part" if self.part is not None else "--cluster"
            raise OptionError(f"--join: wanted it alone, got {other} too; join when all parts are done")

    @property
    def chosen(self) -> Part | None:
        """The part to do; None for all of the work."""
        return None if self.part is None else _part(self.part)

    @property
    def elsewhere(self) -> bool:
        """Whether the work is done by other processes, or was: this one needs no GPU, and may have none."""
        return self.cluster is not None or self.join

    @property
    def in_parts(self) -> bool:
        """Whether files of parts are written or read."""
        return self.part is not None or self.join


def _part(typed: str) -> Part:
    """I/N as it is typed; OptionError for anything but two whole numbers, 1 <= I <= N."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", typed)
    if match is None:
        raise OptionError(f"--part: wanted I/N, as in 3/8, got {typed}")
    number, count = int(match[1]), int(match[2])
    if not 1 <= number <= count:
        raise OptionError(f"--part: wanted I/N with I from 1 to N, got {typed}; the parts of {count} are 1 to {count}")
    return Part(number, count)
