"""Linear layers: replaced all at once, and their parts are the maps that files and Muon know."""

import pytest
import torch
from conftest import SHAPES, random_model
from torch import Tensor, nn

from chainrule.model.linear import Linear, linear_maps, replace_linears

TOKENS = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(2))


class Wrapped(nn.Module):
    """The same computation by another module, which has none of the attributes of `Linear`."""

    def __init__(self, inner: Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize("family", [*SHAPES, "bert"])
def test_all_linear_layers_can_be_replaced_and_the_logits_stay_the_same_bit_for_bit(family: str) -> None:
    model, names = random_model(family), []
    logits, loss = model(TOKENS), model(TOKENS, targets=TOKENS)

    def make(name: str, layer: Linear) -> nn.Module:
        names.append(name)
        return Wrapped(layer)

    replace_linears(model, make)
    assert torch.equal(model(TOKENS), logits)
    torch.testing.assert_close(model(TOKENS, targets=TOKENS), loss, atol=1e-5, rtol=0)
    assert {"blocks.0.attention.query_key_value", "blocks.1.mlp.down"} < set(names)
    assert ("output" in names) == (not model.config.tied)
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    wrapped = [module.inner for module in model.modules() if isinstance(module, Wrapped)]
    assert layers == wrapped


def test_a_layer_may_be_left_as_it_is() -> None:
    model = random_model("qwen3")
    replace_linears(model, lambda name, layer: Wrapped(layer) if name.endswith("mlp.up") else layer)
    assert [name for name, module in model.named_modules() if isinstance(module, Wrapped)] == [
        "blocks.0.mlp.up",
        "blocks.1.mlp.up",
    ]


def test_the_parts_of_a_layer_are_the_rows_of_its_maps() -> None:
    model = random_model("qwen3")  # 4 heads and 2 key-value heads of 8, a gated MLP of 48
    layers = {name: layer.parts for name, layer in model.named_modules() if isinstance(layer, Linear)}
    assert layers["blocks.0.attention.query_key_value"] == (32, 16, 16)
    assert layers["blocks.0.mlp.up"] == (48, 48)
    assert layers["blocks.0.mlp.down"] == (32,)
    rows = [(start, stop) for _, start, stop in linear_maps(model)]
    assert rows == 2 * [(0, 32), (32, 48), (48, 64), (0, 32), (0, 48), (48, 96), (0, 32)]
