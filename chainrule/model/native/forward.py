"""All layers of a causal Transformer in one call of compiled functions: what they are told of a model and its tokens.

Shapes: B sequences, T positions, N = B · T rows of activations, D width, C kinds of layers.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chainrule.model.batch_cache import BatchCache, Cache
from chainrule.model.kv_cache import KVCache, TreeCache
from chainrule.model.native.library import Matrix, library
from chainrule.model.native.products import FEW, matrix, usable
from chainrule.model.rotary import rotation

if TYPE_CHECKING:
    from chainrule.model.layers import Block
    from chainrule.model.transformer import Transformer

_ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
_INTEGER, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class _Norm(ctypes.Structure):
    _fields_ = (
        ("gain", _POINTER), ("bias", _POINTER), ("layer", _INTEGER), ("epsilon", _FLOAT), ("offset", _FLOAT),
    )  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = (
        ("query_key_value", Matrix), ("output", Matrix), ("up", Matrix), ("down", Matrix),
        ("attention_norm", _Norm), ("attention_output_norm", _Norm), ("mlp_norm", _Norm), ("mlp_output_norm", _Norm),
        ("query_norm", _Norm), ("key_norm", _Norm), ("kind", _INTEGER), ("rotated", _INTEGER),
    )  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = (
        ("width", _INTEGER), ("layers", _INTEGER), ("heads", _INTEGER), ("key_value_heads", _INTEGER),
        ("head_width", _INTEGER), ("hidden", _INTEGER), ("gated", _INTEGER), ("activation", _INTEGER),
        ("parallel", _INTEGER), ("norm_by_head", _INTEGER), ("rope_width", _INTEGER), ("query_factor", _FLOAT),
        ("attention_cap", _FLOAT), ("residual_factor", _FLOAT), ("norm", _Norm), ("layer", _POINTER),
    )  # fmt: skip


class _Rows(ctypes.Structure):
    _fields_ = (
        ("count", _INTEGER), ("sequence", _POINTER), ("column", _POINTER), ("end", _POINTER), ("begin", _POINTER),
        ("cosine", _POINTER), ("sine", _POINTER), ("mask", _POINTER), ("masked_from", _INTEGER),
        ("mask_stride", _INTEGER), ("wanted", _POINTER), ("wanted_count", _INTEGER),
    )  # fmt: skip


class _KeysValues(ctypes.Structure):
    _fields_ = (
        ("kind", _INTEGER), ("keys", _POINTER), ("values", _POINTER), ("layer_stride", _INTEGER),
        ("sequence_stride", _INTEGER), ("head_stride", _INTEGER), ("column_stride", _INTEGER),
    )  # fmt: skip


class _Visible(NamedTuple):
    """Where the rows' keys go, and which keys each row attends to; arrays of N, `begin` of (C, N)."""

    sequence: NDArray[np.int64]
    column: NDArray[np.int64]
    end: NDArray[np.int64]
    begin: NDArray[np.int64]
    mask: NDArray[np.uint8] | None  # (N, M), of the last M columns
    masked_from: int


class _Described(NamedTuple):
    """A model as the compiled functions take it, valid while all that it was read from is in its place."""

    model: _Model
    kept: Sequence[Any]  # what the pointers point into
    tensors: Sequence[tuple[dict[str, Any], str, int]]  # the dictionary that holds a tensor, its name, its address
    modules: Sequence[tuple[dict[str, Any], str, nn.Module]]

    def valid(self) -> bool:
        return all(found[name].data_ptr() == address for found, name, address in self.tensors) and all(
            found[name] is module for found, name, module in self.modules
        )


class NativeForward:
    """Computes a Transformer's layers by the compiled functions where they can and where it is faster.

    It is a part of a model, made again in each copy of it.
    """

    def __init__(self) -> None:
        self._described: _Described | None = None
        self._refused = False

    def __deepcopy__(self, memo: Any) -> "NativeForward":
        return NativeForward()

    def __reduce__(self) -> tuple[type["NativeForward"], tuple[()]]:
        return NativeForward, ()

    def __call__(
        self,
        model: "Transformer",
        x: Tensor,
        positions: Callable[[], Tensor],
        cache: Cache | None,
        padding: Tensor | None,
        output_positions: Tensor | None,
    ) -> Tensor | None:
        """The hidden states (B, T, D) after the last norm, or (B, N, D) at `output_positions`, of embedded tokens x
        (B, T, D); None where the compiled functions are not for this model, or so many rows. The caller moves the
        length of the cache. `positions()` are the tokens', (1 or B, T).
        """
        B, T, D = x.shape
        if B * T > FEW or not B * T or not usable(x):
            return None
        described = self._describe(model)
        if described is None:
            return None
        visible = _visible(model, B, T, cache, padding)
        if visible is None:
            return None
        keys, values = _storage(model, cache, B, T, x.dtype)
        if keys.dtype not in (torch.float32, torch.bfloat16):
            return None
        cosine, sine = _rotations(model, positions(), B, T)
        inputs = x.float().contiguous().view(B * T, D)
        if inputs.data_ptr() == x.data_ptr():
            inputs = inputs.clone()
        wanted, outputs = None, inputs
        if output_positions is not None:
            wanted = (output_positions + T * torch.arange(B)[:, None]).flatten().contiguous()
            outputs = torch.empty(len(wanted), D)
        mask = visible.mask
        rows = _Rows(
            B * T,
            visible.sequence.ctypes.data,
            visible.column.ctypes.data,
            visible.end.ctypes.data,
            visible.begin.ctypes.data,
            cosine.data_ptr(),
            sine.data_ptr(),
            None if mask is None else mask.ctypes.data,
            visible.masked_from,
            0 if mask is None else mask.shape[1],
            None if wanted is None else wanted.data_ptr(),
            0 if wanted is None else len(wanted),
        )
        layer_stride, sequence_stride, head_stride, column_stride, _ = keys.stride()
        stored = _KeysValues(
            int(keys.dtype == torch.bfloat16),
            keys.data_ptr(),
            values.data_ptr(),
            layer_stride if cache is not None else 0,
            sequence_stride,
            head_stride,
            column_stride,
        )
        compiled = library()
        assert compiled is not None, "`usable` says so"
        compiled.chainrule_forward(
            ctypes.addressof(described.model),
            ctypes.addressof(rows),
            ctypes.addressof(stored),
            inputs.data_ptr(),
            outputs.data_ptr(),
            torch.get_num_threads(),
        )
        return outputs.view(B, -1, D).to(x.dtype)

    def _describe(self, model: "Transformer") -> _Described | None:
        if self._described is None or not self._described.valid():
            self._described = _Description(model).made
        return self._described


class _Description:
    """Reads a model; `made` is None for one that the compiled functions cannot compute."""

    def __init__(self, model: "Transformer") -> None:
        self.kept: list[Any] = []
        self.tensors: list[tuple[dict[str, Any], str, int]] = []
        self.modules: list[tuple[dict[str, Any], str, nn.Module]] = []
        self.possible = _possible(model)
        self.made: _Described | None = None
        if not self.possible:
            return
        layers = (_Layer * model.config.layers)(*[self.layer(model, index) for index in range(model.config.layers)])
        self.kept.append(layers)
        described = self.model(model, ctypes.addressof(layers))
        if self.possible:
            self.made = _Described(described, self.kept, self.tensors, self.modules)

    def model(self, model: "Transformer", layers: int) -> _Model:
        config, attention = model.config, cast("Block", model.blocks[0]).attention
        rope = next((kind.rope for kind in config.layer_kinds if kind.rope is not None), None)
        return _Model(
            config.width,
            config.layers,
            config.heads,
            config.key_value_heads,
            config.head_width,
            config.hidden,
            int(config.gated),
            _ACTIVATIONS[config.activation],
            int(config.residual == "parallel"),
            int(config.query_key_norm == "head"),
            0 if rope is None else rope.width or config.head_width,
            1.0 if attention.query_factor is None else attention.query_factor,
            config.attention_cap or 0.0,
            config.residual_factor,
            self.norm(model, "norm"),
            layers,
        )

    def layer(self, model: "Transformer", index: int) -> _Layer:
        block, config = cast("Block", model.blocks[index]), model.config
        self.modules += [(model.blocks._modules, str(index), block)]
        self.modules += [(block._modules, name, getattr(block, name)) for name in ("attention", "mlp")]
        before, after = ("attention_norm", "mlp_norm"), ("attention_output_norm", "mlp_output_norm")
        if config.residual == "reordered":  # the norms follow the branches
            before, after = ("", ""), before
        return _Layer(
            self.matrix(block.attention, "query_key_value"),
            self.matrix(block.attention, "output"),
            self.matrix(block.mlp, "up"),
            self.matrix(block.mlp, "down"),
            self.norm(block, before[0]),
            self.norm(block, after[0]),
            self.norm(block, before[1]),
            self.norm(block, after[1]),
            self.norm(block.attention, "query_norm"),
            self.norm(block.attention, "key_norm"),
            index % len(config.layer_kinds),
            int(config.kind_of(index).rope is not None),
        )

    def matrix(self, parent: nn.Module, name: str) -> Matrix:
        layer = getattr(parent, name)
        self.modules.append((parent._modules, name, layer))
        held = layer._parameters if "weight" in layer._parameters else layer._buffers
        weight_name = "weight" if "weight" in layer._parameters else "blocks"
        weight = held.get(weight_name)
        if weight is None:
            self.possible = False
            return Matrix()
        described = matrix(weight, getattr(layer, "kind", None), self.wide(held, "bias"))
        self.watch(held, weight_name)
        if described is None:
            self.possible = False
            return Matrix()
        return described

    def norm(self, parent: nn.Module, name: str) -> _Norm:
        norm = getattr(parent, name, None) if name else None
        if norm is None or isinstance(norm, nn.Identity):
            return _Norm()
        self.modules.append((parent._modules, name, norm))
        gain, bias = (self.wide(norm._parameters, kind) for kind in ("weight", "bias"))
        assert gain is not None, "every norm has gains"
        return _Norm(
            gain.data_ptr(), None if bias is None else bias.data_ptr(), int(norm.layer), norm.epsilon, norm.offset
        )

    def wide(self, held: dict[str, Any], name: str) -> Tensor | None:
        """A vector in float32."""
        tensor = held.get(name)
        if tensor is None:
            return None
        self.watch(held, name)
        wide: Tensor = tensor.detach().float().contiguous()
        self.kept.append(wide)
        return wide

    def watch(self, held: dict[str, Any], name: str) -> None:
        self.kept.append(held[name])
        self.tensors.append((held, name, held[name].data_ptr()))


def _possible(model: "Transformer") -> bool:
    """Whether this is the kind of model that the compiled functions know, with plain or quantised linear layers."""
    from chainrule.model.layers import Norm
    from chainrule.model.linear import Linear
    from chainrule.model.quantised import QuantisedLinear

    config = model.config
    widths = {kind.rope.width or config.head_width for kind in config.layer_kinds if kind.rope is not None}
    known = (Linear, QuantisedLinear, Norm, nn.Identity)
    inside = [module for block in model.blocks for module in block.modules() if not list(module.children())]
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.blocks.modules())
    return (
        config.causal
        and config.residual != "post"
        and config.head_width % 2 == 0
        and len(widths) <= 1
        and not hooked
        and all(type(module) in known for module in inside)
    )


def _storage(model: "Transformer", cache: Cache | None, B: int, T: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values, (L, B, G, S, K); without a cache those of one layer, used for all."""
    if isinstance(cache, TreeCache):
        cache = cache.cache
    if cache is not None:
        return cache.keys, cache.values
    config = model.config
    keys = torch.empty(1, B, config.key_value_heads, T, config.head_width, dtype=dtype)
    return keys, torch.empty_like(keys)


def _visible(model: "Transformer", B: int, T: int, cache: Cache | None, padding: Tensor | None) -> _Visible | None:
    """None where a mask differs from kind to kind of layer."""
    windows = [kind.window for kind in model.config.layer_kinds]
    sequence = np.repeat(np.arange(B), T)
    first = np.zeros(B, np.int64)  # column of each sequence's first token
    mask, masked_from = None, 0
    if isinstance(cache, BatchCache):
        if T != 1:
            return None
        column = np.array(cache.lengths, np.int64)
    else:
        past = 0 if cache is None else cache.length
        column = np.tile(np.arange(past, past + T), B)
        if isinstance(cache, KVCache):
            first = cache.padding.numpy() if cache.padded else first
        elif padding is not None:
            first = padding.numpy()
    if isinstance(cache, TreeCache):
        if any(window is not None and cache.deepest >= window for window in windows):
            return None
        windows = [None] * len(windows)  # wider than each sequence, not than the columns of all
        found = cache.mask(T)
        if found is not None:
            mask = np.ascontiguousarray(found[0, 0].numpy()).view(np.uint8)
            masked_from = cache.length + T - mask.shape[1]
    end = column + 1
    starts = np.minimum(np.repeat(first, T), column)  # padding attends to itself
    begin = np.stack([starts if window is None else np.maximum(starts, end - window) for window in windows])
    return _Visible(sequence, column, end, begin, mask, masked_from)


def _rotations(model: "Transformer", positions: Tensor, B: int, T: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each kind of layer, (C, N, R)."""
    config = model.config
    ropes = [kind.rope for kind in config.layer_kinds]
    width = next((rope.width or config.head_width for rope in ropes if rope is not None), 0)
    turns = [
        (torch.zeros(1, 1, 1, width),) * 2
        if rope is None
        else rotation(positions, config.head_width, rope, torch.float32)
        for rope in ropes
    ]
    cosine, sine = (
        torch.stack([each.expand(B, T, 1, width).reshape(B * T, width) for each in pair])
        for pair in zip(*turns, strict=True)
    )
    return cosine, sine
