"""A step of decoding in one call of the compiled functions, to which it passes a model, its tokens and its cache.

Shapes: B sequences with a new token each, D width, C kinds of layers, R rotary width.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chainrule.model.batch_cache import BatchCache, Cache
from chainrule.model.kv_cache import KVCache
from chainrule.model.layers import Norm, hooked
from chainrule.model.linear import Linear
from chainrule.model.native.library import Matrix, NormCall, library
from chainrule.model.native.operations import ACTIVATIONS
from chainrule.model.native.products import FEW, matrix, usable
from chainrule.model.quantised import QuantisedLinear
from chainrule.model.rotary import rotation
from chainrule.model.versions import version

# A Transformer has a NativeForward, so that this module cannot name its class.
Transformer = Any

_INTEGER, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = (
        ("query_key_value", Matrix), ("output", Matrix), ("up", Matrix), ("down", Matrix),
        ("attention_norm", NormCall), ("attention_output_norm", NormCall), ("mlp_norm", NormCall),
        ("mlp_output_norm", NormCall), ("query_norm", NormCall), ("key_norm", NormCall), ("kind", _INTEGER),
        ("rotated", _INTEGER),
    )  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = (
        ("width", _INTEGER), ("layers", _INTEGER), ("heads", _INTEGER), ("key_value_heads", _INTEGER),
        ("head_width", _INTEGER), ("hidden", _INTEGER), ("gated", _INTEGER), ("activation", _INTEGER),
        ("parallel", _INTEGER), ("norm_by_head", _INTEGER), ("rope_width", _INTEGER), ("query_factor", _FLOAT),
        ("attention_cap", _FLOAT), ("residual_factor", _FLOAT), ("norm", NormCall), ("layer", _POINTER),
    )  # fmt: skip


class _Rows(ctypes.Structure):
    _fields_ = (
        ("count", _INTEGER), ("sequence", _POINTER), ("column", _POINTER), ("end", _POINTER), ("begin", _POINTER),
        ("cosine", _POINTER), ("sine", _POINTER),
    )  # fmt: skip


class _KeysValues(ctypes.Structure):
    _fields_ = (
        ("kind", _INTEGER), ("keys", _POINTER), ("values", _POINTER), ("layer_stride", _INTEGER),
        ("sequence_stride", _INTEGER), ("head_stride", _INTEGER), ("column_stride", _INTEGER),
    )  # fmt: skip


class _Visible(NamedTuple):
    """Where the rows' keys go, and which keys each row attends to; arrays of B, `begin` of (C, B)."""

    sequence: NDArray[np.int64]
    column: NDArray[np.int64]
    end: NDArray[np.int64]
    begin: NDArray[np.int64]


class _Watched(NamedTuple):
    """A tensor that a description was read from."""

    found: dict[str, Any]  # the dictionary that holds it
    name: str
    address: int
    version: int | None  # of its values, where they were copied in float32; None: they are read where they are

    def unchanged(self) -> bool:
        tensor = self.found[self.name]
        return tensor.data_ptr() == self.address and (self.version is None or version(tensor) == self.version)


class _Described(NamedTuple):
    """A model as the compiled functions take it, valid while all that it was read from is in its place."""

    model: _Model
    kept: Sequence[Any]  # what the pointers point into
    tensors: Sequence[_Watched]
    modules: Sequence[tuple[dict[str, Any], str, nn.Module]]

    def valid(self) -> bool:
        same = all(found[name] is module for found, name, module in self.modules)
        return same and all(tensor.unchanged() for tensor in self.tensors)


class NativeForward:
    """Computes a Transformer's layers for one new token of each sequence by the compiled functions, where they can.

    More tokens of a sequence are left to torch, so that a document has the same scores alone and among others.

    It is a part of a model, made again in each copy of it.
    """

    def __init__(self) -> None:
        self._described: _Described | None = None

    def __deepcopy__(self, memo: Any) -> "NativeForward":
        return NativeForward()

    def __reduce__(self) -> tuple[type["NativeForward"], tuple[()]]:
        return NativeForward, ()

    def __call__(self, model: Transformer, x: Tensor, cache: Cache | None) -> Tensor | None:
        """The hidden states (B, 1, D) after the last norm of one more embedded token x (B, 1, D) of each sequence of a
        cache; None where the compiled functions are not for this model, or for so many. The caller moves the length of
        the cache."""
        B, T, D = x.shape
        if T != 1 or not 0 < B <= FEW or not isinstance(cache, KVCache | BatchCache) or not usable(x):
            return None
        described = self._describe(model)
        if described is None or cache.keys.dtype not in (torch.float32, torch.bfloat16):
            return None
        visible = _visible(model, cache)
        _, rows, _, columns, _ = cache.keys.shape
        assert B == len(visible.column) <= rows, "a token of each sequence of the cache"
        assert visible.end.max() <= columns, "more positions than the cache has capacity for"
        cosine, sine = _rotations(model, cache.positions(1), B)
        hidden = x.to(torch.float32, copy=True).view(B, D)
        described_rows = _Rows(
            B,
            visible.sequence.ctypes.data,
            visible.column.ctypes.data,
            visible.end.ctypes.data,
            visible.begin.ctypes.data,
            cosine.data_ptr(),
            sine.data_ptr(),
        )
        layer_stride, sequence_stride, head_stride, column_stride, _ = cache.keys.stride()
        stored = _KeysValues(
            int(cache.keys.dtype == torch.bfloat16),
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            layer_stride,
            sequence_stride,
            head_stride,
            column_stride,
        )
        compiled = library()
        assert compiled is not None, "`usable` has checked it"
        model_address, rows_address, cache_address = map(ctypes.addressof, (described.model, described_rows, stored))
        threads = torch.get_num_threads()
        compiled.chainrule_forward(model_address, rows_address, cache_address, hidden.data_ptr(), threads)
        return hidden.view(B, 1, D).to(x.dtype)

    def _describe(self, model: Transformer) -> _Described | None:
        if self._described is None or not self._described.valid():
            self._described = _Description(model).made
        return self._described


class _Description:
    """Reads a model; `made` is None for one that the compiled functions cannot compute."""

    def __init__(self, model: Transformer) -> None:
        self.kept: list[Any] = []
        self.tensors: list[_Watched] = []
        self.modules: list[tuple[dict[str, Any], str, nn.Module]] = []
        self.possible = _possible(model)
        self.rounded = (model.compute_dtype or model.dtype) == torch.bfloat16
        self.made: _Described | None = None
        if not self.possible:
            return
        layers = (_Layer * model.config.layers)(*[self.layer(model, index) for index in range(model.config.layers)])
        self.kept.append(layers)
        described = self.model(model, ctypes.addressof(layers))
        if self.possible:
            self.made = _Described(described, self.kept, self.tensors, self.modules)

    def model(self, model: Transformer, layers: int) -> _Model:
        config, attention = model.config, model.blocks[0].attention
        rope = next((kind.rope for kind in config.layer_kinds if kind.rope is not None), None)
        return _Model(
            config.width,
            config.layers,
            config.heads,
            config.key_value_heads,
            config.head_width,
            config.hidden,
            int(config.gated),
            ACTIVATIONS[config.activation],
            int(config.residual == "parallel"),
            int(config.query_key_norm == "head"),
            0 if rope is None else rope.width or config.head_width,
            1.0 if attention.query_factor is None else attention.query_factor,
            config.attention_cap or 0.0,
            config.residual_factor,
            self.norm(model, "norm"),
            layers,
        )

    def layer(self, model: Transformer, index: int) -> _Layer:
        block, config = model.blocks[index], model.config
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
        described = matrix(weight, getattr(layer, "kind", None), self.wide(held, "bias"), self.rounded)
        self.watch(held, weight_name)
        if described is None:
            self.possible = False
            return Matrix()
        return described

    def norm(self, parent: nn.Module, name: str) -> NormCall:
        norm = getattr(parent, name, None) if name else None
        if norm is None or isinstance(norm, nn.Identity):
            return NormCall()
        self.modules.append((parent._modules, name, norm))
        gain, bias = (self.wide(norm._parameters, kind) for kind in ("weight", "bias"))
        assert gain is not None, "every norm has gains"
        return NormCall(
            gain.data_ptr(), None if bias is None else bias.data_ptr(), int(norm.layer), norm.epsilon, norm.offset
        )

    def wide(self, held: dict[str, Any], name: str) -> Tensor | None:
        """A vector in float32."""
        tensor = held.get(name)
        if tensor is None:
            return None
        wide: Tensor = tensor.detach().float().contiguous()
        self.watch(held, name, copied=wide.data_ptr() != tensor.data_ptr())
        self.kept.append(wide)
        return wide

    def watch(self, held: dict[str, Any], name: str, copied: bool = False) -> None:
        tensor = held[name]
        self.kept.append(tensor)
        self.tensors.append(_Watched(held, name, tensor.data_ptr(), version(tensor) if copied else None))


def _possible(model: Transformer) -> bool:
    """Whether this is the kind of model that the compiled functions know, with plain or quantised linear layers."""
    config = model.config
    widths = {kind.rope.width or config.head_width for kind in config.layer_kinds if kind.rope is not None}
    known = (Linear, QuantisedLinear, Norm, nn.Identity)
    inside = [module for block in model.blocks for module in block.modules() if not list(module.children())]
    return (
        config.causal
        and config.residual != "post"
        and config.head_width % 2 == 0
        and len(widths) <= 1
        and not hooked(*model.blocks.modules())
        and all(type(module) in known for module in inside)
    )


def _visible(model: Transformer, cache: KVCache | BatchCache) -> _Visible:
    """Of one new token of each sequence."""
    column = np.array(cache.lengths, np.int64)
    windows = [kind.window for kind in model.config.layer_kinds]
    begin = np.stack(
        [np.zeros_like(column) if window is None else np.maximum(0, column + 1 - window) for window in windows]
    )
    return _Visible(np.arange(len(column)), column, column + 1, begin)


def _rotations(model: Transformer, positions: Tensor, B: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each kind of layer, (C, B, R), at positions (1 or B, 1)."""
    config = model.config
    ropes = [kind.rope for kind in config.layer_kinds]
    width = next((rope.width or config.head_width for rope in ropes if rope is not None), 0)
    turns = [
        (torch.zeros(1, 1, 1, width),) * 2
        if rope is None
        else rotation(positions, config.head_width, rope, torch.float32, positions + 1)
        for rope in ropes
    ]
    cosine, sine = (
        torch.stack([each.expand(B, 1, 1, width).reshape(B, width) for each in pair])
        for pair in zip(*turns, strict=True)
    )
    return cosine, sine
