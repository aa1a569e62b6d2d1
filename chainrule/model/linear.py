"""Linear layers: what their rows are, and how all of a model's are replaced. Knows no Transformer.

A layer's `parts` are the sizes of the linear maps that it computes in one product: the rows of query, key and value, or
of gate and up. Files that store the maps apart, Muon, which makes each orthogonal, and adapters all read it.
"""

from collections.abc import Callable
from itertools import accumulate

from torch import Tensor, nn

from chainrule.model.native.products import multiply
from chainrule.model.packed import Packing


class Linear(nn.Linear):
    """A matrix kept in its own precision and used in that of its input (bfloat16 activations, float32 weights)."""

    def __init__(self, in_features: int, *parts: int, bias: bool = True) -> None:
        """`parts` are the output sizes of the maps; their outputs lie one after another."""
        super().__init__(in_features, sum(parts), bias)
        self.parts = parts
        self.packing: Packing | None = None

    def reset_parameters(self) -> None:
        """Nothing is drawn here: on the meta device that would import for a second and 80 MB."""

    def forward(self, input: Tensor) -> Tensor:
        return multiply(input, self.weight, self.bias, packing=self.packing)


def replace_linears(model: nn.Module, make: Callable[[str, Linear], nn.Module]) -> None:
    """Put `make(name, layer)` in the place of every `Linear` of a model; return the layer to leave it as it is.

    Names are those of `named_modules`. A replacement takes (…, in_features) to (…, out_features), a tied output matrix
    is the embedding and no layer, and an untied one is a layer, named output.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear):
            model.set_submodule(name, make(name, layer))


def linear_maps(model: nn.Module) -> list[tuple[nn.Parameter, int, int]]:
    """The linear maps between embedding and output as (parameter, first row, last row + 1), a fused layer's apart."""
    maps: list[tuple[nn.Parameter, int, int]] = []
    for name, layer in model.named_modules():
        if isinstance(layer, Linear) and name.startswith(("blocks.", "head.")):
            ends = list(accumulate(layer.parts))
            weight = layer.get_parameter("weight")
            maps += [(weight, end - part, end) for part, end in zip(layer.parts, ends, strict=True)]
    return maps
