"""What a Transformer is, in one flat table. Knows no family, and computes nothing."""

from dataclasses import dataclass, fields
from typing import Literal

from chainrule.errors import ModelError
from chainrule.model.rotary import LongRope, Rope

Residual = Literal["pre", "parallel", "post", "reordered", "sandwich"]


@dataclass(frozen=True)
class LayerKind:
    """What may differ from layer to layer."""

    # The most positions a position attends to, itself among them: those before it, in an encoder as many at each side.
    window: int | None = None  # None: all
    rope: Rope | None = None  # rotary positions; None: queries and keys are not rotated


@dataclass(frozen=True)
class Config:
    """A field means one thing in every family. Raises ModelError for an impossible shape.

    D width, H heads, G key-value heads, K head width, V vocabulary.
    """

    vocabulary_size: int  # V
    context: int  # the most positions in one sequence
    width: int  # D
    layers: int
    heads: int  # H
    key_value_heads: int  # G, divides H: that many queries share a key and a value
    head_width: int  # K
    hidden: int  # the width inside the MLP
    layer_kinds: tuple[LayerKind, ...] = (LayerKind(rope=Rope()),)  # one for each layer; a shorter tuple is repeated
    residual: Residual = "pre"  # where a block has its norms: see `Block`
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = 1e-6
    norm_offset: float = 0.0  # a norm multiplies by this plus its weight
    norm_bias: bool = True  # a LayerNorm adds a bias
    input_norm: bool = False  # a norm follows the embeddings, as it does where residual = "post"
    first_norm: bool = True  # the first layer's attention has a norm
    learned_positions: bool = False  # an embedding of positions is added to that of the tokens
    position_offset: int = 0  # the row of that embedding which the first position has; `context` counts none before it
    scaled_embedding: bool = False  # the embedding of the tokens is multiplied by √D
    embedding_factor: float = 1.0  # and by this
    residual_factor: float = 1.0  # what attention and MLP add to the residual stream is multiplied by this
    logit_divisor: float = 1.0  # logits are divided by this
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    gated: bool = True  # the MLP multiplies its activation by a second projection (SwiGLU)
    query_key_norm: Literal["head", "width"] | None = "head"  # queries and keys: of each head, or of all heads together
    query_scale_width: float | None = None  # attention scores are divided by the root of this; None: of K
    attention_factor: float | None = None  # instead of that, attention scores are multiplied by this
    attention_cap: float | None = None  # attention scores s become cap · tanh(s / cap)
    logit_cap: float | None = None  # and so do logits
    query_key_value_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False  # the output matrix is the embedding matrix
    # What makes it BERT's encoder (Devlin et al., 2019), with residual = "post":
    causal: bool = True  # no position attends to a later one
    segments: int = 0  # rows of an embedding of text parts, of which a single text takes the first
    masked_head: bool = False  # a layer and a norm stand between hidden states and output, which has a bias
    head_bias: bool = True  # that layer has a bias
    summary: Literal["first", "mean"] = "first"  # what of the hidden states a linear head reads: one or their mean
    pooler: bool = False  # a linear head reads it through a layer and `pooler_activation`
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    pooler_like_head: bool = False  # instead of these, through a layer, activation and norm like the masked head's
    language_head: bool = True  # it has logits; an encoder saved without its head has hidden states alone

    def __post_init__(self) -> None:
        sizes = ["vocabulary_size", "context", "width", "layers", "heads", "key_value_heads", "head_width", "hidden"]
        windows = [("window", kind.window) for kind in self.layer_kinds if kind.window is not None]
        for name, value in [*((name, getattr(self, name)) for name in sizes), *windows]:
            if type(value) is not int or value < 1:
                raise ModelError(f"model: wanted {name} of at least 1, got {value!r}")
        if not isinstance(self.position_offset, int) or self.position_offset < 0:
            raise ModelError(f"model: wanted position_offset of at least 0, got {self.position_offset!r}")
        for name in _POSITIVE:
            number = getattr(self, name)
            if number is not None and (not isinstance(number, int | float) or number <= 0):
                raise ModelError(f"model: wanted {name} to be a number above 0, got {number!r}")
        if self.heads % self.key_value_heads:
            raise ModelError(
                f"model: wanted heads that key_value_heads divides, got {self.heads} and {self.key_value_heads}"
            )
        for rope in [kind.rope for kind in self.layer_kinds if kind.rope is not None]:
            width = self.head_width if rope.width is None else rope.width
            if width < 1 or width % 2 or width > self.head_width:
                raise ModelError(
                    f"model: wanted an even width of at most {self.head_width} for rotary positions, got {width}"
                )
        object.__setattr__(self, "layer_kinds", _shortest(self.layer_kinds, self.layers))

    def kind_of(self, layer: int) -> LayerKind:
        """The kind of a layer, counted from 0."""
        return self.layer_kinds[layer % len(self.layer_kinds)]

    @property
    def original_context(self) -> int | None:
        """How many tokens a sequence may have that is rotated as in pretraining; a longer one is rotated otherwise from
        its first token on (LongRoPE). None where that makes no difference."""
        ropes = [kind.rope.scaling for kind in self.layer_kinds if kind.rope is not None]
        found = [each.original_context for each in ropes if isinstance(each, LongRope) and each.long != each.short]
        return min(found) if found and min(found) < self.context else None

    def check_language_head(self) -> None:
        """ModelError for a model that has hidden states and no logits."""
        if not self.language_head:
            raise ModelError(
                "model: wanted a language-model head, got a model that was saved without one: it has features and can"
                " be finetuned, but cannot score, fill, generate or be prompted; take a model that has its head"
            )

    def __repr__(self) -> str:
        """On one line, with the fields of chainrule's first version by their names and in their order.

        Comparisons recognise their model by a hash of this: those begun by an earlier version must go on. Newer fields
        are named where they are not at their default.
        """
        rope = self.layer_kinds[0].rope
        values = {each.name: getattr(self, each.name) for each in fields(self)} | {
            "positions": "learned" if self.learned_positions else "rotary",
            "rope_theta": Rope.theta if rope is None else rope.theta,
            "rope_scaling": None if rope is None else rope.scaling,
            "rotary_width": None if rope is None else rope.width,
            "window": self.layer_kinds[0].window,
            "query_key_norm": self.query_key_norm is not None,
            "parallel": self.residual == "parallel",
            "post_norm": self.residual == "post",
        }
        shown = {name: values[name] for name in _FIRST_FIELDS}
        defaults = {each.name: each.default for each in fields(self)}
        shown |= {name: values[name] for name in _LATER_FIELDS if values[name] != defaults[name]}
        if self.residual in ("reordered", "sandwich"):
            shown["residual"] = self.residual
        if self.query_key_norm == "width":
            shown["query_key_norm"] = "width"
        if len(self.layer_kinds) > 1:
            shown["layer_kinds"] = self.layer_kinds
        return f"Config({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


_FIRST_FIELDS = (
    "vocabulary_size", "context", "width", "layers", "heads", "key_value_heads", "head_width", "hidden", "norm",
    "norm_epsilon", "positions", "rope_theta", "rope_scaling", "rotary_width", "window", "activation", "gated",
    "query_key_norm", "query_key_value_bias", "attention_output_bias", "mlp_bias", "parallel", "tied", "causal",
    "post_norm", "segments", "masked_head", "pooler",
)  # fmt: skip
_POSITIVE = (
    "norm_epsilon", "query_scale_width", "attention_factor", "embedding_factor", "residual_factor", "logit_divisor",
    "attention_cap", "logit_cap",
)  # fmt: skip
_LATER_FIELDS = (
    "norm_offset", "scaled_embedding", "query_scale_width", "attention_factor", "embedding_factor",
    "residual_factor", "logit_divisor", "attention_cap", "logit_cap", "position_offset", "pooler_activation",
    "norm_bias", "input_norm", "first_norm", "head_bias", "summary", "pooler_like_head",
)  # fmt: skip


def _shortest(kinds: tuple[LayerKind, ...], layers: int) -> tuple[LayerKind, ...]:
    """The shortest tuple that gives each layer the same kind when repeated."""
    every = tuple(kinds[layer % len(kinds)] for layer in range(layers))
    return next(
        every[:period]
        for period in range(1, layers + 1)
        if all(every[layer] == every[layer % period] for layer in range(layers))
    )
