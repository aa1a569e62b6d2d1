"""LoRA's layers: nothing changes until something is learned, and merging changes nothing but the last digits."""

from collections.abc import Sequence

import pytest
import torch
from conftest import SHAPES, random_model

from chainrule.model.adapter import AdaptedLinear, LowRank, adapters_of, merged, random_adapter, with_adapters
from chainrule.model.formats.adapter import adapter_parts
from chainrule.model.linear import Linear
from chainrule.model.transformer import Transformer

TOKENS = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(2))


def adapted(model: Transformer, family: str, rank: int = 4, scale: float = 2.0) -> Transformer:
    generator, parts = torch.Generator().manual_seed(0), adapter_parts(model, family)
    adapters = {
        name: {
            index: random_adapter(
                model.get_submodule(name).get_parameter("weight").shape[1], rows, rank, scale, generator
            )
            for index, rows in enumerate(rows_of)
        }
        for name, rows_of in parts.items()
        if name.startswith("blocks.")
    }
    return with_adapters(model, parts, adapters)


def moved(model: Transformer) -> Transformer:
    """No matrix at its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRank):
                module.B.add_(torch.randn(module.B.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("family", [*SHAPES, "bert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_with_b_of_zeros_the_logits_are_those_of_the_base_to_the_bit(family: str, dtype: torch.dtype) -> None:
    base = random_model(family).to(dtype)
    assert torch.equal(adapted(base, family)(TOKENS), base(TOKENS))


@pytest.mark.parametrize("family", [*SHAPES, "bert"])
@torch.no_grad()
def test_merged_equals_unmerged_and_the_base_stays_as_it_was(family: str) -> None:
    base = random_model(family)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = moved(adapted(base, family))
    logits = model(TOKENS)
    assert (logits - base(TOKENS)).abs().max() > 0.1
    torch.testing.assert_close(merged(model)(TOKENS), logits, atol=2e-4, rtol=1e-4)
    assert not any(isinstance(module, AdaptedLinear) for module in merged(model).modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_a_base_in_bfloat16_is_merged_in_float32() -> None:
    base = random_model("qwen3").to(torch.bfloat16)
    model = moved(adapted(base, "qwen3"))
    weight = merged(model).get_parameter("blocks.0.mlp.down.weight")
    (adapter,) = adapters_of(model)["blocks.0.mlp.down"].values()
    assert (weight.dtype, adapter.A.dtype) == (torch.float32, torch.float32)
    assert torch.equal(weight, base.get_parameter("blocks.0.mlp.down.weight").float() + 2.0 * (adapter.B @ adapter.A))


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "phi3", "bert"])
@torch.no_grad()
def test_at_full_rank_any_change_of_the_linear_layers_is_represented(family: str) -> None:
    base, changed = random_model(family), random_model(family)
    parts, generator, adapters = adapter_parts(base, family), torch.Generator().manual_seed(5), {}
    for name, rows in parts.items():
        if not name.startswith("blocks."):
            continue
        weight = changed.get_parameter(f"{name}.weight")
        change = 0.1 * torch.randn(weight.shape, generator=generator)
        weight.add_(change)
        eye = torch.eye(weight.shape[1])
        adapters[name] = {index: LowRank(eye, part / 2, 2.0) for index, part in enumerate(change.split(list(rows)))}
    logits = changed(TOKENS)
    assert (logits - base(TOKENS)).abs().max() > 0.1
    torch.testing.assert_close(with_adapters(base, parts, adapters)(TOKENS), logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_all_linear_weights_and_lora_at_full_rank_reach_the_same_loss(family: str) -> None:
    tokens = TOKENS[:2, :12]

    def least(model: Transformer, trained: Sequence[torch.Tensor], steps: int = 40, rate: float = 0.02) -> float:
        optimizer = torch.optim.Adam(trained)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            loss = model(tokens[:, :-1], targets=tokens[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    base, whole = random_model(family, layers=1), random_model(family, layers=1).requires_grad_(False)
    linear = [layer.weight for layer in whole.blocks.modules() if isinstance(layer, Linear)]
    start = float(base(tokens[:, :-1], targets=tokens[:, 1:]).detach())
    of_all = least(whole, [weight.requires_grad_(True) for weight in linear])
    made = adapted(base, family, rank=48, scale=32 / 48)
    full = least(made, [each for each in made.parameters() if each.requires_grad])
    assert max(of_all, full) < 0.05 * start and abs(full - of_all) < 0.02 * start


@torch.no_grad()
def test_frozen_weights_that_are_changed_are_converted_again() -> None:
    base = random_model("qwen3")
    model = adapted(base, "qwen3")
    layer, x = model.get_submodule("blocks.0.mlp.down"), torch.ones(2, base.config.hidden, dtype=torch.bfloat16)
    before = layer(x)
    base.get_parameter("blocks.0.mlp.down.weight").mul_(2)
    torch.testing.assert_close(layer(x), 2 * before)


def test_the_base_is_frozen_and_shared_and_each_map_has_its_own_matrices() -> None:
    base = random_model("qwen3")
    model = adapted(base, "qwen3", rank=3)
    layer = model.get_submodule("blocks.0.attention.query_key_value")
    assert isinstance(layer, AdaptedLinear)
    assert layer.base.weight.data_ptr() == base.get_parameter("blocks.0.attention.query_key_value.weight").data_ptr()
    assert [tuple(adapter.B.shape) for adapter in layer.adapters.values()] == [(32, 3), (16, 3), (16, 3)]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".adapters." in name for name in trained)
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_some_maps_may_have_none() -> None:
    base = random_model("qwen3")
    parts = adapter_parts(base, "qwen3")
    generator = torch.Generator().manual_seed(0)
    only = LowRank(torch.randn(2, 32, generator=generator), torch.randn(16, 2, generator=generator), 1.0)
    model = with_adapters(base, parts, {"blocks.1.attention.query_key_value": {2: only}})
    with torch.no_grad():
        torch.testing.assert_close(merged(model)(TOKENS), model(TOKENS), atol=2e-4, rtol=1e-4)
    changed = "blocks.1.attention.query_key_value.weight"
    change = merged(model).get_parameter(changed) - base.get_parameter(changed)
    assert not change[:48].any() and change[48:].any()
