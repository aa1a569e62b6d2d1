"""Rotary positions (Su et al., 2021): a position is an angle. Knows no model.

Shapes: B sequences, T positions, K the width that is rotated.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RopeScaling:
    """How a model was stretched to a longer context than it was pretrained with.

    A rotation that turns fewer than `low` times in the original context is slowed by `factor`, one that turns more
    than `high` times is left, and between them the two are mixed (Llama 3). Where the original context is 0 all are
    slowed: the linear scaling of earlier models.
    """

    factor: float
    original_context: int = 0
    low: float = 1.0
    high: float = 4.0


def frequencies(width: int, theta: float, scaling: RopeScaling | None, device: torch.device) -> Tensor:
    """(K/2,): by how many radians a position turns each pair, θ^(-2i/K)."""
    exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    plain = 1.0 / theta**exponents
    if scaling is None:
        return plain
    turns = scaling.original_context * plain / (2 * math.pi)
    kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def rotation(
    positions: Tensor, width: int, theta: float, scaling: RopeScaling | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The cosines and sines that `rotate` takes, (1 or B, T, 1, K) each, at positions (1 or B, T)."""
    turns = frequencies(width, theta, scaling, positions.device)
    angles = positions[..., None].float() * turns  # float32: late positions need it
    angles = torch.cat((angles, angles), dim=-1)[:, :, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x_i, x_{i+K/2}) of (B, T, heads, K or more) by its angle; what lies past K stays as it is."""
    cosine, sine = rotation
    width = cosine.shape[-1]
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], rotation), x[..., width:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine
