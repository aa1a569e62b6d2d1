"""What to run: which methods, at how many labels, with which seeds, and in which order. Knows no model; runs nothing.

N is the number of labels a method may use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chainrule.errors import OptionError

PROMPTED = ("zero-shot", "in-context", "in-context-nearest")
FINETUNED = ("head", "full")
BASELINES = ("majority", "bag-of-words", "random-weights")  # what anyone should ask for
METHODS = (*PROMPTED, *FINETUNED, *BASELINES)
SHOTS = 16  # demonstrations in a prompt, at most
_GROWTH = 4  # from one N to the next
_FIXED_SETS = ("zero-shot", "in-context")  # what these are shown does not grow with N for ever


@dataclass(frozen=True)
class Bounds:
    """What is run of the grid; None is all of it. Raises OptionError for a method that is none, and for bad numbers."""

    methods: tuple[str, ...] | None = None  # None: all that the task and the model allow
    sizes: tuple[int, ...] | None = None  # labels N; None: 4, 16, 64, ... and all; without labels is zero-shot alone
    seeds: int = 5
    limit: int | None = None  # test items
    minutes: float | None = None  # rows that would end later are left out

    def __post_init__(self) -> None:
        for method in self.methods or ():
            if method not in METHODS:
                raise OptionError(f"methods: wanted some of {', '.join(METHODS)}, got {method!r}")
        for size in self.sizes or ():
            if size < 0:
                raise OptionError(f"sizes: wanted numbers of labels, from 0, got {size}")
        if self.methods == () or self.sizes == ():
            raise OptionError("methods and sizes: wanted at least one, got none; leave the option out for all of them")
        for name, value, least in (("seeds", self.seeds, 1), ("limit", self.limit, 2)):
            if value is not None and value < least:
                raise OptionError(f"{name}: wanted at least {least}, got {value}")
        if self.minutes is not None and not self.minutes > 0:
            raise OptionError(f"minutes: wanted a time above 0, got {self.minutes}")


class Key(NamedTuple):
    """What tells a row from all others."""

    method: str
    labels: int  # N
    seed: int


class Planned(NamedTuple):
    """A row that is to be run."""

    key: Key
    shots: int  # demonstrations asked for
    seconds: float  # that it will take, estimated


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
                f"sizes: wanted 0, or from {least} (one label a class) to {everything} (all of train), got {size}"
            )
    return tuple(sorted(set(sizes) - {0}))


def seeds_matter(method: str, labels: int, everything: int) -> bool:
    """Whether anything in a row is drawn: its labels, its demonstrations, its initialisation or its order."""
    all_of_them = labels == everything
    return method != "zero-shot" and not (all_of_them and method in ("majority", "in-context-nearest"))


def plan(
    methods: Sequence[str],
    sizes: Sequence[int],
    seeds: int,
    *,
    everything: int,
    room: int,
    seconds: Callable[[str, int, int], float],
) -> list[Planned]:
    """The rows, cheapest first.

    everything: how many labels there are; room: demonstrations that fit into a prompt; seconds: what a method, given N
    and shots, will take.
    """
    planned = []
    for method in methods:
        for labels in _sizes_of(method, sizes, min(SHOTS, room)):
            shots = min(labels, SHOTS, max(1, room)) if method.startswith("in-context") else 0
            estimate = seconds(method, labels, shots)
            repeated = range(seeds if seeds_matter(method, labels, everything) else 1)
            planned += [Planned(Key(method, labels, seed), shots, estimate) for seed in repeated]
    return sorted(planned, key=lambda row: (row.seconds, METHODS.index(row.key.method), row.key))


def _sizes_of(method: str, sizes: Sequence[int], shots: int) -> Sequence[int]:
    if method == "zero-shot":
        return (0,)
    if method == "in-context":  # beyond the first N that fills the prompt, labels would change nothing
        return [size for place, size in enumerate(sizes) if place == 0 or sizes[place - 1] < shots]
    return sizes


def still_holds(method: str) -> bool:
    """Whether a method's last row stands for larger N too, as what it is shown does not grow any more."""
    return method in _FIXED_SETS
