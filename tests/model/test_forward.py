"""Every use of a Transformer enters by `forward`, and each of its outputs is what the others imply."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from conftest import random_model
from torch import Tensor, distributed

from chainrule.model import attention
from chainrule.model.prefixes import empty_cache
from chainrule.model.transformer import Transformer

TOKENS = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(2))
TARGETS = TOKENS.roll(-1, dims=1)


def test_a_hook_on_forward_sees_every_use() -> None:
    model, calls = random_model("qwen3"), []
    model.register_forward_pre_hook(lambda module, arguments: calls.append(arguments))
    features = model.features(TOKENS)
    model.logits(features)
    model.summary(TOKENS, torch.tensor([3, 5, 19]))
    model(TOKENS, targets=TARGETS)
    assert len(calls) == 4


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "bert"])
def test_a_model_with_sharded_weights_gives_the_same(family: str, one_process: None) -> None:
    from torch.distributed.fsdp import fully_shard

    model, last = random_model(family), torch.tensor([3, 5, 19])
    sharded = deepcopy(model)
    mesh = distributed.init_device_mesh("cpu", (1,))
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    losses = []
    for each in (model, sharded):
        losses.append(each(TOKENS, targets=TARGETS))
        losses[-1].backward()
    assert torch.equal(*losses)
    for one, other in zip(model.parameters(), sharded.parameters(), strict=True):
        if one.grad is not None:
            assert torch.equal(one.grad, other.grad.full_tensor())
    with torch.no_grad():
        assert torch.equal(sharded.logits(sharded.features(TOKENS)), model(TOKENS))
        assert torch.equal(sharded.summary(TOKENS, last), model.summary(TOKENS, last))


@torch.no_grad()
def test_masks_and_rotations_are_made_once_for_each_kind_of_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(random_model("gemma3_text").config, layers=6)
    model, made = Transformer(config), dict[str, Mock]()
    for name in ("rotation", "causal_mask"):
        made[name] = Mock(wraps=getattr(attention, name))
        monkeypatch.setattr(attention, name, made[name])
    model(TOKENS)
    assert made["rotation"].call_count == 2
    assert made["causal_mask"].call_count == 1  # one kind has a window


def test_device_and_dtype_are_those_of_the_weights() -> None:
    model = random_model("qwen3").to(torch.bfloat16)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.bfloat16)
    model.compute_dtype = torch.float32
    assert model.dtype == torch.bfloat16 and model(TOKENS).dtype == torch.float32


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "bert"])
def test_the_loss_is_the_mean_surprisal_of_the_targets_and_so_are_its_gradients(family: str) -> None:
    model = random_model(family)
    wanted = F.cross_entropy(model(TOKENS).flatten(0, 1), TARGETS.flatten())
    for loss in (model(TOKENS, targets=TARGETS), model(features=model.features(TOKENS), targets=TARGETS)):
        torch.testing.assert_close(loss, wanted, atol=1e-6, rtol=0)
        for one, other in zip(_gradients(model, loss), _gradients(model, wanted), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def _gradients(model: Transformer, loss: Tensor) -> list[Tensor]:
    weights = [weight for name, weight in model.named_parameters() if not name.startswith("pooler")]
    return list(torch.autograd.grad(loss, weights, retain_graph=True))


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gpt2", "bert"])
@torch.no_grad()
def test_outputs_at_some_positions_are_those_among_all(family: str) -> None:
    model, positions = random_model(family), torch.tensor([[0, 3], [19, 7], [4, 5]])
    logits = model(TOKENS)[torch.arange(3)[:, None], positions]
    torch.testing.assert_close(model(TOKENS, output_positions=positions), logits, atol=1e-5, rtol=0)
    loss = model(TOKENS, targets=TARGETS.gather(1, positions), output_positions=positions)
    wanted = F.cross_entropy(logits.flatten(0, 1), TARGETS.gather(1, positions).flatten())
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=0)
    assert model(TOKENS, output_positions=positions[:, :0]).shape == (3, 0, 61)


@torch.no_grad()
def test_what_a_classifier_reads_is_the_final_hidden_state_of_the_last_token() -> None:
    model, last = random_model("qwen3"), torch.tensor([3, 5, 19])
    wanted = model.features(TOKENS)[torch.arange(3), last]
    torch.testing.assert_close(model(TOKENS, output="summary", last=last), wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_cache_is_filled_by_any_output() -> None:
    model = random_model("qwen3")
    cache = empty_cache(model, 20, len(TOKENS))
    model(TOKENS[:, :12], output="features", cache=cache)
    torch.testing.assert_close(model(TOKENS[:, 12:], cache=cache), model(TOKENS)[:, 12:], atol=1e-5, rtol=0)
