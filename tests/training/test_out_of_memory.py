"""Where memory is short, a step is the same in smaller parts, or with activations computed again; or it is refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MASKED, SHAPES, random_model
from torch import Tensor, nn

from chainrule import machine
from chainrule.cli import main
from chainrule.errors import ChainruleError
from chainrule.finetuning.trained import TextClassifier
from chainrule.model.adapter import AdaptedLinear
from chainrule.model.transformer import Transformer
from chainrule.scoring.documents import score_documents
from chainrule.scoring.features import last_features
from chainrule.training.activations import activation_bytes, decide_activations, tokens_in_memory
from chainrule.training.answers import Answers
from chainrule.training.classes import Classes, LabelledTexts
from chainrule.training.epochs import Epochs
from chainrule.training.low_rank import LowRankMatrices
from chainrule.training.objectives import MaskedBatch, masked_token_loss, next_token_loss
from chainrule.training.optimizer import Group, Optimizer, Schedule
from chainrule.training.parallel import Processes
from chainrule.training.sharding import least_free_memory
from chainrule.training.spans import Span
from chainrule.training.targets import Targets, TargetTexts, squared_errors
from chainrule.training.trainer import Trainer
from chainrule.training.words import LabelWords, WordTexts

CPU = torch.device("cpu")


class Windows:
    """The next token of 8 random windows a step; more than `fit` windows at once are out of memory."""

    def __init__(self, fit: int) -> None:
        self.fit, self.at_once, self.computed = fit, 8, 0

    def batches(self, step: int, rank: int = 0, world: int = 1) -> Sequence[Tensor]:
        return torch.randint(0, 61, (8, 9), generator=torch.Generator().manual_seed(step)).split(self.at_once)

    def halve(self) -> str | None:
        if self.at_once == 1:
            return None
        self.at_once //= 2
        return f"{self.at_once} windows"

    def loss(self, model: Transformer, batch: Tensor) -> tuple[Tensor, Tensor]:
        mean = next_token_loss(model, batch)
        self.computed += 1
        if len(batch) > self.fit and self.computed > 1 and not model.checkpoint_activations:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return mean * batch[:, 1:].numel(), torch.tensor(float(batch[:, 1:].numel()))


def trainer_of(objective: Any, checkpointed: bool | None = None, said: list[str] | None = None) -> Trainer:
    model = random_model("qwen3")
    model.checkpoint_activations = checkpointed
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = Optimizer(names, [], 1e-2, [Group(list(names), 1e-2)], Schedule(4))
    return Trainer(model, optimizer, objective, 4, log=([] if said is None else said).append)


def test_out_of_memory_a_step_is_made_again_in_smaller_parts_with_the_same_losses() -> None:
    wanted = [progress.loss for progress in trainer_of(Windows(8)).steps()]
    said: list[str] = []
    found = [progress.loss for progress in trainer_of(Windows(3), said=said).steps()]
    assert found == pytest.approx(wanted, abs=1e-5)
    again = "out of memory on cpu at step {}: going on with {} windows at once; the steps stay the same"
    assert said == [again.format(2, 4), again.format(2, 2)]


def test_at_the_smallest_part_activations_are_computed_again_unless_that_was_refused() -> None:
    wanted = [progress.loss for progress in trainer_of(Windows(8)).steps()]
    said: list[str] = []
    found = [progress.loss for progress in trainer_of(Windows(0), said=said).steps()]
    assert found == pytest.approx(wanted, abs=1e-5)
    assert len(said) == 4 and "going on with activation checkpointing" in said[-1]
    with pytest.raises(ChainruleError, match=r"wanted memory for the smallest part of a step on cpu, got too little; "):
        list(trainer_of(Windows(0), checkpointed=False).steps())


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Windows):
        def loss(self, model: Transformer, batch: Tensor) -> tuple[Tensor, Tensor]:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(trainer_of(Broken(8)).steps())
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert machine.is_out_of_memory(raised.value)


def objectives() -> list[Any]:
    texts = [np.arange(1, 2 + length) for length in (3, 5, 4, 6, 3, 5)]
    ones = np.ones((6, 1), np.float32)
    spans = [Span(list(text), [len(text) - 1], [7]) for text in texts]
    return [
        Classes(LabelledTexts(texts, np.arange(6) % 2), np.ones(2, np.float32), Epochs(6, 1000, CPU, 0)),
        Targets(TargetTexts(texts, ones, ones), squared_errors, Epochs(6, 1000, CPU, 0)),
        Answers(spans, Epochs(6, 1000, CPU, 0)),
        LabelWords(
            WordTexts([(span, span._replace(targets=[8])) for span in spans], np.arange(6) % 2),
            np.ones(2, np.float32), Epochs(6, 1000, CPU, 0), True,
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(4))
def test_every_objective_can_be_halved_down_to_a_text_at_once(number: int) -> None:
    objective = objectives()[number]
    sizes = [len(list(objective.batches(0)))]
    while objective.halve() is not None:
        sizes.append(len(list(objective.batches(0))))
    assert sizes[0] == 1 and sizes[-1] == 6 and sizes == sorted(sizes)


class Noting(Processes):
    """One process, which notes how many batches it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []

    def every_nth(self, batches: Any) -> Any:
        batches = list(batches)
        self.given.append(len(batches))
        return super().every_nth(batches)


@pytest.mark.parametrize("number", range(4))
def test_a_process_in_smaller_parts_cuts_the_texts_of_validation_as_the_others_do(number: int) -> None:
    objective, transformer = objectives()[number], random_model("qwen3", vocabulary_size=61)
    model: nn.Module = transformer
    if number < 2:
        model = TextClassifier(transformer, torch.zeros(2 - number, transformer.config.width))
    processes = Noting()
    with torch.no_grad():
        objective.validate(model, objective.texts, processes)
        while objective.halve() is not None:
            pass
        objective.validate(model, objective.texts, processes)
    assert processes.given[0] == processes.given[1]


def test_processes_decide_by_the_least_memory_that_one_of_them_has() -> None:
    class Two(Processes):
        def gather(self, value: Any, channel: str = "main", *, limit: float | None = None) -> list[Any]:
            return [value, 5.0]

    assert least_free_memory(CPU, Two()) == 5.0
    assert least_free_memory(CPU, Processes()) > 5.0


def gradients(model: Transformer) -> list[Tensor]:
    model.train()
    model.zero_grad()
    tokens = torch.randint(1, 61, (2, 13), generator=torch.Generator().manual_seed(0))
    if model.config.causal:
        loss = next_token_loss(model, tokens)
    else:
        positions = torch.tensor([[1, 3], [2, 5]])
        loss = masked_token_loss(model, MaskedBatch(tokens, positions, tokens.gather(1, positions)))
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("family", [*SHAPES, *MASKED])
def test_activations_that_are_computed_again_give_the_same_bits(family: str) -> None:
    model = random_model(family)
    wanted = gradients(model)
    model.checkpoint_activations = True
    assert all(torch.equal(one, other) for one, other in zip(gradients(model), wanted, strict=True))


def test_adapters_learn_the_same_bits_from_activations_that_are_computed_again() -> None:
    base = random_model("llama")
    parts = {name: layer.parts for name, layer in base.named_modules() if hasattr(layer, "parts") and "." in name}
    parts = {name: part for name, part in parts.items() if name.endswith(("query_key_value", "up", "down", "output"))}
    model = LowRankMatrices(base, parts, 4, seed=0).transformer
    assert any(isinstance(layer, AdaptedLinear) for layer in model.modules())
    wanted = gradients(model)
    model.checkpoint_activations = True
    assert all(torch.equal(one, other) for one, other in zip(gradients(model), wanted, strict=True))


def kept_bytes(model: Transformer) -> int:
    """What a forward pass keeps for the backward pass, beside the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found, alive = {}, []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    tokens = torch.randint(1, 61, (4, 33), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        next_token_loss(model, tokens)
    return sum(found.values())


@pytest.mark.parametrize("family", SHAPES)
def test_the_estimate_is_not_below_what_is_kept_nor_far_above(family: str) -> None:
    model = random_model(family, width=128, hidden=344, layers=4)
    kept = kept_bytes(model)
    assert 1.0 < activation_bytes(model.config, 128, 32, torch.float32, CPU, False) / kept < 2.0
    model.checkpoint_activations = True
    assert kept_bytes(model) < kept / 3
    assert activation_bytes(model.config, 128, 32, torch.float32, CPU, True) > kept_bytes(model)


def test_the_size_is_the_largest_that_fits_and_checkpointing_comes_before_nothing_fits() -> None:
    config = random_model("qwen3", layers=8).config

    def decided(asked: Any, room: float) -> tuple[int, bool | None]:
        return decide_activations(asked, config, [1, 2, 4, 8], 32, torch.float32, CPU, room)

    plain = {size: activation_bytes(config, 32 * size, 32, torch.float32, CPU, False) for size in (1, 8)}
    less = activation_bytes(config, 32, 32, torch.float32, CPU, True)
    assert less < plain[1]
    assert decided("auto", plain[8]) == (8, None)
    assert decided("auto", plain[8] - 1) == (4, None)
    assert decided("auto", plain[1] - 1)[1] is True
    assert decided("auto", less) == (1, True)
    assert decided("auto", 0) == (1, True)  # it is tried
    assert decided("off", 0) == (1, False)
    assert decided("on", plain[8]) == (8, True)
    model = random_model("qwen3", layers=8)
    assert tokens_in_memory("auto", model, 256, 32, torch.float32, 1e12) == 256
    assert model.checkpoint_activations is None
    assert tokens_in_memory("auto", model, 256, 32, torch.float32, 0.0) == 32
    assert model.checkpoint_activations is True


def test_a_command_that_runs_out_of_memory_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity …")

    monkeypatch.setattr("chainrule.cli._bound", lambda words: fails)
    with pytest.raises(SystemExit) as ended:
        main(["info", "x"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "chainrule: wanted more memory than there is: CUDA out of memory. Tried to allocate 20.00 MiB; take a smaller"
        " model, --dtype bfloat16 where there is one, or a device with more\n"
    )


@pytest.mark.parametrize("fit", [1000, 40, 9])
def test_texts_are_scored_and_read_in_smaller_batches_where_memory_runs_out(
    fit: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_model("qwen3")
    texts = [np.arange(1, 2 + length) for length in (3, 8, 4, 6, 7, 5)]
    forward = Transformer._features

    def limited(model: Transformer, tokens: Tensor, *others: Any) -> Tensor:
        if tokens.numel() > fit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(model, tokens, *others)

    def found() -> list[Tensor]:
        return [*(scores.log_probs for scores in score_documents(model, texts)), last_features(model, texts)]

    wanted = found()
    monkeypatch.setattr(Transformer, "_features", limited)
    for one, other in zip(found(), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert capsys.readouterr().err.startswith("" if fit == 1000 else "out of memory: going on with 2")
    with pytest.raises(ChainruleError, match="wanted memory for one text of 19 tokens, got too little"):
        fit = 9
        last_features(model, [np.arange(19)])
