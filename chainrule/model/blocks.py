"""Weights in blocks of 32 values that share a scale, as GGUF stores them: from float32 and back. Knows no layer.

Shapes: R rows, C columns (a multiple of 32), b bytes of a block. A matrix is (R, C / 32 · b) bytes.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 32


class BlockKind(NamedTuple):
    """A block: a scale d in float16, perhaps a minimum m, then the whole numbers q."""

    size: int  # bytes
    number: int  # in native/transformer.cpp
    quantise: Callable[[Tensor], Tensor]  # values (N, 32) to blocks (N, b)
    dequantise: Callable[[Tensor], Tensor]  # and back


def quantise(weight: Tensor, kind: str) -> Tensor:
    """(R, C) as blocks, (R, C / 32 · b) bytes; some rows at once, so that no whole copy in float32 is made."""
    made = [
        KINDS[kind].quantise(rows.float().contiguous().view(-1, BLOCK)).view(len(rows), -1)
        for rows in weight.detach().split(4096)
    ]
    return torch.cat(made)


def dequantise(blocks: Tensor, kind: str) -> Tensor:
    """(R, C / 32 · b) bytes as (R, C) in float32: the values of the package gguf."""
    size = KINDS[kind].size
    return KINDS[kind].dequantise(blocks.reshape(-1, size)).view(len(blocks), blocks.shape[1] // size * BLOCK)


def _half(blocks: Tensor, start: int) -> Tensor:
    """(N, 1): a float16 number of each block, as float32."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _bytes(scale: Tensor) -> Tensor:
    return scale.half().view(torch.uint8)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)


def _pack(q: Tensor) -> Tensor:
    """Numbers below 16, (N, 32): the first half of a block in the low four bits of its bytes."""
    low, high = q.to(torch.uint8).chunk(2, dim=1)
    return low | (high << 4)


def _unpack(packed: Tensor) -> Tensor:
    return torch.cat((packed & 15, packed >> 4), dim=1).float()


def _to_q8_0(x: Tensor) -> Tensor:
    scale = x.abs().amax(1, keepdim=True) / 127
    q = x * _inverse(scale)
    q = torch.sign(q) * (q.abs() + 0.5).floor()  # away from 0 at halves, as C rounds
    return torch.cat((_bytes(scale), q.to(torch.int8).view(torch.uint8)), dim=1)


def _from_q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * blocks[:, 2:].view(torch.int8).float()


def _to_q4_0(x: Tensor) -> Tensor:
    greatest = x.gather(1, x.abs().argmax(1, keepdim=True))
    scale = greatest / -8
    q = (x * _inverse(scale) + 8.5).trunc().clamp(0, 15)
    return torch.cat((_bytes(scale), _pack(q)), dim=1)


def _from_q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_unpack(blocks[:, 2:]) - 8)


def _to_q4_1(x: Tensor) -> Tensor:
    least = x.amin(1, keepdim=True)
    scale = (x.amax(1, keepdim=True) - least) / 15
    q = ((x - least) * _inverse(scale) + 0.5).trunc().clamp(0, 15)
    return torch.cat((_bytes(scale), _bytes(least), _pack(q)), dim=1)


def _from_q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _unpack(blocks[:, 4:]) + _half(blocks, 2)


KINDS: Mapping[str, BlockKind] = {
    "Q8_0": BlockKind(34, 3, _to_q8_0, _from_q8_0),
    "Q4_0": BlockKind(18, 4, _to_q4_0, _from_q4_0),
    "Q4_1": BlockKind(20, 5, _to_q4_1, _from_q4_1),
}
