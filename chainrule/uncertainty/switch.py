"""From how many labels on one method stays ahead of another. Knows the grid's sizes, not the methods."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.errors import ChainruleError
from chainrule.uncertainty.tables import group_sums

WEIGHTS_IN_MEMORY = 2**20  # of one block of resamples
KEPT_IN_MEMORY = 2**26  # draws of items, of two bytes, that are kept for other pairs

_Draws = tuple[NDArray[np.uint16], NDArray[np.uint16]]  # how often each seed (R, S) and each item (R, M) is drawn


class SwitchPoint(NamedTuple):
    """Sizes of the grid; None where the second method is not ahead even at the largest."""

    at: int | None
    low: int | None  # the ends of the interval: the middle 95 % of the resamples
    high: int | None
    never: float  # the share of resamples in which the second is not ahead at the largest size


def switch_point(
    sizes: Sequence[int],
    a: ArrayLike,
    b: ArrayLike,
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> SwitchPoint:
    """The smallest of `sizes`, which rise, from which b's mean stays above a's; a and b are (sizes, S, M).

    Seeds and items (or groups of them) are resampled, the same for both methods at every size, for the interval.
    Nothing is estimated for sizes outside the grid.
    """
    lead = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    if lead.ndim != 3 or lead.size == 0 or len(lead) != len(sizes) or list(sizes) != sorted(set(sizes)):
        raise ChainruleError(f"switch_point: wanted rising sizes and (sizes, S, M), got {list(sizes)} and {lead.shape}")
    lead = group_sums(lead, groups)  # (sizes, S, G)
    grid = [*sizes, None]
    first = int(_first_stable(lead.sum(axis=(1, 2))[None])[0])
    switches = np.sort(np.concatenate([_first_stable(means) for means in _resampled(lead, resamples, seed)]))
    low, high = (int(index) for index in np.quantile(switches, [0.025, 0.975], method="nearest"))
    return SwitchPoint(grid[first], grid[low], grid[high], float((switches == len(sizes)).mean()))


def _first_stable(leads: NDArray[np.float64]) -> NDArray[np.int64]:
    """(R, sizes) -> (R,): the first index from which all are above 0; the number of sizes where the last is not."""
    ahead = (leads > 0)[:, ::-1]
    return leads.shape[1] - np.cumprod(ahead, axis=1).sum(axis=1)


def _resampled(lead: NDArray[np.float64], resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Sums of (sizes, S, M) over seeds and items drawn with replacement, in blocks (R, sizes)."""
    _, S, M = lead.shape
    draw = _drawn_once if resamples * M <= KEPT_IN_MEMORY else _drawn
    for seeds, items in draw(resamples, max(1, WEIGHTS_IN_MEMORY // M), S, M, seed):
        by_seed = np.tensordot(items.astype(np.float64), lead, axes=(1, 2))  # (R, sizes, S)
        yield np.einsum("rns,rs->rn", by_seed, seeds.astype(np.float64))


def _drawn(resamples: int, block: int, S: int, M: int, seed: int) -> Iterator[_Draws]:
    """Of S seeds and M items with replacement, in blocks of R resamples, at most `block`."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, block):
        R = min(block, resamples - start)
        yield _times_drawn(rng, R, S), _times_drawn(rng, R, M)


@lru_cache(maxsize=1)
def _drawn_once(resamples: int, block: int, S: int, M: int, seed: int) -> list[_Draws]:
    """The same, which all pairs of a table have in common."""
    return list(_drawn(resamples, block, S, M, seed))


def _times_drawn(rng: np.random.Generator, resamples: int, n: int) -> NDArray[np.uint16]:
    """(R, n): how often each of n is among n draws with replacement."""
    draws = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(draws.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.uint16)
