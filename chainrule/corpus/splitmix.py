"""SplitMix64: pseudo-random numbers that are a function of a number (Steele, Lea and Flood, 2014)."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Words = TypeVar("Words", int, NDArray[np.uint64])
_STEP, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def splitmix64(states: Words) -> Words:
    """The generator's output in each state, 64 bits."""
    z: Any = states + _STEP & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    words: Words = z ^ z >> 31
    return words


def uniform(number: int) -> float:
    """In [0, 1): the `number`-th output (from 0) of the generator seeded with 0."""
    return splitmix64(number * _STEP & _MASK) / 2**64
