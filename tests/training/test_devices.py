"""What computes does so where the weights are, and a training step never waits for its device.

With fake tensors on a device without memory: an operation that mixes devices raises, and so does reading a value.
"""

from collections.abc import Iterator

import pytest
import torch
from conftest import MASKED, SHAPES
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from chainrule.generation import engine as engines
from chainrule.generation import prefill
from chainrule.generation.engine import Engine
from chainrule.generation.fixed_steps import FixedSteps
from chainrule.generation.sampling import Sampling, choose, random_numbers
from chainrule.model.batch_cache import BatchCache
from chainrule.model.config import Config
from chainrule.model.linear import linear_maps
from chainrule.model.transformer import Transformer
from chainrule.training.objectives import MaskedBatch, masked_token_loss, next_token_loss
from chainrule.training.optimizer import Group, Matrix, Optimizer, Schedule
from chainrule.training.trainer import Trainer

DEVICE = torch.device("meta")
FAMILIES = ("qwen3", "gemma2", "gpt2", "mistral", "bert", "modernbert")


@pytest.fixture(autouse=True)
def fake() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def model_of(family: str) -> Transformer:
    with DEVICE:
        return Transformer(Config(vocabulary_size=61, context=32, **{**SHAPES, **MASKED}[family]))


class Windows:
    """Windows of tokens on the device."""

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[Tensor]:
        return [torch.zeros(2, 9, dtype=torch.long, device=DEVICE)] * 2

    def halve(self) -> str | None:
        return None

    def loss(self, model: Transformer, batch: Tensor) -> tuple[Tensor, Tensor]:
        if model.config.causal:
            mean = next_token_loss(model, batch)
        else:
            mean = masked_token_loss(model, MaskedBatch(batch, batch[:, :2], batch[:, :2]))
        return mean * 16, torch.full((), 16.0, device=DEVICE)


def trainer_of(model: Transformer) -> Trainer:
    names = {parameter: name for name, parameter in model.named_parameters()}
    maps = [Matrix(*found) for found in linear_maps(model)]
    inside = {matrix.parameter for matrix in maps}
    rest = Group([parameter for parameter in names if parameter not in inside], 1e-2)
    return Trainer(model, Optimizer(names, maps, 0.02, [rest], Schedule(3)), Windows(), 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_computes_on_one_device_and_does_not_wait_for_it(family: str) -> None:
    model = model_of(family)
    model.compute_dtype = torch.bfloat16
    model.checkpoint_activations = family in ("qwen3", "bert")
    trainer = trainer_of(model)
    trainer.ahead = True  # as on a GPU
    made = list(trainer.steps())
    assert len(made) == 3
    with pytest.raises(DataDependentOutputException):
        made[-1].loss  # noqa: B018  reading it does wait
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_checks_here_notice_what_waits_and_what_mixes_devices() -> None:
    trainer = trainer_of(model_of("qwen3"))
    assert not trainer.ahead
    with pytest.raises(DataDependentOutputException):  # whether the step is finite is read
        next(trainer.steps())
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(2, device=DEVICE) + torch.zeros(2)


@torch.no_grad()
@pytest.mark.parametrize("family", [*SHAPES, *MASKED])
def test_logits_and_summaries_are_computed_where_the_weights_are(family: str) -> None:
    model, tokens = model_of(family), torch.zeros(3, 9, dtype=torch.long, device=DEVICE)
    assert model(tokens).device == model(tokens, last=tokens[:, 0]).device == DEVICE
    assert model.summary(tokens, torch.full((3,), 4, device=DEVICE)).device == DEVICE
    features = model.features(tokens, output_positions=tokens[:, :2])
    assert model.next_logits(features[:, -1]).device == DEVICE


def cache_of(model: Transformer, rows: int, lengths: list[int]) -> BatchCache:
    """With room for so many rows of 20 tokens, of which there are some."""
    config = model.config
    cache = BatchCache(config.layers, config.key_value_heads, config.head_width, torch.float32, DEVICE)
    cache.reserve(rows, 20)
    cache._set_lengths(lengths)
    return cache


@torch.no_grad()
@pytest.mark.parametrize("family", SHAPES)
def test_a_step_of_decoding_is_computed_where_the_weights_are(family: str) -> None:
    model = model_of(family)
    cache = cache_of(model, 3, [9, 4, 2])
    features = model.features(torch.zeros(3, 1, dtype=torch.long, device=DEVICE), cache)
    logits = model.next_logits(features[:, -1])
    for sampling in (Sampling(0.0), Sampling(0.7, top_k=5, top_p=0.9, min_p=0.1)):
        assert choose(logits, sampling, [random_numbers(0, row) for row in range(3)]).device == DEVICE


@torch.no_grad()
@pytest.mark.parametrize("family", SHAPES)
def test_a_step_of_fixed_shapes_does_not_wait_for_its_device(family: str) -> None:
    model = model_of(family)
    cache = cache_of(model, 6, [9, 4, 2, 2, 7])
    features = FixedSteps(model, None).features([1, 2, 3, 4, 5], cache)
    assert features is not None and features.device == DEVICE and features.shape == (5, 32)


def test_decoding_waits_for_its_device_only_to_read_the_chosen_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill, "tokens_at_once", lambda phase, device: 512)

    def decode() -> None:
        engine = Engine(model_of("gemma2"), batch_size=2, fixed_shapes=True)
        for length in (4, 1, 2):  # they join and leave at different steps
            engine.add([0] * length, Sampling(0.0), max_tokens=2 + length)
        while engine:
            engine.step()

    with pytest.raises(DataDependentOutputException):
        decode()
    monkeypatch.setattr(
        engines, "choose_tokens", lambda logits, rows: ([1] * len(rows), [0.0] * len(rows), [()] * len(rows))
    )
    decode()
