"""Attention, norms, gates and rotations of many rows by the compiled functions, each in one pass over memory.

Knows tensors, no layer.

Each function wants activations for which `usable` is true. Their values are those of the plain operations to rounding:
in bfloat16 only results are rounded, not what is between.

Shapes: B sequences, T queries, S keys, M of these that a mask is about, H heads, G key-value heads, K head width.
"""

import ctypes

import torch
from torch import Tensor

from chainrule.model.native.library import AttentionCall, NormCall, Strides, library

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
FEWEST_QUERIES = 8  # with fewer, putting keys in order takes longer than what follows


def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Tensor | None, cap: float | None) -> Tensor:
    """softmax(q kᵀ / √K) v: (B, H, T, K) with (B, G, S, K) to (B, H, T, K); `cap` as in `chainrule.model.attention`.

    `causal`: the queries are at the last T positions. `mask`, (1 or B, 1, 1 or T, M), is of the last M keys.
    """
    B, H, T, K = query.shape
    mixed = torch.empty(B, T, H, K, dtype=query.dtype).transpose(1, 2)
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    masked, strides = 0, (0, 0)
    if mask is not None:
        mask = mask.contiguous()
        masked = mask.shape[3]
        strides = (mask.stride(0) if len(mask) > 1 else 0, masked if mask.shape[2] > 1 else 0)
    call = AttentionCall(
        _number(query), B, H, key.shape[1], T, key.shape[2], K, int(causal), query.data_ptr(), key.data_ptr(),
        value.data_ptr(), mixed.data_ptr(), *(Strides(*x.stride()[:3]) for x in (query, key, value, mixed)),
        None if mask is None else mask.data_ptr(), masked, *strides, K**-0.5, cap or 0.0,
    )  # fmt: skip
    _compiled().chainrule_attend(ctypes.addressof(call), torch.get_num_threads())
    return mixed


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, layer: bool, epsilon: float, offset: float) -> Tensor:
    """LayerNorm (`layer`) or RMSNorm over the last dimension of x; the gains are `offset` + `weight`."""
    x, gain = x.contiguous(), weight.detach().float()
    shift = None if bias is None else bias.detach().float()
    call = NormCall(gain.data_ptr(), None if shift is None else shift.data_ptr(), int(layer), epsilon, offset)
    y, width = torch.empty_like(x), x.shape[-1]
    rows, threads = x.numel() // width, torch.get_num_threads()
    _compiled().chainrule_norm(ctypes.addressof(call), _number(x), x.data_ptr(), y.data_ptr(), rows, width, threads)
    return y


def gate(x: Tensor, activation: str) -> Tensor:
    """activation(gate) · up of x (…, 2 F), which has the gate first; (…, F)."""
    x = x.contiguous()
    width = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], width)
    rows, threads = y.numel() // width, torch.get_num_threads()
    number = ACTIVATIONS[activation]
    _compiled().chainrule_gate(number, _number(x), x.data_ptr(), y.data_ptr(), rows, width, threads)
    return y


def best(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (B, V) in float32: the most probable tokens (B,), the first of several, and log Σ e^u (B,)."""
    logits = logits.contiguous()
    tokens, totals = torch.empty(len(logits), dtype=torch.long), torch.empty(len(logits))
    rows, width = logits.shape
    _compiled().chainrule_best(
        logits.data_ptr(), rows, width, tokens.data_ptr(), totals.data_ptr(), torch.get_num_threads()
    )
    return tokens, totals


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """As `chainrule.model.rotary.rotate`: (B, T, heads, K), by cosines and sines (1 or B, T, 1, R)."""
    B, T, heads, K = x.shape
    if x.stride()[2:] != (K, 1) or x.stride(0) != T * x.stride(1):
        x = x.contiguous()
    cosine, sine = (each.float().contiguous() for each in rotation)
    y = torch.empty(B, T, heads, K, dtype=x.dtype)
    width, angles = cosine.shape[-1], cosine.shape[0] * cosine.shape[1]
    _compiled().chainrule_rotate(
        _number(x), x.data_ptr(), x.stride(1), y.data_ptr(), cosine.data_ptr(), sine.data_ptr(), B * T, angles, heads,
        K, width, torch.get_num_threads(),
    )  # fmt: skip
    return y


def _number(x: Tensor) -> int:
    """Of the precision of activations, in attention.h."""
    return int(x.dtype == torch.bfloat16)


def _compiled() -> ctypes.CDLL:
    compiled = library()
    assert compiled is not None, "`usable` says so"
    return compiled
