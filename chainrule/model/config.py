"""What a Transformer is, in one flat table. Knows no family, and computes nothing."""

from dataclasses import dataclass, field
from typing import Literal

from chainrule.errors import ModelError
from chainrule.model.rotary import RopeScaling


@dataclass(frozen=True)
class Config:
    """A field means one thing in every family. Raises ModelError for a shape that cannot be.

    D width, H heads, G key-value heads, K head width, V vocabulary.
    """

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
    rope_scaling: RopeScaling | None = None
    rotary_width: int | None = None  # so much of a head's width is rotated; None: all of it
    window: int | None = None  # the most positions a position sees, itself among them; None: all before it
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    gated: bool = True  # the MLP multiplies its activation by a second projection (SwiGLU)
    query_key_norm: bool = True
    query_key_value_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    parallel: bool = False  # attention and MLP of a block read the same x
    tied: bool = False  # the output matrix is the embedding matrix
    # What makes it BERT's encoder (Devlin et al., 2019):
    causal: bool = True  # no position sees a later one
    post_norm: bool = False  # a norm follows each residual sum and the embeddings, instead of opening each branch
    segments: int = 0  # rows of an embedding of text parts, of which a single text takes the first
    masked_head: bool = False  # a layer and a norm stand between features and output, which has a bias
    pooler: bool = False  # tanh of a layer at the first token is what a linear head reads
    # It has logits; an encoder saved without its head has features alone. Not in the repr: by that, comparisons
    # that were begun before there was this field know their model.
    language_head: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        sizes = ["vocabulary_size", "context", "width", "layers", "heads", "key_value_heads", "head_width", "hidden"]
        sizes += [name for name in ("rotary_width", "window") if getattr(self, name) is not None]
        for name in sizes:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ModelError(f"model: wanted {name} of at least 1, got {value!r}")
        if self.heads % self.key_value_heads:
            raise ModelError(
                f"model: wanted heads that key_value_heads divides, got {self.heads} and {self.key_value_heads}"
            )
        turned = self.rotary_width or self.head_width
        if self.positions == "rotary" and (turned % 2 or turned > self.head_width):
            raise ModelError(
                f"model: wanted an even width of at most {self.head_width} for rotary positions, got {turned}"
            )

    def check_language_head(self) -> None:
        """ModelError for a model that has features and no logits."""
        if not self.language_head:
            raise ModelError(
                "model: wanted a language-model head, got a model that was saved without one: it has features and can"
                " be finetuned, but cannot score, fill, generate or be prompted; take a model that has its head"
            )
