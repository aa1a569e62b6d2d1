"""f_θ and φ_θ: one Transformer, described by one flat config. Knows tokens, not text, nor whose weights it holds.

Shapes: B sequences, T positions, S positions attended to, D width, H heads, G key-value heads, K head width,
V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.model.batch_cache import BatchCache
from chainrule.model.config import Config
from chainrule.model.kernels import causal_attention, linear_cross_entropy, masked_attention, plain_cpu, rms_norm
from chainrule.model.kv_cache import Cache, Tree, causal_mask, positions
from chainrule.model.rotary import rotate, rotation

Output = Literal["logits", "features", "summary"]


class Linear(nn.Linear):
    """A matrix kept in its own precision and used in that of its input (bfloat16 compute, float32 weights)."""

    def reset_parameters(self) -> None:
        """Nothing is drawn here: on the meta device that would import for a second and 80 MB."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class Embedding(nn.Embedding):
    """A row a token, position or segment."""

    def reset_parameters(self) -> None:
        """Nothing is drawn here, as in `Linear`."""


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

    rotation: tuple[Tensor, Tensor] | None  # cosines and sines, (1 or B, T, 1, rotary width)
    mask: Tensor | None  # (1 or B, 1, T, M), True where a position may look among the last M held; all before are seen
    causal: bool  # with no mask: everything before it, or just everything
    only: Tensor | None = None  # (B, N) the positions that are wanted of this layer; None: all

    def at(self, only: Tensor, T: int) -> "Places":
        """Those of a layer of which only these positions of T are wanted."""
        if self.mask is None and not self.causal and T > 1:  # every position sees all
            return Places(self.rotation, None, causal=False, only=only)
        if self.mask is None:
            seen = torch.arange(T, device=only.device) <= only[..., None]  # (B, N, T)
        elif self.mask.shape[2] == 1:  # the same for all positions
            seen = self.mask[:, 0].expand(-1, only.shape[1], -1)
        else:
            seen = at(self.mask.expand(len(only), -1, -1, -1)[:, 0], only)
        return Places(self.rotation, seen[:, None], causal=False, only=only)


def at(x: Tensor, only: Tensor) -> Tensor:
    """(B, T, …) at some positions (B, N) of each sequence, (B, N, …)."""
    return x[torch.arange(len(only), device=only.device)[:, None], only]


def attend(query: Tensor, key: Tensor, value: Tensor, places: Places) -> Tensor:
    """softmax(q kᵀ / √K) v over what each position may see: (B, H, T, K) with (B, G, S, K) to (B, H, T, K)."""
    B, H, T, K = query.shape
    S, mask, causal = key.shape[2], places.mask, places.causal
    in_order = mask is not None and mask.shape[2] == T > 1 and places.only is None  # none looks at a later one
    if plain_cpu(query) and (causal or in_order):
        key, value = (x.repeat_interleave(H // x.shape[1], dim=1) if x.shape[1] < H else x for x in (key, value))
        if mask is not None:
            return masked_attention(query, key, value, mask)
        query, key, value = (x.reshape(B * H, T, K) for x in (query, key, value))
        return causal_attention(query, key, value).view(B, H, T, K)
    if mask is not None and mask.shape[3] < S:
        mask = F.pad(mask, (S - mask.shape[3], 0), value=True)
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

    def forward(self, x: Tensor, places: Places, cache: Cache | Tree | BatchCache | None, layer: int) -> Tensor:
        B, T, _ = x.shape
        projected = self.query_key_value(x).view(B, T, -1, self.head_width)  # (B, T, H + 2G, K)
        query, key, value = projected.split((self.heads, self.groups, self.groups), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if places.rotation is not None:
            query, key = rotate(query, places.rotation), rotate(key, places.rotation)
        if places.only is not None:
            query, T = at(query, places.only), places.only.shape[1]
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # (B, H or G, T, K)
        if cache is not None:
            key, value = cache.extend(layer, key, value)  # (B, G, S, K)
        mixed = attend(query, key, value, places)
        return self.output(mixed.transpose(1, 2).flatten(2))


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gated, self.activation = config.gated, ACTIVATIONS[config.activation]
        self.up = Linear(config.width, config.hidden * (2 if config.gated else 1), bias=config.mlp_bias)
        self.down = Linear(config.hidden, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        gate, up = up.chunk(2, dim=-1) if self.gated else (up, None)
        hidden = self.activation(gate)
        return self.down(hidden if up is None else hidden * up)


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.parallel, self.post_norm = config.parallel, config.post_norm
        self.attention_norm, self.attention = Norm(config, config.width), Attention(config)
        self.mlp_norm, self.mlp = Norm(config, config.width), MLP(config)

    def forward(self, x: Tensor, places: Places, cache: Cache | Tree | BatchCache | None, layer: int) -> Tensor:
        kept = x if places.only is None else at(x, places.only)
        if self.post_norm:
            attended = self.attention_norm(kept + self.attention(x, places, cache, layer))
            return self.mlp_norm(attended + self.mlp(attended))
        attended = kept + self.attention(self.attention_norm(x), places, cache, layer)
        return attended + self.mlp(self.mlp_norm(kept if self.parallel else attended))


class MaskedHead(nn.Module):
    """What BERT puts between φ and the output matrix; `bias` is the output's, one number a token."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense, self.norm = Linear(config.width, config.width), Norm(config, config.width)
        self.activation = ACTIVATIONS[config.activation]
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(features)))


class Transformer(nn.Module):
    """f_θ: tokens x_1..x_T to logits u_1..u_T; `features` is φ_θ, the representation the logits are read from.

    Its weights are anything until `initialise` draws them or a directory's are put into it.
    Parameters keep the precision they have; activations have `compute_dtype`, that of the parameters unless it is set.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embedding = Embedding(config.vocabulary_size, config.width)  # [e_1 … e_V]
        self.position_embedding = Embedding(config.context, config.width) if config.positions == "learned" else None
        self.segment_embedding = Embedding(config.segments, config.width) if config.segments else None
        self.input_norm = Norm(config, config.width) if config.post_norm else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = None if config.post_norm else Norm(config, config.width)
        self.head = MaskedHead(config) if config.masked_head else None
        self.pooler = Linear(config.width, config.width) if config.pooler else None
        self.output = None if config.tied else Linear(config.width, config.vocabulary_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where tokens must be."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights; activations have `compute_dtype` where that is set."""
        return self.embedding.weight.dtype

    @property
    def output_weight(self) -> Tensor:
        """(V, D): u_t = output_weight · c_t. ModelError for a model without a language-model head."""
        self.config.check_language_head()
        return self.embedding.weight if self.output is None else self.output.weight

    def forward(
        self,
        tokens: Tensor | None = None,
        *,
        targets: Tensor | None = None,
        features: Tensor | None = None,
        output: Output = "logits",
        cache: Cache | Tree | BatchCache | None = None,
        padding: Tensor | None = None,
        last: Tensor | None = None,
        output_positions: Tensor | None = None,
    ) -> Tensor:
        """f_θ: tokens (B, T) to logits (B, T, V), or to another output. All uses of the model enter here, so that hooks
        on `forward` (sharded weights, for one) see every use.

        `targets`, integers of the logits' shape without V: return the loss instead, the mean of -log softmax(u)[target]
        in nats (14.8), a scalar in float32. `features` (…, D) instead of tokens: compute the logits, or the loss, of
        these. `output`: "features" are the final hidden states (B, T, D), "summary" is what a classifier reads (B, D).

        `cache`: the tokens follow those it holds, and are added to it. Without a cache, batches of unequal lengths have
        `padding` (B,), the number of padding tokens on the left of each sequence, or `last` (B,), the position of its
        last token, which padding follows; in a causal model the latter is needed for "summary" alone.
        `output_positions` (B, N): compute the output at these positions only, (B, N, …).

        Raises ChainruleError for more tokens than the context, a cache of a model that is not causal, and logits of one
        without a language-model head.
        """
        if features is None:
            assert tokens is not None, "forward takes tokens or features"
            if output == "summary":
                return self._summary(tokens, last)
            features = self._features(tokens, cache, padding, last, output_positions)
        if output == "features":
            return features
        if targets is None:
            return self._logits(features)
        features, targets = features.flatten(0, -2), targets.flatten()
        if plain_cpu(features) and self.head is None:
            return linear_cross_entropy(features, self.output_weight.to(features.dtype), targets)
        return F.cross_entropy(self._logits(features).float(), targets)

    # `forward` with one output each, for those who hold a Transformer itself, not a wrapper of it.

    def features(
        self,
        tokens: Tensor,
        cache: Cache | Tree | BatchCache | None = None,
        padding: Tensor | None = None,
        output_positions: Tensor | None = None,
    ) -> Tensor:
        """φ_θ: tokens (B, T) to the final hidden states (B, T, D), or (B, N, D) at `output_positions`."""
        return self(tokens, output="features", cache=cache, padding=padding, output_positions=output_positions)

    def summary(self, tokens: Tensor, last: Tensor) -> Tensor:
        """c: what a linear head reads of each of the sequences (B, T), which end at `last` (B,); (B, D)."""
        return self(tokens, output="summary", last=last)

    def logits(self, features: Tensor) -> Tensor:
        """u = output_weight · φ, (…, D) to (…, V)."""
        return self(features=features)

    def _features(
        self,
        tokens: Tensor,
        cache: Cache | Tree | BatchCache | None,
        padding: Tensor | None,
        last: Tensor | None,
        output_positions: Tensor | None,
    ) -> Tensor:
        T = tokens.shape[1]
        length = T if cache is None else cache.reach(T)
        if length > self.config.context:
            raise ChainruleError(
                f"model: wanted at most {self.config.context} tokens (its context), got {length}; shorten the text"
            )
        if cache is not None and not self.config.causal:
            raise ChainruleError(
                "model: wanted a causal model, got one in which every token sees those after it;"
                " it fills blanks and cannot go on from a text"
            )
        dtype = self.compute_dtype or self.dtype
        x = self.embedding(tokens).to(dtype)  # (B, T, D)
        places, at = self._places(T, cache, padding, last, dtype)
        if self.position_embedding is not None:
            x = x + self.position_embedding(at).to(dtype)
        if self.segment_embedding is not None:
            x = x + self.segment_embedding.weight[0].to(dtype)
        if self.input_norm is not None:
            x = self.input_norm(x)
        for layer, block in enumerate(self.blocks):
            if output_positions is not None and layer + 1 == len(self.blocks):
                places = places.at(output_positions, T)  # the layers before need every position for its keys
            x = block(x, places, cache, layer)
        if cache is not None:
            cache.length += T
        return x if self.norm is None else self.norm(x)

    def _summary(self, tokens: Tensor, last: Tensor | None) -> Tensor:
        """(B, D): the last position of a causal model, the first of another, through its pooler where it has one."""
        assert last is not None, "a summary needs each sequence's last position"
        read = last if self.config.causal else torch.zeros_like(last)
        features = self._features(tokens, None, None, last, read[:, None])[:, 0]
        return features if self.pooler is None else torch.tanh(self.pooler(features))

    def _logits(self, features: Tensor) -> Tensor:
        """u = output_weight · φ, (…, D) to (…, V); a masked head stands between."""
        if self.head is None:
            return F.linear(features, self.output_weight.to(features.dtype))
        return F.linear(self.head(features), self.output_weight.to(features.dtype), self.head.bias.to(features.dtype))

    def _places(
        self,
        T: int,
        cache: Cache | Tree | BatchCache | None,
        padding: Tensor | None,
        last: Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Places, Tensor]:
        """What the blocks need to know of the next T tokens, and their positions (1 or B, T)."""
        config, device = self.config, self.device
        mask = None
        if cache is not None:
            at, mask = cache.positions(T), cache.mask(T, config.window)
        else:
            at = positions(0, T, padding, device)
            if config.causal and (padding is not None or (config.window or T) < T):
                mask = causal_mask(0, T, padding, config.window, device)
            elif last is not None and not config.causal:  # in a causal model no token sees what follows its end
                mask = (torch.arange(T, device=device) <= last[:, None])[:, None, None]  # (B, 1, 1, T)
            elif padding is not None:
                mask = (torch.arange(T, device=device) >= padding[:, None])[:, None, None]  # (B, 1, 1, T)
        turn = None
        if config.positions == "rotary":
            width = config.rotary_width or config.head_width
            turn = rotation(at, width, config.rope_theta, config.rope_scaling, dtype)
        return Places(turn, mask, causal=config.causal and mask is None and T > 1), at


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
    """The linear maps between embedding and output as (parameter, first row, last row + 1): fused ones are taken
    apart."""
    config = model.config
    queries, keys = config.heads * config.head_width, config.key_value_heads * config.head_width
    rows = {
        "query_key_value": (queries, keys, keys),
        "up": (config.hidden,) * (2 if config.gated else 1),
    }
    maps: list[tuple[nn.Parameter, int, int]] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and name.startswith(("blocks.", "head.")):
            start = 0
            for size in rows.get(name.split(".")[-2], (parameter.shape[0],)):
                maps.append((parameter, start, start + size))
                start += size
    return maps
