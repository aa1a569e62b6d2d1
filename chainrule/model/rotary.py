"""Rotary positions (Su et al., 2021): a position is an angle. Knows no model.

Shapes: B sequences, T positions, K the width that is rotated.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class RopeScaling:
    """How a model's rotations are slowed for a longer context than it was pretrained with.

    A rotation that turns fewer than `low` times in the original context is slowed by `factor`, one that turns more
    than `high` times is unchanged, and between these it is a mix of the two (Llama 3). An original context of 0 slows
    all of them: the linear scaling of earlier models.
    """

    factor: float
    original_context: int = 0
    low: float = 1.0
    high: float = 4.0


@dataclass(frozen=True)
class LongRope:
    """Rotations each slowed by a number of its own (LongRoPE: Ding et al., 2024). A sequence longer than the original
    context is rotated by other numbers, from its first token on."""

    short: tuple[float, ...]  # by how much each is slowed in sequences of up to the original context
    long: tuple[float, ...]  # in longer ones
    magnitude: float  # what cosines and sines are multiplied by
    original_context: int
    whole_context: int


@dataclass(frozen=True)
class Rope:
    """The rotary positions of a layer: its base θ, a scaling, and how much of a head's width is rotated."""

    theta: float = 10_000.0
    scaling: RopeScaling | LongRope | None = None
    width: int | None = None  # None: all of it


def frequencies(width: int, rope: Rope, device: torch.device, long: bool = False) -> Tensor:
    """(K/2,): by how many radians a position turns each pair, θ^(-2i/K). `long`: in a sequence longer than a LongRope's
    original context."""
    exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    plain, scaling = 1.0 / rope.theta**exponents, rope.scaling
    if scaling is None:
        return plain
    if isinstance(scaling, LongRope):
        return plain / _numbers(scaling.long if long else scaling.short, device)
    turns = scaling.original_context * plain / (2 * math.pi)
    kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _numbers(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """A GPU has them once: a copy from the CPU would wait for it, and could not be part of a CUDA graph."""
    return _on_gpu(numbers, device) if device.type == "cuda" else torch.tensor(numbers).to(device)


@cache
def _on_gpu(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(numbers, device=device)


def rotation(
    positions: Tensor, head_width: int, rope: Rope, dtype: torch.dtype, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The cosines and sines that `rotate` takes, (1 or B, T, 1, K) each, at positions (1 or B, T).

    `lengths` (1 or B, 1 or T): of each token's sequence, for a LongRope; by default within the original context.
    """
    width = rope.width or head_width
    turns = frequencies(width, rope, positions.device)
    if isinstance(rope.scaling, LongRope) and lengths is not None:
        longer = lengths > rope.scaling.original_context
        turns = torch.where(longer[..., None], frequencies(width, rope, positions.device, long=True), turns)
    angles = positions[..., None].float() * turns  # float32: late positions need it
    angles = torch.cat((angles, angles), dim=-1)[:, :, None]
    if isinstance(rope.scaling, LongRope):
        return (angles.cos() * rope.scaling.magnitude).to(dtype), (angles.sin() * rope.scaling.magnitude).to(dtype)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x_i, x_{i+K/2}) of (B, T, heads, K or more) by its angle; the rest, past K, is unchanged."""
    cosine, sine = rotation
    width = cosine.shape[-1]
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], rotation), x[..., width:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine
