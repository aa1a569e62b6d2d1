"""What to run: which methods, at how many labels, with which seeds, and in which order. Runs nothing.

N is the number of labels a method may use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chainrule.comparison.methods import METHODS
from chainrule.comparison.methods.method import Method
from chainrule.errors import OptionError

if TYPE_CHECKING:
    from chainrule.comparison.study import Study

_GROWTH = 4  # from one N to the next


@dataclass(frozen=True)
class Bounds:
    """Which part of the grid is run; None is all of it. Raises OptionError for unknown methods and bad numbers."""

    methods: tuple[str, ...] | None = None  # None: all that the task and the model allow
    sizes: tuple[int, ...] | None = None  # labels N; None: 4, 16, 64, ... and all; without labels is zero-shot alone
    seeds: int = 5
    limit: int | None = None  # test items
    minutes: float | None = None  # rows that would end later are left out

    def __post_init__(self) -> None:
        known = [method.name for method in METHODS]
        for name in self.methods or ():
            if name not in known:
                raise OptionError(f"--methods: wanted some of {', '.join(known)}, got {name!r}")
        for size in self.sizes or ():
            if size < 0:
                raise OptionError(f"--sizes: wanted numbers of labels, from 0, got {size}")
        if self.methods == () or self.sizes == ():
            raise OptionError("--methods, --sizes: wanted at least one, got none; leave the option out for all of them")
        for name, value, least in (("seeds", self.seeds, 1), ("limit", self.limit, 2)):
            if value is not None and value < least:
                raise OptionError(f"--{name}: wanted at least {least}, got {value}")
        if self.minutes is not None and not self.minutes > 0:
            raise OptionError(f"--minutes: wanted a time above 0, got {self.minutes}")


class Key(NamedTuple):
    """Which row it is."""

    method: str
    labels: int  # N
    seed: int


class Planned(NamedTuple):
    """A row that is to be run."""

    key: Key
    method: Method
    seconds: float  # that it takes alone, estimated
    seconds_a_text: float = 0.0  # of these, for each text whose features other rows need too; 0: there are none
    tests: int = 0  # how many of such texts are test items


def grid_sizes(smallest: int, everything: int) -> tuple[int, ...]:
    """The N of the grid: the smallest, powers of 4 that keep their distance from both ends, and all labels.

    >>> grid_sizes(4, 6920)
    (4, 16, 64, 256, 1024, 6920)
    """
    between, size = [], 1
    while (size := size * _GROWTH) <= everything / 2:
        if size >= 2 * smallest:
            between.append(size)
    return tuple(sorted({min(smallest, everything), *between, everything}))


def checked_sizes(sizes: Sequence[int], least: int, everything: int) -> tuple[int, ...]:
    """The sizes that a user asked for, rising, without 0; OptionError for one that cannot be."""
    for size in sizes:
        if size != 0 and not least <= size <= everything:
            raise OptionError(
                f"--sizes: wanted 0, or from {least} (fewer teach nothing) to {everything} (all of train), got {size}"
            )
    return tuple(sorted(set(sizes) - {0}))


def plan(study: "Study", methods: Sequence[Method], sizes: Sequence[int], seeds: int, tests: int) -> list[Planned]:
    """The rows, the cheapest first: in the order of what a method takes in all up to this N, so that one with a few
    labels comes before another with many. tests: how many test items each row answers."""
    everything = len(study.task.train)
    planned: list[tuple[float, int, Planned]] = []
    for order, method in enumerate(methods):
        in_all, before = 0.0, 0
        for labels in method.sizes(study, sizes):
            seconds = method.seconds(study, labels, tests)
            drawn = range(seeds if method.seeds_matter(labels, everything) else 1)
            a_text = study.seconds_a_text if method.shares_features else 0.0
            in_all, before = in_all + len(drawn) * max(0.0, seconds - (tests + before) * a_text), labels
            keys = [Key(method.name, labels, seed) for seed in drawn]
            planned += [(in_all, order, Planned(key, method, seconds, a_text, tests)) for key in keys]
    return [row for *_, row in sorted(planned, key=lambda each: (*each[:2], each[2].key))]
