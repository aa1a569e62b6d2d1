"""Llama 3's scaling of rotary positions in a GGUF. Knows no other field.

A GGUF has the factors by which rotations are slowed, config.json the numbers that these are made of. We write the
numbers too, under a key of our own: from a few factors alone they cannot always be told.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import ModelError
from chainrule.storage.gguf import GGUFFile

SCALING_KEY = "chainrule.rope.scaling"
SCALING_FIELDS = ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")


def shortest(value: float) -> float:
    """A float32 as the shortest decimal that is read back as it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def frequency_factors(width: int, theta: float, scaling: Mapping[str, Any]) -> NDArray[np.float32]:
    """(K/2,): by how much each rotation is slowed. `scaling` has the names of a config.json's rope_parameters."""
    plain = theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    low, high, factor = (float(scaling[name]) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - kept) / factor + kept), np.float32)


def llama3_scaling(file: GGUFFile, factors: NDArray[np.float32], theta: float) -> dict[str, Any]:
    """The rope_parameters of which `factors` are made. ModelError where none of Llama 3's kind gives them.

    Between unchanged and slowed by the whole factor, 1 / factors rises linearly with the turns that a rotation makes
    in the original context: the line gives the other three numbers, of which one is free; `low_freq_factor` is 1.
    """
    width, factor = 2 * len(factors), shortest(factors.max())
    told = file.get(SCALING_KEY, list)
    plain = theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    candidates = [(8192, 1.0, 4.0)]
    if told is not None and [type(each) for each in told] == [float] * 3:
        candidates.insert(0, (round(told[0]), shortest(told[1]), shortest(told[2])))
    between = (factors > 1) & (factors < factors.max())
    if factor > 1 and between.sum() >= 2:
        kept = (1 / factors[between].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
        slope, start = np.polyfit(plain[between], kept, 1)
        if start < 0 < slope:
            span = -1 / start  # high - low, for low = 1
            candidates.append((round(slope * span * 2 * math.pi), 1.0, round(1 + span, 3)))
    for original, low, high in candidates:
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "original_max_position_embeddings": original,
            "low_freq_factor": low,
            "high_freq_factor": high,
        }
        if np.allclose(frequency_factors(width, theta, scaling), factors, rtol=1e-4):
            return scaling
    raise ModelError(
        f"{file.path}: wanted a tensor rope_freqs like that of Llama 3's models, got other numbers, which are not"
        " supported"
    )
