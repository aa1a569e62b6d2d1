"""A training that does not wait for its device makes the steps of one that does, and files of parts are the whole's."""

from pathlib import Path

import pytest
import torch
from conftest import random_model
from safetensors.torch import load_file
from torch import Tensor

from chainrule.model.formats.checkpoint import weights
from chainrule.model.formats.sharded_file import Parts, SharedFile, weight_parts
from chainrule.model.linear import linear_maps
from chainrule.model.transformer import Transformer
from chainrule.training.checkpoints import Keeping, save_checkpoint
from chainrule.training.objectives import next_token_loss
from chainrule.training.optimizer import Group, Matrix, Optimizer, Schedule
from chainrule.training.sharding import rows_of
from chainrule.training.trainer import Trainer


class Steps:
    """The next token of random windows; the loss of one step is not a number."""

    def __init__(self, broken: int) -> None:
        self.broken, self.step = broken, -1

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[Tensor]:
        self.step = step
        return [torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(step))]

    def halve(self) -> str | None:
        return None

    def loss(self, model: Transformer, batch: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.tensor(32.0)
        factor = torch.tensor(float("nan") if self.step == self.broken else 1.0)
        return next_token_loss(model, batch) * count * factor, count


@pytest.mark.parametrize("broken", [-1, 2])
def test_a_step_that_is_decided_on_the_device_is_the_step_that_is_waited_for(broken: int) -> None:
    states = []
    for ahead in (False, True):
        model = random_model("qwen3", vocabulary_size=11, context=8)
        names = {parameter: name for name, parameter in model.named_parameters()}
        maps = [Matrix(*found) for found in linear_maps(model)]
        inside = {matrix.parameter for matrix in maps}
        rest = Group([parameter for parameter in names if parameter not in inside], 1e-2)
        trainer = Trainer(model, Optimizer(names, maps, 0.02, [rest], Schedule(5)), Steps(broken), 5)
        trainer.ahead = ahead
        made = list(trainer.steps())
        assert [progress.skipped for progress in made] == [step == broken for step in range(5)]
        assert trainer.skipped == (broken >= 0)
        states.append({**model.state_dict(), **trainer.optimizer.state()})
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=1e-7, rtol=1e-6, msg=name)


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gpt_neox", "bert"])
def test_rows_that_processes_write_make_the_file_that_one_writes(family: str, world: int, tmp_path: Path) -> None:
    model = random_model(family)
    wanted = weights(model, family)
    written = []
    for rank in range(world):
        own = {}
        for name, parameter in model.named_parameters():
            first, stop = rows_of(parameter.shape[0], rank, world)
            own[name] = (parameter.detach()[first:stop], first)
        parts: dict[str, Tensor | Parts] = dict(weight_parts(model, model.config, family, own))
        written.append(SharedFile(tmp_path / "model.safetensors", parts))
    written[0].create()
    for file in reversed(written):
        file.fill()
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, loss in enumerate([3.0, 1.0, 2.5, 2.0, 2.2], 1):
        state = {"seconds": 0.0, "validation_loss": loss}
        save_checkpoint(tmp_path, step, {"model": {"w": torch.zeros(1)}}, state, Keeping(2, best=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "5"]
