"""What a device computes is what a CPU computes. `pytest tests/test_device_laws.py --device cuda` says so of a GPU.

Without --device the same laws run on the CPU, without the kernels that are a CPU's alone: the path that a GPU takes.
"""

from collections.abc import Callable

import pytest
import torch
from conftest import MASKED, SHAPES, random_model
from torch import Tensor

from chainrule.generation.engine import Engine
from chainrule.generation.sampling import Sampling
from chainrule.model import attention, layers, transformer
from chainrule.model.formats.adapter import adapter_parts
from chainrule.model.formats.checkpoint import weights
from chainrule.model.linear import linear_maps
from chainrule.model.native import training
from chainrule.model.prefixes import empty_cache
from chainrule.model.transformer import Transformer
from chainrule.scoring.documents import score_documents
from chainrule.scoring.features import last_features
from chainrule.training.low_rank import LowRankMatrices
from chainrule.training.objectives import MaskedBatch, masked_token_loss, next_token_loss
from chainrule.training.optimizer import Group, Matrix, Optimizer, Schedule
from chainrule.training.spans import Span, SpanBatch
from chainrule.training.trainer import Trainer

CPU = torch.device("cpu")
SOME = ("qwen3", "gemma2", "gpt2", "mistral")


@pytest.fixture
def moved(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Callable[[Transformer], Transformer]:
    """Moves a model to the device, and turns a CPU's own kernels off from then on."""

    def move(model: Transformer) -> Transformer:
        for module in (attention, layers, transformer):
            monkeypatch.setattr(module, "plain_cpu", lambda x: False)
        monkeypatch.setattr(training, "usable", lambda x: False)
        return model.to(device)

    return move


def windows(rows: int = 3, length: int = 21) -> Tensor:
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(0))


def near(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(
        found.detach().cpu().float(), wanted.detach().float(), atol=tolerance, rtol=10 * tolerance
    )


@torch.no_grad()
@pytest.mark.parametrize("family", [*SHAPES, *MASKED])
def test_logits_are_those_of_a_cpu(family: str, moved: Callable[[Transformer], Transformer]) -> None:
    model, tokens = random_model(family), windows()
    wanted = model(tokens)
    near(moved(model)(tokens.to(model.device)), wanted)


@torch.no_grad()
@pytest.mark.parametrize("family", SOME)
def test_with_a_cache_and_without_the_logits_agree(family: str, moved: Callable[[Transformer], Transformer]) -> None:
    model = random_model(family)
    wanted = model(windows())
    model = moved(model)
    tokens = windows().to(model.device)
    cache = empty_cache(model, 21, len(tokens))
    near(torch.cat([model(tokens[:, at : at + 7], cache=cache) for at in range(0, 21, 7)], 1), wanted)


def generated(model: Transformer, batch_size: int, fixed_shapes: bool) -> tuple[dict[int, list[int]], Engine]:
    """The tokens of some prompts, and the engine that chose them."""
    engine, found = (
        Engine(model, batch_size=batch_size, fixed_shapes=fixed_shapes),
        {id: list[int]() for id in range(5)},
    )
    for id, prompt in enumerate([[1, 5, 9], [1, 7], [1, 2, 3, 4, 5], [1, 5, 9, 9], [1]]):
        engine.add(prompt, Sampling(0.0), max_tokens=8 + 3 * id)
    while engine:
        for new in engine.step():
            found[new.id].append(new.token)
    return found, engine


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_a_batch_generates_what_each_prompt_does_alone_on_a_cpu(
    family: str, fixed_shapes: bool, moved: Callable[[Transformer], Transformer]
) -> None:
    model = random_model(family)
    wanted, _ = generated(model, 1, fixed_shapes=False)
    assert generated(moved(model), 3, fixed_shapes)[0] == wanted


@pytest.mark.parametrize("family", SHAPES)
def test_decoding_is_recorded_as_graphs_and_replayed(family: str, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("wanted --device cuda: the graphs are a GPU's")
    model = random_model(family)
    wanted, _ = generated(model, 1, fixed_shapes=False)
    found, engine = generated(model.to(device), 3, fixed_shapes=True)
    assert found == wanted
    assert engine._fixed is not None and any(bucket.replay for bucket in engine._fixed._buckets.values())


def loss_of(model: Transformer) -> Tensor:
    tokens = windows().to(model.device)
    if model.config.causal:
        return next_token_loss(model, tokens)
    positions = torch.tensor([[1, 3], [2, 5], [1, 7]], device=model.device)
    return masked_token_loss(model, MaskedBatch(tokens, positions, tokens.gather(1, positions)))


@pytest.mark.parametrize("family", [*SOME, "bert", "modernbert"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_loss_and_gradients_are_those_of_a_cpu(
    family: str, checkpointed: bool, moved: Callable[[Transformer], Transformer]
) -> None:
    model = random_model(family)
    loss = loss_of(model)
    wanted = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    model = moved(model)
    model.checkpoint_activations = checkpointed
    found = loss_of(model)
    near(found, loss)
    found.backward()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        if gradient is not None:
            assert parameter.grad is not None
            near(parameter.grad, gradient, 2e-4)


class Windows:
    """The next token of random windows, two micro-batches a step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[Tensor]:
        tokens = torch.randint(0, 61, (4, 13), generator=torch.Generator().manual_seed(step))
        return list(tokens.to(self.device).split(2))

    def halve(self) -> str | None:
        return None

    def loss(self, model: Transformer, batch: Tensor) -> tuple[Tensor, Tensor]:
        return next_token_loss(model, batch) * 24, torch.full((), 24.0, device=self.device)


@pytest.mark.parametrize("family", SOME)
def test_the_losses_of_training_steps_are_those_of_a_cpu(
    family: str, moved: Callable[[Transformer], Transformer]
) -> None:
    def losses(model: Transformer, ahead: bool) -> list[float]:
        names = {parameter: name for name, parameter in model.named_parameters()}
        maps = [Matrix(*found) for found in linear_maps(model)]
        inside = {matrix.parameter for matrix in maps}
        rest = Group([parameter for parameter in names if parameter not in inside], 1e-3)
        optimizer = Optimizer(names, maps, 0.005, [rest], Schedule(4))
        trainer = Trainer(model, optimizer, Windows(model.device), 4)
        trainer.ahead = ahead
        return [progress.loss for progress in trainer.steps()]

    wanted = losses(random_model(family), ahead=False)
    assert losses(moved(random_model(family)), ahead=True) == pytest.approx(wanted, rel=2e-4)


def test_adapters_have_the_gradients_of_a_cpu(moved: Callable[[Transformer], Transformer]) -> None:
    def gradients(base: Transformer) -> list[Tensor]:
        model = LowRankMatrices(base, adapter_parts(base, "llama"), 4, seed=0).transformer
        with torch.no_grad():
            for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
                generator = torch.Generator().manual_seed(number)
                parameter.add_((0.05 * torch.randn(parameter.shape, generator=generator)).to(parameter.device))
        next_token_loss(model, windows().to(base.device)).backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    wanted = gradients(random_model("llama"))
    found = gradients(moved(random_model("llama")))
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        near(one, other, 2e-4)


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma2"])
def test_documents_features_and_label_words_are_scored_as_on_a_cpu(
    family: str, moved: Callable[[Transformer], Transformer]
) -> None:
    texts = [list(range(1, 1 + length)) for length in (40, 7, 23)]
    spans = [Span([0, 4, 7], [1, 2], [7, 9]), Span([0, 4, 8], [2], [9])]

    def found(model: Transformer) -> list[Tensor]:
        scores = [each.log_probs for each in score_documents(model, texts, top=2)]
        with torch.no_grad():
            words = SpanBatch(spans, True, model.device).log_probs(model)
        return [*scores, last_features(model, [text[:20] for text in texts]), words]

    model = random_model(family)
    wanted = found(model)
    for one, other in zip(found(moved(model)), wanted, strict=True):
        near(one, other)


def test_what_is_saved_of_a_model_is_what_a_cpu_saves(moved: Callable[[Transformer], Transformer]) -> None:
    model = random_model("gpt2")
    wanted = {name: tensor.clone() for name, tensor in weights(model, "gpt2").items()}
    found = weights(moved(model), "gpt2")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in wanted.items())
