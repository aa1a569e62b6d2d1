"""Linear layers and an embedding whose weights are blocks of whole numbers with a scale. Knows no file.

They compute from the blocks as they are; activations keep their precision. Nothing of them is trained.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chainrule.errors import ModelError, OptionError
from chainrule.model.blocks import BLOCK, KINDS, dequantise, quantise
from chainrule.model.linear import Linear, replace_linears
from chainrule.model.native.products import multiply, widened
from chainrule.model.transformer import Transformer

Quantisation = Literal["int8", "int4"]
# The kinds of block of a quantisation: that of a tied embedding keeps 8 bits, since logits are read from it.
_LINEAR: Mapping[Quantisation, str] = {"int8": "Q8_0", "int4": "Q4_1"}


class QuantisedLinear(nn.Module):
    """A `Linear` whose matrix is in blocks, (out_features, bytes)."""

    blocks: Tensor
    bias: Tensor | None

    def __init__(self, blocks: Tensor, kind: str, parts: tuple[int, ...], bias: Tensor | None) -> None:
        """`parts` as in `Linear`."""
        super().__init__()
        assert sum(parts) == len(blocks), "the parts are all of the rows"
        self.kind, self.parts, self.out_features = kind, parts, len(blocks)
        self.in_features = blocks.shape[1] // KINDS[kind].size * BLOCK
        self.register_buffer("blocks", blocks, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The matrix in float32, made anew each time."""
        return widened(self.blocks, self.kind)

    def forward(self, input: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features)."""
        return multiply(input, self.blocks, self.bias, self.kind)


class QuantisedEmbedding(nn.Module):
    """An `Embedding` whose rows are in blocks."""

    blocks: Tensor

    def __init__(self, blocks: Tensor, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("blocks", blocks, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The matrix in float32, made anew each time."""
        return widened(self.blocks, self.kind)

    @property
    def device(self) -> torch.device:
        return self.blocks.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its rows as they are used."""
        return torch.float32

    def forward(self, tokens: Tensor) -> Tensor:
        """The rows of tokens (B, T), in float32."""
        rows = dequantise(self.blocks[tokens.flatten()], self.kind)
        return rows.view(*tokens.shape, -1)

    def logits(self, features: Tensor, bias: Tensor | None) -> Tensor:
        """As a tied output matrix: (…, D) to (…, V)."""
        return multiply(features, self.blocks, bias, self.kind)


def put_blocks(model: Transformer, blocks: Mapping[str, tuple[Tensor, str]], state: dict[str, Any]) -> None:
    """Put blocks and their kinds, by the names of the weights that they are, in the place of layers. The biases of
    these are taken out of `state`."""
    for name, (stored, kind) in blocks.items():
        module = name.removesuffix(".weight")
        parent, _, attribute = module.rpartition(".")
        layer = model.get_submodule(module)
        made: nn.Module
        if isinstance(layer, Linear):
            made = QuantisedLinear(stored, kind, layer.parts, state.pop(f"{module}.bias", None))
        else:
            made = QuantisedEmbedding(stored, kind)
        setattr(model.get_submodule(parent), attribute, made)


def quantise_model(model: Transformer, to: Quantisation) -> None:
    """Put the weights of all linear layers and of a tied embedding into blocks, in place.

    Layers that are quantised already stay as they are. Raises OptionError where a width is no multiple of 32.
    """
    model.compute_dtype = model.compute_dtype or model.dtype

    def make(name: str, layer: Linear) -> nn.Module:
        check_width(name, layer.in_features, to)
        kind = "Q8_0" if name == "output" else _LINEAR[to]
        return QuantisedLinear(quantise(layer.weight, kind), kind, layer.parts, layer.bias).to(layer.weight.device)

    replace_linears(model, make)
    if model.config.tied and model.config.language_head and not isinstance(model.embedding, QuantisedEmbedding):
        check_width("embedding", model.config.width, to)
        made = QuantisedEmbedding(quantise(model.embedding.weight, "Q8_0"), "Q8_0")
        setattr(model, "embedding", made)  # noqa: B010, it takes the place of an Embedding


def check_width(name: str, width: int, to: Quantisation) -> None:
    """OptionError where blocks don't divide the inputs of a layer."""
    if width % BLOCK:
        raise OptionError(
            f"--quantize {to}: wanted layers whose inputs are a multiple of {BLOCK}, got {width} for {name};"
            " leave --quantize out"
        )


def is_quantised(model: nn.Module) -> bool:
    """Whether any of its weights are in blocks."""
    return any(isinstance(module, QuantisedLinear | QuantisedEmbedding) for module in model.modules())


def refuse_quantised(model: nn.Module, purpose: str) -> None:
    """ModelError for a quantised model, where its weights must be float ones."""
    if is_quantised(model):
        raise ModelError(
            f"{purpose}: wanted weights in float32 or bfloat16, got quantised ones, which are only read;"
            " load the model without quantize"
        )
