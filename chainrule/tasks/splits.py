"""Stratified orders and splits: functions of strata, groups and a seed. Knows indices and labels, not rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 0.2  # the share of a test or validation split


def stratified_order(strata: Sequence[str], seed: int) -> NDArray[np.int64]:
    """All indices (N,) in an order of which every prefix is stratified: one of each stratum, then in proportion.

    So prefixes are nested subsets of all sizes. Within a stratum the seed alone orders; between strata it is
    Sainte-Laguë's method, in which a longer prefix only adds: the j-th of n_c, from 0, comes at (j + 1/2) / n_c.
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
    """The indices kept and those held out, each rising: a stratified share is held out, and every stratum keeps one.

    No group is divided. None is held out where every group is too large, or where every stratum has one row.
    """
    if groups is None:
        order = stratified_order(strata, seed)
        kept = max(len(order) - round(share * len(order)), len(set(strata)))
        return sorted(order[:kept].tolist()), sorted(order[kept:].tolist())
    held_out = _held_out_groups(strata, groups, seed, share)
    return np.flatnonzero(~held_out).tolist(), np.flatnonzero(held_out).tolist()


def _held_out_groups(strata: Sequence[str], groups: Sequence[str], seed: int, share: float) -> NDArray[np.bool_]:
    """Groups in a seeded order, each held out if that brings the strata's counts nearer to their share."""
    _, stratum = np.unique(np.asarray(strata, dtype=object), return_inverse=True)
    names, group = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    counts = np.zeros((len(names), stratum.max(initial=-1) + 1))
    np.add.at(counts, (group, stratum), 1)
    total = counts.sum(0)
    taken, held_out = np.zeros_like(total), np.zeros(len(names), bool)
    for name in np.random.default_rng(seed).permutation(len(names)):
        more = taken + counts[name]
        nearer = np.square(more - share * total).sum() < np.square(taken - share * total).sum()
        if nearer and (more < total).all():
            taken, held_out[name] = more, True
    return held_out[group]


def keep_every_label(
    labels: Sequence[tuple[str, ...]], groups: Sequence[str] | None, kept: Sequence[int], held_out: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The same split of rows with several labels each, but a row with a label that no kept row has is kept too, with
    the others of its group: the strata of such rows are of the rarest label alone."""
    kept, left = list(kept), list(held_out)
    known = {label for index in kept for label in labels[index]}
    for index in held_out:
        if index in left and not known.issuperset(labels[index]):
            moved = [index] if groups is None else [other for other in left if groups[other] == groups[index]]
            known.update(label for other in moved for label in labels[other])
            left = [other for other in left if other not in moved]
            kept += moved
    return sorted(kept), left
