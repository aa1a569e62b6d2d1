"""f_θ and φ_θ: one Transformer, described by one flat config. Knows tokens, not text, nor whose weights it holds.

Shapes: B sequences, T positions, S positions attended to, D width, H heads, G key-value heads, K head width,
V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.model.cache import Cache, Tree
from chainrule.model.kernels import causal_attention, masked_attention, plain_cpu, rms_norm


@dataclass(frozen=True)
class Config:
    """What a Transformer is, in one flat table; a field means one thing in every family."""

    vocabulary_size: int  # V
    context: int  # the most positions it reads at once
    width: int  # D
    layers: int
    heads: int  # H
    key_value_heads: int  # G, divides H: that many queries share a key and a value
    head_width: int  # K
    hidden: int  # the width inside the MLP
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = 1e-6
    positions: Literal["rotary", "learned"] = "rotary"
    rope_theta: float = 10_000.0
    activation: Literal["silu", "gelu_tanh"] = "silu"
    gated: bool = True  # the MLP multiplies its activation by a second projection (SwiGLU)
    query_key_norm: bool = True
    query_key_value_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False  # the output matrix is the embedding matrix

    def __post_init__(self) -> None:
        for name in (
            "vocabulary_size",
            "context",
            "width",
            "layers",
            "heads",
            "key_value_heads",
            "head_width",
            "hidden",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"model: wanted {name} of at least 1, got {getattr(self, name)}")
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"model: wanted heads that key_value_heads divides, got {self.heads} and {self.key_value_heads}"
            )
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(f"model: wanted an even head width for rotary positions, got {self.head_width}")


class Linear(nn.Linear):
    """A matrix kept in its own precision and used in that of its input (bfloat16 compute, float32 weights)."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016) over the last dimension."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.epsilon = config.norm_epsilon
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.norm == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        if self.bias is not None:
            return F.layer_norm(x, weight.shape, weight, self.bias.to(x.dtype), self.epsilon)
        if plain_cpu(x):
            return rms_norm(x, weight, self.epsilon)
        return F.rms_norm(x, weight.shape, weight, self.epsilon)


@dataclass(frozen=True)
class Places:
    """Where the tokens of this call stand and what they may see; made once a call, used by every layer."""

    rotation: tuple[Tensor, Tensor] | None  # cosines and sines, (1 or B, T, 1, K)
    mask: (
        Tensor | None
    )  # (1 or B, 1, T, S), True where a position may look; None: everything before it, or all if T = 1
    last: Tensor | None = None  # (B,) the only positions that are wanted of this layer; None: all

    def at(self, last: Tensor, T: int) -> "Places":
        """Those of a layer of which only these positions of T are wanted."""
        assert self.mask is None, "sequences from their beginning"
        seen = torch.arange(T, device=last.device) <= last[:, None]
        return Places(self.rotation, seen[:, None, None], last)


def at(x: Tensor, last: Tensor) -> Tensor:
    """(B, T, …) at one position of each sequence, (B, 1, …)."""
    return x[torch.arange(len(last), device=last.device), last][:, None]


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (Su et al., 2021): turn each pair (x_i, x_{i+K/2}) by an angle that grows with the position."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √K) v: (B, H, T, K) with (B, G, S, K) to (B, H, T, K); no mask: causal, or all if T = 1."""
    B, H, T, K = query.shape
    causal = T > 1 and mask is None
    if T > 1 and plain_cpu(query):
        key, value = (x.repeat_interleave(H // x.shape[1], dim=1) if x.shape[1] < H else x for x in (key, value))
        if mask is not None:
            return masked_attention(query, key, value, mask)
        query, key, value = (x.reshape(B * H, T, K) for x in (query, key, value))
        return causal_attention(query, key, value).view(B, H, T, K)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=key.shape[1] != H
    )


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.groups, self.head_width = config.heads, config.key_value_heads, config.head_width
        rows = (self.heads + 2 * self.groups) * self.head_width
        self.query_key_value = Linear(config.width, rows, bias=config.query_key_value_bias)
        self.output = Linear(self.heads * self.head_width, config.width, bias=config.attention_output_bias)
        self.query_norm = Norm(config, self.head_width) if config.query_key_norm else None
        self.key_norm = Norm(config, self.head_width) if config.query_key_norm else None

    def forward(self, x: Tensor, places: Places, cache: Cache | Tree | None, layer: int) -> Tensor:
        B, T, _ = x.shape
        projected = self.query_key_value(x).view(B, T, -1, self.head_width)  # (B, T, H + 2G, K)
        query, key, value = projected.split((self.heads, self.groups, self.groups), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if places.rotation is not None:
            query, key = rotate(query, places.rotation), rotate(key, places.rotation)
        if places.last is not None:
            query, T = at(query, places.last), 1
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # (B, H or G, T, K)
        if cache is not None:
            key, value = cache.extend(layer, key, value)  # (B, G, S, K)
        mixed = attend(query, key, value, places.mask)
        return self.output(mixed.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gated, self.activation = config.gated, config.activation
        self.up = Linear(config.width, config.hidden * (2 if config.gated else 1), bias=config.mlp_bias)
        self.down = Linear(config.hidden, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        gate, up = up.chunk(2, dim=-1) if self.gated else (up, None)
        hidden = F.silu(gate) if self.activation == "silu" else F.gelu(gate, approximate="tanh")
        return self.down(hidden if up is None else hidden * up)


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm, self.attention = Norm(config, config.width), Attention(config)
        self.mlp_norm, self.mlp = Norm(config, config.width), MLP(config)

    def forward(self, x: Tensor, places: Places, cache: Cache | Tree | None, layer: int) -> Tensor:
        mixed = self.attention(self.attention_norm(x), places, cache, layer)
        x = mixed + (x if places.last is None else at(x, places.last))
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """f_θ: tokens x_1..x_T to logits u_1..u_T; `features` is φ_θ, the representation the logits are read from.

    Parameters keep the precision they have; activations have `compute_dtype`, that of the parameters unless it is set.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)  # [e_1 … e_V]
        self.position_embedding = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config, config.width)
        self.output = None if config.tied else Linear(config.width, config.vocabulary_size, bias=False)

    @property
    def output_weight(self) -> Tensor:
        """(V, D): u_t = output_weight · c_t."""
        return self.embedding.weight if self.output is None else self.output.weight

    def features(self, tokens: Tensor, cache: Cache | Tree | None = None, *, last: Tensor | None = None) -> Tensor:
        """φ_θ: tokens (B, T), after those the cache holds, to representations (B, T, D), past the final norm.

        `last` (B,): where each sequence ends, if φ is wanted there alone, (B, 1, D); what stands behind is padding.
        """
        length = tokens.shape[1] if cache is None else cache.reach(tokens.shape[1])
        if length > self.config.context:
            raise ValueError(
                f"model: wanted at most {self.config.context} tokens (its context), got {length}; shorten the text"
            )
        dtype = self.compute_dtype or self.embedding.weight.dtype
        x = F.embedding(tokens, self.embedding.weight).to(dtype)  # (B, T, D)
        positions = self._positions(tokens, cache)
        if self.position_embedding is not None:
            x = x + F.embedding(positions, self.position_embedding.weight).to(dtype)
        places = Places(self._rotation(positions, dtype), None if cache is None else cache.mask(tokens.shape[1]))
        for layer, block in enumerate(self.blocks):
            if last is not None and layer + 1 == len(self.blocks):
                places = places.at(last, tokens.shape[1])  # the layers before need every position for its keys
            x = block(x, places, cache, layer)
        if cache is not None:
            cache.length += tokens.shape[1]
        return self.norm(x)

    def logits(self, features: Tensor) -> Tensor:
        """u = output_weight · φ, (…, D) to (…, V)."""
        return F.linear(features, self.output_weight.to(features.dtype))

    def forward(self, tokens: Tensor, cache: Cache | Tree | None = None) -> Tensor:
        """f_θ: tokens (B, T) to logits (B, T, V); u_t sees x_1..x_t and never a later token."""
        return self.logits(self.features(tokens, cache))

    def _positions(self, tokens: Tensor, cache: Cache | Tree | None) -> Tensor:
        """(1 or B, T): 0 for a sequence's first token, whatever padding stands before it."""
        T = tokens.shape[1]
        if cache is None:
            return torch.arange(T, device=tokens.device)[None]
        return cache.positions(T)

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        if self.config.positions != "rotary":
            return None
        K = self.config.head_width
        exponents = torch.arange(0, K, 2, device=positions.device, dtype=torch.float32) / K
        angles = positions[..., None].float() * self.config.rope_theta**-exponents  # float32: late positions need it
        angles = torch.cat((angles, angles), dim=-1)[:, :, None]  # (1 or B, T, 1, K)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def initialise(model: Transformer, seed: int) -> None:
    """Random weights drawn from `seed`; what writes to the residual stream is 0, and so is an untied output.

    The loss is then log V: exactly where the output is untied, nearly where it is tied.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        kind = name.rsplit(".", 2)[-2:]
        if kind[1] == "bias" or kind[0] in ("down", "output"):
            nn.init.zeros_(parameter)
        elif parameter.ndim < 2:
            nn.init.ones_(parameter)  # gains
        elif "embedding" in kind[0]:
            nn.init.normal_(parameter, std=0.02 if model.config.tied else 1.0, generator=generator)
        else:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)


def linear_maps(model: Transformer) -> list[tuple[nn.Parameter, int, int]]:
    """The linear maps inside the blocks as (parameter, first row, last row + 1): fused ones are taken apart."""
    config = model.config
    queries, keys = config.heads * config.head_width, config.key_value_heads * config.head_width
    rows = {
        "query_key_value": (queries, keys, keys),
        "up": (config.hidden,) * (2 if config.gated else 1),
    }
    maps = []
    for name, parameter in model.blocks.named_parameters():
        if parameter.ndim == 2:
            start = 0
            for size in rows.get(name.split(".")[-2], (parameter.shape[0],)):
                maps.append((parameter, start, start + size))
                start += size
    return maps
