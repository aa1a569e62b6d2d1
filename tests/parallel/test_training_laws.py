"""Whatever the number of processes, and whether the model is whole or cut, training is the same."""

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import Group, command
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

SHAPE = "--tokenizer byte --depth 2 --width 16 --heads 2 --context 16 --compile off --dtype float32"
OPTIONS = f"{SHAPE} --batch-tokens 192 --steps 6 --validate-every 3"  # 12 windows a step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laws")
    words, rng = "the owl sees a mouse and night falls".split(), random.Random(0)
    (folder / "text.txt").write_text(" ".join(rng.choice(words) for _ in range(900)))
    return folder


def pretrain(folder: Path, name: str, world: int, options: str, micro_tokens: int | None = None) -> Path:
    """The folder of the run."""
    out = folder / name
    words = f"pretrain {folder / 'text.txt'} --out {out} {options}"
    group = Group(world, command, words, folder / f"{name}.errors", micro_tokens)
    assert group.results == [0] * world, (folder / f"{name}.errors/0").read_text()
    assert all((folder / f"{name}.errors/{rank}").read_text() == "" for rank in range(1, world))
    return out


def losses(out: Path) -> list[list[float]]:
    """Training loss, gradient norm and validation loss of each step that has them."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    names = ("step", "loss", "gradient_norm", "validation_loss")
    return [[line[name] for name in names if name in line] for line in lines]


def same(one: Path, other: Path, steps: int = 6) -> None:
    """Within rounding: what the log says, and every number of the last checkpoint."""
    for line, expected in zip(losses(one), losses(other), strict=True):
        assert line == pytest.approx(expected, rel=2e-5)
    for name in ("model", "optimizer"):
        found, wanted = (load_file(out / f"training/{steps}/{name}.safetensors") for out in (one, other))
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            # A key's bias adds the same to all scores of a query: its gradient is 0, and AdamW follows its rounding.
            if key.endswith(("c_attn.bias", "key.bias")) or "query_key_value.bias" in key:
                continue
            torch.testing.assert_close(found[key], tensor, atol=2e-5, rtol=1e-3, msg=f"{name} {key}")
    assert (one / "model.safetensors").read_bytes() == (one / f"training/{steps}/model.safetensors").read_bytes()


FAMILIES: dict[str, str] = {"qwen3": "", "gpt2": "--family gpt2 --tied", "bert": "--objective masked"}


@pytest.mark.parametrize(
    ("family", "world", "shard", "micro_tokens"),
    [
        ("qwen3", 2, "off", None),
        ("qwen3", 4, "off", 16),  # a window at a time
        ("qwen3", 2, "on", 48),  # 6 windows each, 3 at a time
        ("qwen3", 4, "on", None),
        ("gpt2", 2, "on", None),  # its files have the matrices transposed
        ("gpt2", 3, "off", 32),
        ("bert", 3, "on", None),
    ],
)
def test_processes_give_the_losses_and_the_weights_of_one(
    family: str, world: int, shard: str, micro_tokens: int | None, folder: Path
) -> None:
    options = f"{OPTIONS} {FAMILIES[family]}"
    alone = folder / f"{family} alone".replace(" ", "_")
    if not alone.exists():
        pretrain(folder, alone.name, 1, options)
    again = " --checkpoint-activations on" if micro_tokens in (48, 32) else ""
    out = pretrain(
        folder, f"{family}-{world}-{shard}-{micro_tokens}", world, f"{options} --shard {shard}{again}", micro_tokens
    )
    same(out, alone)


def short_of_memory(words: str, errors: Path, windows: int) -> int:
    """The command, where the last process has no memory for more than some windows at once."""
    from chainrule.training.objectives import NextToken

    loss = NextToken.loss

    def limited(objective: NextToken, model: Any, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(batch) > windows and os.environ["RANK"] != "0" and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss(objective, model, batch)

    pytest.MonkeyPatch().setattr(NextToken, "loss", limited)
    return command(words, errors)


def test_a_process_out_of_memory_goes_on_in_smaller_parts_and_the_others_as_they_did(folder: Path) -> None:
    alone = folder / "qwen3_alone"
    if not alone.exists():
        pretrain(folder, alone.name, 1, OPTIONS)
    words = f"pretrain {folder / 'text.txt'} --out {folder / 'short'} {OPTIONS}"
    group = Group(2, short_of_memory, words, folder / "short.errors", 2)
    assert group.results == [0, 0]
    said = "out of memory on cpu of process 1 at step 1: going on with {} windows at once; the steps stay the same\n"
    assert (folder / "short.errors/1").read_text() == said.format(3) + said.format(2)
    same(folder / "short", alone)


def short_in_a_block(words: str, errors: Path, where: str, windows: int, micro_tokens: int) -> int:
    """The command, where the last process has no memory for more than some windows at once from the second micro-batch
    on: in the forward or the backward pass of the second block, or at the end of the backward pass."""
    from chainrule.model.layers import Block

    forward, calls = Block.forward, [0]

    def fails(gradient: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def limited(block: Block, x: torch.Tensor, context: Any, cache: Any, layer: int) -> torch.Tensor:
        calls[0] += layer == 0
        short = len(x) > windows and calls[0] > 1 and os.environ["RANK"] != "0" and torch.is_grad_enabled()
        if short and where == "forward" and layer == 1:
            fails(x)
        if short and layer == (where == "backward") and where != "forward":
            x.register_hook(fails)
        return forward(block, x, context, cache, layer)

    Block.forward = limited  # type: ignore[method-assign, assignment]
    return command(words, errors, micro_tokens)


@pytest.mark.skipif(not hasattr(FSDPModule, "reset_iter_state"), reason="torch 2.13 has it")
@pytest.mark.parametrize(("where", "dtype"), [("forward", "float32"), ("backward", "float32"), ("end", "bfloat16")])
def test_out_of_memory_with_a_model_that_is_cut_all_make_the_step_again_together(
    where: str, dtype: str, folder: Path
) -> None:
    alone = folder / f"cut_{dtype}"
    options = f"{OPTIONS.replace('float32', dtype)} --shard on"
    if not alone.exists():
        pretrain(folder, alone.name, 2, options, 48)
    words = f"pretrain {folder / 'text.txt'} --out {folder / where} {options}"
    group = Group(2, short_in_a_block, words, folder / f"{where}.errors", where, 2, 48)
    said = [(folder / f"{where}.errors/{rank}").read_text() for rank in range(2)]
    assert group.results == [0, 0], said
    assert said[1] == (
        "out of memory on cpu of process 1 at step 1: going on with 2 windows at once; the steps stay the same\n"
    )
    assert "out of memory" not in said[0]
    if dtype == "float32":
        same(folder / where, alone)
    else:
        assert [line[1] for line in losses(folder / where)] == pytest.approx(
            [line[1] for line in losses(alone)], abs=0.05
        )


@pytest.mark.skipif(not hasattr(FSDPModule, "reset_iter_state"), reason="torch 2.13 has it")
def test_a_model_that_is_cut_and_fits_in_no_part_is_refused_by_all(folder: Path) -> None:
    words = f"pretrain {folder / 'text.txt'} --out {folder / 'none'} {OPTIONS} --shard on"
    group = Group(2, short_in_a_block, words, folder / "none.errors", "forward", 0, 48)
    said = [(folder / f"none.errors/{rank}").read_text() for rank in range(2)]
    assert group.results == [2, 2], said
    assert said[0].splitlines()[-1].startswith("chainrule: training: wanted memory for the smallest part of a step")
    assert "going on with activation checkpointing" in said[1]
    assert not (folder / "none").exists()


def told_to_stop(words: str, errors: Path, steps: int) -> int:
    """The command, of which the last process alone gets a SIGTERM after a step."""
    from chainrule.pretraining.run import Run

    advance = Run.advance

    def until_then(run: Run) -> Iterator[Any]:
        for progress in advance(run):
            if progress.step == steps and run.processes.rank == run.processes.world - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield progress

    pytest.MonkeyPatch().setattr(Run, "advance", until_then)
    return command(words, errors)


@pytest.mark.parametrize(("before", "after", "shard"), [(2, 1, "on"), (2, 3, "on"), (3, 4, "off"), (1, 2, "on")])
def test_stopped_and_saved_by_some_and_resumed_by_others_a_run_is_as_if_never_stopped(
    before: int, after: int, shard: str, folder: Path
) -> None:
    alone = folder / "qwen3_alone"
    if not alone.exists():
        pretrain(folder, alone.name, 1, OPTIONS)
    name = f"moved-{before}-{after}-{shard}"
    words = f"pretrain {folder / 'text.txt'} --out {folder / name} {OPTIONS}"
    first = f"{words} --shard {shard}" if before > 1 else words
    group = Group(before, told_to_stop, first, folder / f"{name}.stopped", 4)
    assert group.results == [143] * before
    assert [path.name for path in (folder / name / "training").iterdir()] == ["4"]
    other = "off" if shard == "off" or after == 1 else "on"
    out = pretrain(folder, name, after, f"{OPTIONS} --shard {other}")
    assert "going on from step 4 of 6" in (folder / f"{name}.errors/0").read_text()
    same(out, alone)
