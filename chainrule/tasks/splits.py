"""Which rows go where: stratified orders and splits, functions of strata, groups and a seed. Knows no row."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 0.2  # the share of a test or validation split


def stratified_order(strata: Sequence[str], seed: int) -> NDArray[np.int64]:
    """All places (N,) in an order whose every beginning is stratified: one of each stratum, then in proportion.

    One order has the subsets of all sizes, nested. Within a stratum the seed alone orders; between strata it is
    Sainte-Laguë's method, which never takes a place back: the j-th of n_c, from 0, comes at (j + 1/2) / n_c.
    """
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    _, stratum, sizes = np.unique(np.asarray(strata, dtype=object), return_inverse=True, return_counts=True)
    stratum = stratum[shuffled]
    by_stratum = np.argsort(stratum, kind="stable")
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(strata))  # j of each
    rank[by_stratum] = np.arange(len(strata)) - np.repeat(starts, sizes)
    return shuffled[np.lexsort(((rank + 0.5) / sizes[stratum], rank > 0))]


def hold_out(
    strata: Sequence[str], groups: Sequence[str] | None, seed: int, share: float = HELD_OUT
) -> tuple[list[int], list[int]]:
    """The places that stay and those held out, each in rising order: a stratified share, every stratum left with one.

    No group is divided. None is held out where each is too large for that, or where no stratum has one to spare.
    """
    if groups is None:
        order = stratified_order(strata, seed)
        kept = max(len(order) - round(share * len(order)), len(set(strata)))
        return sorted(order[:kept].tolist()), sorted(order[kept:].tolist())
    held = _held_groups(strata, groups, seed, share)
    return np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist()


def _held_groups(strata: Sequence[str], groups: Sequence[str], seed: int, share: float) -> NDArray[np.bool_]:
    """Groups in a seeded order, each held out if that brings the strata's counts nearer to their share."""
    _, stratum = np.unique(np.asarray(strata, dtype=object), return_inverse=True)
    names, group = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    counts = np.zeros((len(names), stratum.max(initial=-1) + 1))
    np.add.at(counts, (group, stratum), 1)
    total = counts.sum(0)
    taken, held = np.zeros_like(total), np.zeros(len(names), bool)
    for name in np.random.default_rng(seed).permutation(len(names)):
        more = taken + counts[name]
        nearer = np.square(more - share * total).sum() < np.square(taken - share * total).sum()
        if nearer and (more < total).all():
            taken, held[name] = more, True
    return held[group]
