"""What a Transformer is made of: norms, attention and MLP with their weights, and the block that adds them up.

Knows one layer, not the model.

Shapes: B sequences, T positions, N of these, D width, H heads, G key-value heads, K head width.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.model.attention import AttentionContext, attend, select
from chainrule.model.batch_cache import Cache
from chainrule.model.config import Config
from chainrule.model.kernels import plain_cpu, rms_norm
from chainrule.model.linear import Linear
from chainrule.model.native import operations, training
from chainrule.model.native.products import multiply, usable
from chainrule.model.packed import Packing
from chainrule.model.rotary import rotate

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


def hooked(*modules: nn.Module | None) -> bool:
    """Whether a call of one of these would run more than its `forward`."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in modules if module is not None for kind in kinds)


class Embedding(nn.Embedding):
    """A row for each token, position or segment."""

    packing: Packing | None = None

    def reset_parameters(self) -> None:
        """Nothing is drawn here, as in `Linear`."""

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def logits(self, features: Tensor, bias: Tensor | None, few: bool = False) -> Tensor:
        """As a tied output matrix: (…, D) to (…, V); `few` as in `multiply`."""
        return multiply(features, self.weight, bias, few=few, packing=self.packing)


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016) over the last dimension."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.epsilon, self.offset, self.layer = config.norm_epsilon, config.norm_offset, config.norm == "layer"
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if self.layer and config.norm_bias else None

    def forward(self, x: Tensor) -> Tensor:
        if usable(x):
            return operations.norm(x, self.weight, self.bias, self.layer, self.epsilon, self.offset)
        if self.offset:  # as Gemma, which narrows after it multiplied
            wide = torch.promote_types(x.dtype, torch.float32)
            return self._normalised(x.to(wide), self.offset + self.weight.to(wide)).to(x.dtype)
        return self._normalised(x, self.weight.to(x.dtype))

    def gain(self) -> Tensor:
        """What normalised values are multiplied by, in float32."""
        return self.weight.float() + self.offset if self.offset else self.weight.float()

    def _normalised(self, x: Tensor, gain: Tensor) -> Tensor:
        if self.layer:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return F.layer_norm(x, gain.shape, gain, bias, self.epsilon)
        if plain_cpu(x) and torch.is_grad_enabled():
            return rms_norm(x, gain, self.epsilon)
        return F.rms_norm(x, gain.shape, gain, self.epsilon)


class Attention(nn.Module):
    """Multi-head attention with grouped keys and values (Ainslie et al., 2023)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_width, per_head = config.head_width, config.query_key_norm == "head"
        queries, keys = config.heads * config.head_width, config.key_value_heads * config.head_width
        self.parts = (queries, keys, keys)
        self.query_key_value = Linear(config.width, *self.parts, bias=config.query_key_value_bias)
        self.output = Linear(queries, config.width, bias=config.attention_output_bias)
        self.norm_by_head, self.cap = per_head, config.attention_cap
        self.query_norm = Norm(config, self.head_width if per_head else queries) if config.query_key_norm else None
        self.key_norm = Norm(config, self.head_width if per_head else keys) if config.query_key_norm else None
        # `attend` divides scores by √K; where another width is wanted, the queries make up for it.
        scale = config.query_scale_width
        self.query_factor = None if scale in (None, config.head_width) else (config.head_width / scale) ** 0.5
        if config.attention_factor is not None:
            self.query_factor = config.attention_factor * config.head_width**0.5

    def forward(self, x: Tensor, context: AttentionContext, cache: Cache | None, layer: int) -> Tensor:
        """(B, T, D) to (B, T, D), or (B, N, D) at the context's output positions."""
        B, T, _ = x.shape
        projected = self.query_key_value(x)
        if cache is None and self._in_one_function(projected, context):
            return self.output(self._mixed(projected, context))
        query, key, value = projected.split(self.parts, dim=-1)  # (B, T, H K), (B, T, G K) twice
        if not self.norm_by_head:
            query, key = self._normalised(query, key)
        query, key, value = (part.view(B, T, -1, self.head_width) for part in (query, key, value))
        if self.norm_by_head:
            query, key = self._normalised(query, key)
        if context.rotation is not None:
            turn = operations.rotate if usable(x) else rotate
            query, key = turn(query, context.rotation), turn(key, context.rotation)
        if context.output_positions is not None:
            query = select(query, context.output_positions)
        if self.query_factor is not None:
            query = query * self.query_factor
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # (B, H or G, T, K)
        if cache is not None:
            key, value = cache.extend(layer, key, value)  # (B, G, S, K)
        mixed = attend(query, key, value, context.pattern, context.mask, self.cap)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _in_one_function(self, projected: Tensor, context: AttentionContext) -> bool:
        """Whether a compiled function computes all between the linear maps: of a causal pattern with one rotation for
        all sequences, no cap, and RMSNorm by head or none. It gives a thread whole sequences' heads."""
        rotation, (B, T, _) = context.rotation, projected.shape
        norm = self.query_norm is None or (self.norm_by_head and not self.query_norm.layer)
        return (
            training.serves(projected, self)
            and context.pattern == "causal"
            and (rotation is None or len(rotation[0]) == 1)
            and self.cap is None
            and norm
            and not hooked(self.query_norm, self.key_norm)
            and T <= training.MOST_POSITIONS
            and self.head_width <= training.WIDEST_HEAD
            and B * self.parts[1] // self.head_width >= torch.get_num_threads()
        )

    def _mixed(self, projected: Tensor, context: AttentionContext) -> Tensor:
        """(B, T, (H + 2 G) K) to (B, T, H K) by that function."""
        K, gains, epsilon = self.head_width, None, 0.0
        if self.query_norm is not None and self.key_norm is not None:
            gains, epsilon = (self.query_norm.gain(), self.key_norm.gain()), self.query_norm.epsilon
        scale = K**-0.5 * (self.query_factor or 1.0)
        heads = training.Heads(self.parts[0] // K, self.parts[1] // K, K, scale, epsilon)
        return training.causal_attention(projected, gains, context.rotation, heads)

    def _normalised(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        if self.query_norm is None or self.key_norm is None:
            return query, key
        return self.query_norm(query), self.key_norm(key)


class MLP(nn.Module):
    """Two linear layers with an activation between them, which may be gated (Shazeer, 2020)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gated, self.activation_name = config.gated, config.activation
        self.activation = ACTIVATIONS[config.activation]
        self.swiglu = config.gated and config.activation == "silu"
        parts = (config.hidden,) * (2 if config.gated else 1)
        self.up = Linear(config.width, *parts, bias=config.mlp_bias)
        self.down = Linear(config.hidden, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        up = self.up(x)
        if self.gated and usable(up):
            return self.down(operations.gate(up, self.activation_name))
        if self.swiglu and training.serves(up, self):
            return self.down(training.swiglu(up))
        gate, up = up.chunk(2, dim=-1) if self.gated else (up, None)
        hidden = self.activation(gate)
        return self.down(hidden if up is None else hidden * up)


class Block(nn.Module):
    """Attention A and MLP M, each added to the residual stream x; `Config.residual` names where their norms n are:

    pre        h = x + A(n(x)),     h + M(n(h))
    parallel   x + A(n(x)) + M(n(x)), each with a norm of its own
    post       h = n(x + A(x)),     n(h + M(h))
    reordered  h = x + n(A(x)),     h + n(M(h))
    sandwich   h = x + n(A(n(x))),  h + n(M(n(h)))

    What is added to x or h is first multiplied by `Config.residual_factor`.
    """

    def __init__(self, config: Config, normed: bool = True) -> None:
        """`normed`: attention has a norm in front of it."""
        super().__init__()
        self.residual, self.factor = config.residual, config.residual_factor
        self.attention_norm = Norm(config, config.width) if normed else nn.Identity()
        self.attention = Attention(config)
        self.mlp_norm, self.mlp = Norm(config, config.width), MLP(config)
        sandwich = config.residual == "sandwich"
        self.attention_output_norm = Norm(config, config.width) if sandwich else None
        self.mlp_output_norm = Norm(config, config.width) if sandwich else None

    def forward(self, x: Tensor, context: AttentionContext, cache: Cache | None, layer: int) -> Tensor:
        """(B, T, D) to (B, T, D), or (B, N, D) at the context's output positions."""
        kept = x if context.output_positions is None else select(x, context.output_positions)
        if self.residual == "post":
            h = self.attention_norm(self._sum(kept, self.attention(x, context, cache, layer)))
            return self.mlp_norm(self._sum(h, self.mlp(h)))
        if self.residual == "reordered":
            h = self._sum(kept, self.attention_norm(self.attention(x, context, cache, layer)))
            return self._sum(h, self.mlp_norm(self.mlp(h)))
        attended = self.attention(self.attention_norm(x), context, cache, layer)
        h = self._sum(kept, attended if self.attention_output_norm is None else self.attention_output_norm(attended))
        if self._mlp_in_one_function(h):
            gain, up, down = self.mlp_norm.gain(), self.mlp.up.weight, self.mlp.down.weight
            return training.gated_mlp(h, gain, up, down, self.mlp_norm.epsilon)
        added = self.mlp(self.mlp_norm(kept if self.residual == "parallel" else h))
        return self._sum(h, added if self.mlp_output_norm is None else self.mlp_output_norm(added))

    def _mlp_in_one_function(self, h: Tensor) -> bool:
        """Whether a compiled function computes the second half of the block, h + W_down SwiGLU(W_up RMSNorm(h)): of
        layers that are plain, and whose weights all fit into a core's cache."""
        norm, mlp = self.mlp_norm, self.mlp
        return (
            training.serves(h, self)
            and self.residual == "pre"
            and self.factor == 1
            and not norm.layer
            and mlp.swiglu
            and type(mlp.up) is type(mlp.down) is Linear
            and mlp.up.bias is mlp.down.bias is None
            and not hooked(norm, mlp, mlp.up, mlp.down)
            and training.small_mlp(mlp.up.weight, mlp.down.weight)
        )

    def _sum(self, stream: Tensor, branch: Tensor) -> Tensor:
        return stream + (branch if self.factor == 1 else branch * self.factor)


class HeadLayer(nn.Module):
    """A layer, an activation and a norm, which some encoders have between hidden states and a head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width, bias=config.head_bias)
        self.norm = Norm(config, config.width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, features: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        return self.norm(self.activation(self.dense(features)))


class MaskedHead(HeadLayer):
    """What BERT has between hidden states and output matrix; `bias` is the output's, one number for each token."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))
