"""How much memory a training takes: the estimate beside what is kept, and what is refused before it starts."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import random_model

import chainrule
from chainrule import machine
from chainrule.cli import main
from chainrule.errors import OptionError
from chainrule.finetuning.memory import packed_loss
from chainrule.finetuning.trained import summary_of
from chainrule.language_model import make_language_model
from chainrule.model.formats.adapter import adapter_parts
from chainrule.model.transformer import Transformer
from chainrule.tokens.make import byte_tokenizer
from chainrule.training.footprint import TEMPORARY, kept_bytes, of_activations, of_weights, require_step
from chainrule.training.low_rank import LowRankMatrices

CONTEXT = 160


def model_of(family: str, train: str) -> Transformer:
    model = random_model(family, context=CONTEXT).train()
    return LowRankMatrices(model, adapter_parts(model, family), 4, 0).transformer if train == "lora" else model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma3_text", "bert"])
def test_activations_of_long_sequences_follow_from_short_ones(family: str, train: str, dtype: torch.dtype) -> None:
    model = model_of(family, train)
    model.compute_dtype = dtype
    for forward in (partial(summary_of, model), partial(packed_loss, model)):
        kept = kept_bytes(forward, model, CONTEXT - 1)
        (estimate,) = of_activations(forward, model, CONTEXT - 1, CONTEXT - 1).values()
        assert 0.95 * kept < estimate < 1.6 * TEMPORARY * kept


def test_lora_takes_a_small_part_of_what_all_weights_take() -> None:
    full, lora = (
        sum(of_weights(sum(one.numel() for one in model_of("qwen3", train).parameters() if one.requires_grad)).values())
        for train in ("full", "lora")
    )
    assert full == 3 * 4 * sum(one.numel() for one in model_of("qwen3", "full").parameters())
    assert lora < 0.5 * full


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tokenizer = byte_tokenizer()
    make_language_model(random_model("qwen3", tokenizer.vocabulary_size, context=64), tokenizer, "qwen3").save(
        tmp_path / "base"
    )
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"text {row},{row % 2}\n" for row in range(30)))
    (tmp_path / "rows.toml").write_text(
        'train = "rows.csv"\ntext = "text"\nlabel = "label"\n[prompt]\ntemplate = "{text}: {label}"\n'
        '[prompt.words]\n0 = "no"\n1 = "yes"\n'
    )
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 60)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "cure"),
    [
        ("finetune base rows.toml --train full", "take --train lora or head"),
        ("finetune base rows.toml --train lora", "--quantize int8"),
        ("finetune base rows.toml --by words", "take --train lora,"),
        ("finetune base rows.toml --by words --train lora", "--quantize int8"),
        ("pretrain text.txt --tokenizer byte --depth 1 --steps 2", "a smaller --depth or --width"),
        ("pretrain text.txt --from base --steps 2", "add --train lora"),
    ],
)
def test_more_memory_than_there_is_is_refused_before_it_starts(
    command: str, cure: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device=None: 10_000.0)
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--out", "no"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and cure in error and "got 0.0 MB free" in error
    assert not (folder / "no").exists()


def test_a_model_larger_than_the_memory_is_refused_before_it_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main("pretrain text.txt --tokenizer byte --depth 500 --width 65536 --steps 2 --out no".split())
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and "weights" in error and "a smaller --depth or --width" in error
    assert not (folder / "no").exists()


def test_activations_are_checkpointed_where_a_step_fits_only_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("qwen3", context=CONTEXT, layers=8).train()
    sizes = []
    for checkpointed in (False, True):
        model.checkpoint_activations = checkpointed
        sizes.append(of_activations(partial(summary_of, model), model, 8 * CONTEXT, CONTEXT)["activations"])
    monkeypatch.setattr(machine, "free_memory", lambda device=None: sum(sizes) / 2)
    for asked, found in ((None, True), (False, False)):
        model.checkpoint_activations = asked
        with nullcontext() if asked is None else pytest.raises(OptionError):
            require_step("pretrain", {}, partial(summary_of, model), model, 8 * CONTEXT, CONTEXT, "take less")
        assert model.checkpoint_activations is found


def test_what_fits_is_not_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device=None: 30e6)
    lm, task = chainrule.load("base", device="cpu", dtype="float32"), chainrule.Task.load("rows.toml")
    chainrule.finetune(lm, task, train="lora", labels=4, epochs=1)


def test_a_control_groups_limit_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    for name, limit, used in (("a", "1000", 300), ("a/b", "max", 200)):
        folder = tmp_path / "fs" / name
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 50\n")
    assert machine.control_group_memory(tmp_path / "fs", own) == 750
    own.write_text("4:memory:/c\n")
    old = tmp_path / "fs/memory/c"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("500")
    (old / "memory.usage_in_bytes").write_text("450")
    (old / "memory.stat").write_text("")
    assert machine.control_group_memory(tmp_path / "fs", own) == 50
    assert machine.control_group_memory(tmp_path / "none", tmp_path / "none") == float("inf")
