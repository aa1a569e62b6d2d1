"""Weights in oneDNN's order give the products of the plain ones, and are made anew where these change."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import random_model
from torch import nn

from chainrule.language_model import LanguageModel, load
from chainrule.model import packed
from chainrule.model.linear import Linear
from chainrule.model.packed import Packing, can_pack
from chainrule.tokens.make import byte_tokenizer

packs = pytest.mark.skipif(not can_pack(torch.float32), reason="this PyTorch has no oneDNN")
DTYPES = [torch.float32, *([torch.bfloat16] if can_pack(torch.bfloat16) else [])]


def layer_of(dtype: torch.dtype, inputs: int = 96) -> Linear:
    layer = Linear(inputs, 40, 31)
    generator = torch.Generator().manual_seed(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.to(dtype)


@packs
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", [61, 96])
def test_packed_products_are_the_plain_ones_alone_and_in_a_batch(dtype: torch.dtype, inputs: int) -> None:
    layer = layer_of(dtype, inputs)
    x = torch.randn(3, 400, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = x.double() @ layer.weight.double().T + layer.bias.double()
    layer.packing = Packing()
    with torch.inference_mode():
        layer(x)
        found, alone = layer(x), layer(x[1, 5:6])
    assert layer.packing._packed is not None and found.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=0)
    torch.testing.assert_close(alone, found[1, 5:6], atol=1e-5 if dtype == torch.float32 else 0.3, rtol=0)


@packs
def test_weights_that_change_are_packed_anew_and_gradients_are_the_plain_ones() -> None:
    layer, x = layer_of(torch.float32), torch.randn(packed._ROWS, 96)
    layer.packing = Packing()
    with torch.inference_mode():
        layer(x)
    assert layer.packing._packed is not None
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x[:3]), x[:3] @ layer.weight.T + layer.bias, atol=1e-4, rtol=0)
        assert layer.packing._packed is None
    copied = deepcopy(layer)
    assert copied.packing is not layer.packing and copied.packing is not None


@packs
@torch.no_grad()
def test_weights_in_the_memory_of_others_that_were_freed_are_packed_anew() -> None:
    layer, x = layer_of(torch.float32), torch.randn(packed._ROWS, 96)
    layer.packing = Packing()
    for number in range(4):  # an allocator gives the memory that was freed last
        del layer.weight
        layer.weight = nn.Parameter(torch.full((71, 96), float(number)))
        torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias, atol=1e-3, rtol=0)
    torch.testing.assert_close(layer(x[0]), layer(x)[0], atol=1e-3, rtol=0)  # without a dimension of rows


@packs
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_model_loaded_for_the_commands_packs_what_is_used_much(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(family, vocabulary_size=257).eval()
    LanguageModel(model, byte_tokenizer(), family).save(tmp_path)
    plain = load(tmp_path, device="cpu")
    monkeypatch.setattr(packed, "_ROWS", 8)
    lm = load(tmp_path, device="cpu", quantize="auto")
    assert isinstance(lm, LanguageModel) and isinstance(plain, LanguageModel)
    text = "To be, or not to be"
    found = [lm.log_prob(text) for _ in range(2)]
    layers = [layer for layer in lm.model.modules() if isinstance(layer, Linear)]
    assert all(layer.packing is not None and layer.packing._packed is not None for layer in layers)
    assert found == pytest.approx([plain.log_prob(text)] * 2, abs=1e-4)
    lm.save(tmp_path / "again")
    again = load(tmp_path / "again", device="cpu")
    assert isinstance(again, LanguageModel) and again.log_prob(text) == plain.log_prob(text)


def test_without_the_memory_for_it_nothing_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LanguageModel(random_model("llama", vocabulary_size=257).eval(), byte_tokenizer(), "llama").save(tmp_path)
    monkeypatch.setattr("chainrule.machine.free_memory", lambda device: 1000.0)
    lm = load(tmp_path, device="cpu", quantize="auto")
    assert all(layer.packing is None for layer in lm.model.modules() if isinstance(layer, Linear))
