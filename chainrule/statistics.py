"""Intervals of accuracies. Knows counts, not models."""

from statistics import NormalDist


def wilson(right: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion, `right` of `n` (E. B. Wilson, 1927).

    >>> [round(end, 3) for end in wilson(10, 10)]
    [0.722, 1.0]
    """
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"wilson: wanted 0 <= right <= n and n >= 1, got right = {right}, n = {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = right / n
    centre = p + z * z / (2 * n)
    half = z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    scale = 1 + z * z / n
    low, high = (centre - half) / scale, (centre + half) / scale
    return 0.0 if right == 0 else low, 1.0 if right == n else high  # exact at the ends, whatever the rounding
