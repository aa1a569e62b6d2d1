"""Attention: which keys each query attends to, and softmax(q kᵀ / √K) v over them. Knows shapes, no weights.

Shapes: B sequences, T positions, S keys, M of these that a mask is about, H heads, G key-value heads, K head width.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.model.batch_cache import Cache
from chainrule.model.config import Config, LayerKind
from chainrule.model.kernels import BLOCK, causal_attention, masked_attention, plain_cpu
from chainrule.model.kv_cache import causal_mask
from chainrule.model.native import operations
from chainrule.model.native.products import usable
from chainrule.model.rotary import rotation

# "causal": T queries attend to T keys, each to its own position and those before (training, prefill).
# "causal masked": the same, less what the mask hides (a window, what a cache holds).
# "masked": each query attends to what the mask allows, in any order (one new token, some positions, an encoder).
# "all": each query attends to all keys (one new token, an encoder without padding).
Pattern = Literal["causal", "causal masked", "masked", "all"]


@dataclass(frozen=True)
class AttentionContext:
    """What attention needs to know of the tokens of one call, the same for all layers of a kind."""

    pattern: Pattern
    mask: Tensor | None  # (1 or B, 1, T or 1, M), True for a key attended to; those before the last M all are
    rotation: tuple[Tensor, Tensor] | None  # cosines and sines, (1 or B, T, 1, rotary width)
    output_positions: Tensor | None = None  # (B, N): a layer's output is wanted at these alone; None: at all

    def at_positions(self, output_positions: Tensor, T: int) -> "AttentionContext":
        """That of a layer of which only these positions (B, N) of T are wanted."""
        mask = self.mask
        if self.pattern == "causal":
            mask = (torch.arange(T, device=output_positions.device) <= output_positions[..., None])[:, None]
        elif mask is not None and mask.shape[2] == 1:  # the same keys for all queries
            mask = mask.expand(-1, -1, output_positions.shape[1], -1)
        elif mask is not None:
            mask = select(mask.expand(len(output_positions), -1, -1, -1)[:, 0], output_positions)[:, None]
        return replace(self, pattern="all" if mask is None else "masked", mask=mask, output_positions=output_positions)


def select(x: Tensor, output_positions: Tensor) -> Tensor:
    """(B, T, …) at positions (B, N) of each sequence, (B, N, …)."""
    return x[torch.arange(len(output_positions), device=output_positions.device)[:, None], output_positions]


def token_positions(T: int, cache: Cache | None, device: torch.device) -> Tensor:
    """(1 or B, T) positions of the next T tokens."""
    return torch.arange(T, device=device)[None] if cache is None else cache.positions(T)


def attention_contexts(
    config: Config,
    T: int,
    cache: Cache | None,
    last: Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
) -> list[AttentionContext]:
    """What attention needs to know of the next T tokens, for each of `config.layer_kinds`.

    `last` (B,) is that of `Transformer.forward`.
    """
    positions = token_positions(T, cache, device)
    lengths = None if config.original_context is None else _sequence_lengths(T, cache, last, device)

    def context(kind: LayerKind) -> AttentionContext:
        if cache is not None:
            mask = cache.mask(T, kind.window)
        elif config.causal:  # no token attends to what follows its sequence's end
            mask = causal_mask(0, T, kind.window, device) if (kind.window or T) < T else None
        else:
            mask = _near(_real_tokens(T, last, device), T, kind.window, device)
        rope = kind.rope
        turn = None if rope is None else rotation(positions, config.head_width, rope, dtype, lengths)
        return AttentionContext(_pattern(config.causal and T > 1, mask is not None), mask, turn)

    return [context(kind) for kind in config.layer_kinds]


def _sequence_lengths(T: int, cache: Cache | None, last: Tensor | None, device: torch.device) -> Tensor:
    """(1 or B, 1 or T): how many tokens the sequence of each has."""
    if cache is not None:
        return cache.sequence_lengths(T)
    return torch.full((1, 1), T, device=device) if last is None else (last + 1)[:, None]


def _pattern(causal: bool, masked: bool) -> Pattern:
    if causal:
        return "causal masked" if masked else "causal"
    return "masked" if masked else "all"


def _real_tokens(T: int, last: Tensor | None, device: torch.device) -> Tensor | None:
    """(B, 1, 1, T): True for the tokens that are no padding; None where all are tokens."""
    return None if last is None else (torch.arange(T, device=device) <= last[:, None])[:, None, None]


def _near(mask: Tensor | None, T: int, window: int | None, device: torch.device) -> Tensor | None:
    """An encoder's mask, less what is past a window around each position; padding attends to itself."""
    if window is None or window // 2 + 1 >= T:
        return mask
    columns = torch.arange(T, device=device)
    away = (columns[:, None] - columns).abs()  # (T, T)
    near = (away <= window // 2)[None, None]
    return near if mask is None else near & mask | (away == 0)


def attend(
    query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, mask: Tensor | None, cap: float | None = None
) -> Tensor:
    """softmax(q kᵀ / √K) v over the keys of a pattern: (B, H, T, K) with (B, G, S, K) to (B, H, T, K).

    With a `cap`, scores s = q kᵀ / √K are first made cap · tanh(s / cap).
    """
    B, H, T, K = query.shape
    S = key.shape[2]
    if T >= operations.FEWEST_QUERIES and usable(query) and query.dtype == key.dtype == value.dtype:
        return operations.attend(query, key, value, pattern == "causal", mask, cap)
    if pattern == "masked" and T == 1 and key.shape[1] < H and not plain_cpu(query):
        # A GPU's masked attention would copy a key for each of its queries: these become positions instead.
        return attend(query.reshape(B, key.shape[1], -1, K), key, value, pattern, mask, cap).reshape(B, H, 1, K)
    if cap is not None:
        return _capped(query, key, value, pattern, mask, cap)
    if plain_cpu(query) and pattern in ("causal", "causal masked"):
        key, value = (x.repeat_interleave(H // x.shape[1], dim=1) if x.shape[1] < H else x for x in (key, value))
        if mask is not None:
            return masked_attention(query, key, value, mask)
        query, key, value = (x.reshape(B * H, T, K) for x in (query, key, value))
        return causal_attention(query, key, value).view(B, H, T, K)
    if mask is not None and mask.shape[3] < S:
        mask = F.pad(mask, (S - mask.shape[3], 0), value=True)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=pattern == "causal", enable_gqa=key.shape[1] != H
    )


def _capped(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, mask: Tensor | None, cap: float) -> Tensor:
    """`attend` in plain operations, some queries at once: no fused kernel bends its scores."""
    T, S, mixed = query.shape[2], key.shape[2], []
    if key.shape[1] < query.shape[1]:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    if mask is None and pattern == "causal":
        mask = torch.ones(T, S, dtype=torch.bool, device=query.device).tril()[None, None]
    if mask is not None:
        mask = F.pad(mask, (S - mask.shape[3], 0), value=True).expand(-1, -1, T, -1)
    for start in range(0, T, BLOCK):
        scores = query[:, :, start : start + BLOCK] @ key.mT * query.shape[-1] ** -0.5
        scores = cap * torch.tanh(scores / cap)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, start : start + BLOCK], -torch.inf)
        mixed.append(torch.softmax(scores, dim=-1) @ value)
    return torch.cat(mixed, dim=2)
