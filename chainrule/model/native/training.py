"""What stands between the linear maps of a Transformer in training, by the compiled functions. Knows tensors, no model.

They take float32 on a CPU. What torch computes in five to twenty operations, each over all activations, they read and
write once; the operations are those of `layers` and `kernels`, which serve wherever these do not.

Shapes: B sequences, T positions, H heads, G key-value heads, K head width, F hidden width, N rows, D width.
"""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chainrule.model.native.library import training_library

WIDEST_HEAD = 1024  # with MOST_POSITIONS, a limit of what attention keeps for each thread: 9 T K floats
MOST_POSITIONS = 1024  # with more, products by torch over all heads are as fast
SMALL_MATRIX = 2**17  # numbers of a matrix whose Newton-Schulz steps stay in a core's cache
SMALL_MLP = 2**18  # numbers of an MLP's weights
MOST_THREADS = 16  # each adds up gradients of its own
_REGISTER = 16  # floats of the widest
_INTEGER, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class _Attention(ctypes.Structure):
    _fields_ = (
        ("sequences", _INTEGER), ("positions", _INTEGER), ("heads", _INTEGER), ("key_value_heads", _INTEGER),
        ("head_width", _INTEGER), ("rotary_width", _INTEGER), ("scale", _FLOAT), ("epsilon", _FLOAT),
        ("query_key_value", _POINTER), ("query_gain", _POINTER), ("key_gain", _POINTER), ("cosine", _POINTER),
        ("sine", _POINTER), ("mixed", _POINTER), ("log_sums", _POINTER),
    )  # fmt: skip


class _AttentionGradient(ctypes.Structure):
    _fields_ = (
        ("mixed", _POINTER), ("query_key_value", _POINTER), ("query_gain", _POINTER), ("key_gain", _POINTER),
    )  # fmt: skip


class _MLP(ctypes.Structure):
    _fields_ = (
        ("rows", _INTEGER), ("width", _INTEGER), ("hidden", _INTEGER), ("epsilon", _FLOAT), ("h", _POINTER),
        ("gain", _POINTER), ("up_weight", _POINTER), ("down_weight", _POINTER), ("gate_and_up", _POINTER),
        ("out", _POINTER), ("up_across", _POINTER), ("down_across", _POINTER),
    )  # fmt: skip


class _MLPGradient(ctypes.Structure):
    _fields_ = (
        ("out", _POINTER), ("h", _POINTER), ("gain", _POINTER), ("up_weight", _POINTER), ("down_weight", _POINTER),
    )  # fmt: skip


class Heads(NamedTuple):
    """How attention reads what a layer's first map computes."""

    heads: int
    key_value_heads: int
    head_width: int
    scale: float  # of the scores
    epsilon: float  # of the norms


def usable(x: Tensor) -> bool:
    """Whether the compiled functions take x: float32 on a CPU, outside of torch.compile, where there are any."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and training_library() is not None
    )


def serves(x: Tensor, layer: nn.Module) -> bool:
    """Whether the compiled functions compute a layer from x: those of a layer in training, of an x on whose values a
    gradient will be asked for."""
    return layer.training and x.requires_grad and usable(x)


def _compiled() -> ctypes.CDLL:
    compiled = training_library()
    assert compiled is not None, "usable says whether there are compiled functions"
    return compiled


class _CausalAttention(torch.autograd.Function):
    """softmax(q kᵀ · scale + causal mask) v from (B, T, (H + 2 G) K), norms and rotation of q and k included."""

    @staticmethod
    def forward(
        ctx: Any,
        query_key_value: Tensor,
        query_gain: Tensor | None,
        key_gain: Tensor | None,
        cosine: Tensor | None,
        sine: Tensor | None,
        heads: Heads,
    ) -> Tensor:
        B, T, _ = query_key_value.shape
        mixed = torch.empty(B, T, heads.heads * heads.head_width)
        log_sums = torch.empty(B, heads.heads, T)
        ctx.heads = heads
        tensors = (query_key_value, query_gain, key_gain, cosine, sine, mixed, log_sums)
        ctx.save_for_backward(*tensors)
        described = _described(heads, *tensors)
        _compiled().chainrule_attention(ctypes.addressof(described), torch.get_num_threads())
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved, threads = ctx.saved_tensors, torch.get_num_threads()
        gradient = gradient.contiguous()
        d_projected = torch.empty_like(saved[0])
        d_gains = torch.zeros(2, threads, ctx.heads.head_width)
        described = _described(ctx.heads, *saved)
        wanted = _AttentionGradient(*(x.data_ptr() for x in (gradient, d_projected, d_gains[0], d_gains[1])))
        _compiled().chainrule_attention_gradient(ctypes.addressof(described), ctypes.addressof(wanted), threads)
        d_query_gain, d_key_gain = (None, None) if saved[1] is None else d_gains.sum(1).unbind()
        return d_projected, d_query_gain, d_key_gain, None, None, None


def _described(
    heads: Heads,
    query_key_value: Tensor,
    query_gain: Tensor | None,
    key_gain: Tensor | None,
    cosine: Tensor | None,
    sine: Tensor | None,
    mixed: Tensor,
    log_sums: Tensor,
) -> _Attention:
    tensors = (query_key_value, query_gain, key_gain, cosine, sine, mixed, log_sums)
    B, T, _ = query_key_value.shape
    return _Attention(
        B, T, heads.heads, heads.key_value_heads, heads.head_width, 0 if cosine is None else cosine.shape[-1],
        heads.scale, heads.epsilon, *(None if x is None else x.data_ptr() for x in tensors),
    )  # fmt: skip


def causal_attention(
    query_key_value: Tensor,
    gains: tuple[Tensor, Tensor] | None,
    rotation: tuple[Tensor, Tensor] | None,
    heads: Heads,
) -> Tensor:
    """softmax(q kᵀ · scale) v over each position and those before it: (B, T, (H + 2 G) K) to (B, T, H K).

    gains: of the RMSNorms of queries and keys, (K,) each; None: no norms. rotation: cosines and sines, (1, T, 1, at
    most K) each.
    """
    query_gain, key_gain = (None, None) if gains is None else (gain.contiguous() for gain in gains)
    cosine, sine = (None, None) if rotation is None else (part.contiguous() for part in rotation)
    mixed: Tensor = _CausalAttention.apply(  # type: ignore[no-untyped-call]
        query_key_value.contiguous(), query_gain, key_gain, cosine, sine, heads
    )
    return mixed


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor) -> Tensor:
        rows, hidden = gate_and_up.numel() // gate_and_up.shape[-1], gate_and_up.shape[-1] // 2
        ctx.save_for_backward(gate_and_up)
        product = torch.empty(*gate_and_up.shape[:-1], hidden)
        _compiled().chainrule_swiglu(
            gate_and_up.data_ptr(), rows, hidden, product.data_ptr(), torch.get_num_threads()
        )  # fmt: skip
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (gate_and_up,) = ctx.saved_tensors
        gradient, found = gradient.contiguous(), torch.empty_like(gate_and_up)
        hidden = gradient.shape[-1]
        _compiled().chainrule_swiglu_gradient(
            gate_and_up.data_ptr(), gradient.data_ptr(), gradient.numel() // hidden, hidden, found.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return found


class _GatedMLP(torch.autograd.Function):
    """h + W_down (silu(gate) · up) with gate, up = W_up RMSNorm(h)."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, gain: Tensor, up: Tensor, down: Tensor, epsilon: float) -> Tensor:
        gate_and_up, out = torch.empty(*h.shape[:-1], len(up)), torch.empty_like(h)
        across = torch.empty(up.numel()), torch.empty(down.numel())
        ctx.epsilon = epsilon
        ctx.save_for_backward(h, gain, up, down, gate_and_up)
        described = _MLP(
            h.numel() // h.shape[-1], h.shape[-1], down.shape[1], epsilon,
            *(x.data_ptr() for x in (h, gain, up, down, gate_and_up, out, *across)),
        )  # fmt: skip
        _compiled().chainrule_mlp(ctypes.addressof(described), torch.get_num_threads())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved, threads = ctx.saved_tensors, torch.get_num_threads()
        h, gain, up, down, _ = saved
        gradient, d_h = gradient.contiguous(), torch.empty_like(h)
        parts = [torch.zeros(threads, *x.shape) for x in (gain, up, down)]
        described = _MLP(
            h.numel() // h.shape[-1], h.shape[-1], down.shape[1], ctx.epsilon, *(x.data_ptr() for x in saved)
        )
        wanted = _MLPGradient(*(x.data_ptr() for x in (gradient, d_h, *parts)))
        _compiled().chainrule_mlp_gradient(ctypes.addressof(described), ctypes.addressof(wanted), threads)
        return d_h, *(part.sum(0) for part in parts), None


def gated_mlp(h: Tensor, gain: Tensor, up: Tensor, down: Tensor, epsilon: float) -> Tensor:
    """h + W_down (silu(gate) · up) with gate, up = W_up RMSNorm(h): h (…, D), gain (D,), W_up (2 F, D), W_down (D, F).

    The activations of some rows at a time stay in a core's cache from the norm to the sum.
    """
    out: Tensor = _GatedMLP.apply(h.contiguous(), gain, up, down, epsilon)  # type: ignore[no-untyped-call]
    return out


def small_mlp(up: Tensor, down: Tensor) -> bool:
    """Whether `gated_mlp` takes these weights: D and F whole registers, and all of them in a core's cache, since every
    few rows are multiplied by all of them; for larger ones the products of torch are as fast."""
    whole = up.shape[1] % _REGISTER == 0 and down.shape[1] % _REGISTER == 0
    plain = type(up) is nn.Parameter and type(down) is nn.Parameter and up.is_contiguous() and down.is_contiguous()
    small = up.numel() + down.numel() <= SMALL_MLP and torch.get_num_threads() <= MOST_THREADS
    return whole and plain and small and up.dtype == down.dtype == torch.float32


def swiglu(gate_and_up: Tensor) -> Tensor:
    """silu(gate) · up (Shazeer, 2020): (…, 2 F) to (…, F)."""
    product: Tensor = _SwiGLU.apply(gate_and_up.contiguous())  # type: ignore[no-untyped-call]
    return product


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x / √(mean(x²) + ε) · weight over the last dimension, and the factors 1 / √(mean(x²) + ε), (…, 1)."""
    width = x.shape[-1]
    normal, scale = torch.empty_like(x), torch.empty(*x.shape[:-1], 1)
    _compiled().chainrule_rms_norm(
        x.data_ptr(), weight.data_ptr(), epsilon, scale.numel(), width, normal.data_ptr(), scale.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return normal, scale


def rms_norm_gradient(x: Tensor, weight: Tensor, scale: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight from that of what `rms_norm` returned."""
    threads, gradient = torch.get_num_threads(), gradient.contiguous()
    d_x, d_weight = torch.empty_like(x), torch.zeros(threads, x.shape[-1])
    _compiled().chainrule_rms_norm_gradient(
        x.data_ptr(), weight.data_ptr(), scale.data_ptr(), gradient.data_ptr(), scale.numel(), x.shape[-1],
        d_x.data_ptr(), d_weight.data_ptr(), threads,
    )  # fmt: skip
    return d_x, d_weight.sum(0)


def cross_entropy(logits: Tensor, targets: Tensor, factor: float) -> Tensor:
    """-log softmax(logits)[target] of each row, (N,); contiguous logits (N, V) become their gradient times `factor`,
    unless it is 0. IndexError for a target that is none of the V."""
    targets, losses = targets.long().contiguous(), torch.empty(len(logits))
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]:
        raise IndexError(f"targets: wanted numbers from 0 to {logits.shape[1] - 1}, got others")
    _compiled().chainrule_cross_entropy(
        logits.data_ptr(), targets.data_ptr(), *logits.shape, factor, losses.data_ptr(), torch.get_num_threads()
    )
    return losses


def orthogonal(matrices: Tensor) -> Tensor:
    """Five Newton-Schulz steps on each of (N, r, c), r <= c."""
    found = matrices.clone(memory_format=torch.contiguous_format)
    _compiled().chainrule_orthogonal(found.data_ptr(), *found.shape, torch.get_num_threads())
    return found
