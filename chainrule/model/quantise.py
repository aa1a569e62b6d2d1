"""Puts a Transformer's weights into blocks of 8 or 4 bits. Knows no file."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from chainrule.errors import OptionError
from chainrule.model.blocks import BLOCK, quantise
from chainrule.model.linear import Linear, replace_linears
from chainrule.model.quantised import QuantisedEmbedding, QuantisedLinear
from chainrule.model.transformer import Transformer

Quantisation = Literal["int8", "int4"]
# The kinds of block of a quantisation: that of a tied embedding keeps 8 bits, since logits are read from it.
_LINEAR: Mapping[Quantisation, str] = {"int8": "Q8_0", "int4": "Q4_1"}


def put_blocks(model: Transformer, blocks: Mapping[str, tuple[Tensor, str]], state: dict[str, Any]) -> None:
    """Put blocks and their kinds, by the names of the weights that they are, in the place of layers. The biases of
    these are taken out of `state`."""
    for name, (stored, kind) in blocks.items():
        module = name.removesuffix(".weight")
        layer = model.get_submodule(module)
        made: nn.Module
        if isinstance(layer, Linear):
            made = QuantisedLinear(stored, kind, layer.parts, state.pop(f"{module}.bias", None))
        else:
            made = QuantisedEmbedding(stored, kind)
        model.set_submodule(module, made)


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
        model.set_submodule("embedding", QuantisedEmbedding(quantise(model.embedding.weight, "Q8_0"), "Q8_0"))


def check_width(name: str, width: int, to: Quantisation) -> None:
    """OptionError where blocks don't divide the inputs of a layer."""
    if width % BLOCK:
        raise OptionError(
            f"--quantize {to}: wanted layers whose inputs are a multiple of {BLOCK}, got {width} for {name};"
            " leave --quantize out"
        )
