"""A model that the memory has no room for: one line before its weights are read."""

from pathlib import Path

import pytest
import torch
from conftest import random_model

from chainrule import machine
from chainrule.cli import main
from chainrule.errors import ModelError
from chainrule.exporting.export import export_gguf
from chainrule.language_model import load, make_language_model
from chainrule.model.formats import load_memory
from chainrule.model.formats.load_memory import LoadMemory
from chainrule.tokens.make import byte_tokenizer

WIDE = {"width": 64, "hidden": 96, "head_width": 16}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tokenizer = byte_tokenizer()
    for family in ("llama", "phi3"):  # whose files have q, k and v apart, and together
        model = random_model(family, tokenizer.vocabulary_size, context=64, **WIDE)
        make_language_model(model, tokenizer, family).save(tmp_path / family)
    export_gguf(tmp_path / "llama", tmp_path / "llama.gguf", "q8_0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load_memory, "ASKED_FROM", 0)
    return tmp_path


@pytest.mark.parametrize("model", ["llama", "phi3 --dtype bfloat16", "llama.gguf --quantize none"])
@pytest.mark.parametrize("command", ["generate", "score"])
def test_weights_that_must_be_copied_are_refused_where_they_do_not_fit(
    command: str, model: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device=None: 10_000.0)
    name, *options = model.split()
    with pytest.raises(SystemExit) as ended:
        main([command, name, "Once", *options])
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and error.startswith(f"chainrule: load {name}: wanted about ")
    assert "got 0.0 MB free; take fewer bits (--quantize int8" in error


def test_weights_that_stay_in_their_file_are_read_whatever_is_free_and_a_line_says_how(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device=None: 10_000.0)
    assert load("phi3", device="cpu", dtype="float32").log_prob("Once") < 0
    assert "stay in the file" in capsys.readouterr().err
    monkeypatch.setattr(machine, "free_memory", lambda device=None: 1e9)
    load("phi3", device="cpu", dtype="float32")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("model", "dtype"), [("llama", "float32"), ("llama", "bfloat16"), ("phi3", "float32")])
def test_what_is_added_up_is_what_is_loaded(
    model: str, dtype: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[LoadMemory] = []
    monkeypatch.setattr(LoadMemory, "check", lambda memory: seen.append(memory))
    loaded = load(model, device="cpu", dtype=dtype).model
    (memory,) = seen
    assert memory.copied + memory.mapped == sum(parameter.nbytes for parameter in loaded.parameters())
    assert (memory.mapped == 0) == (dtype == "bfloat16")  # what is converted is copied


def test_weights_that_begin_between_two_numbers_are_counted_as_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load("phi3", device="cpu", dtype="float32").model.state_dict()
    wanted = {name: each.clone() for name, each in before.items()}
    path = folder / "phi3" / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    header += b" " * (-len(header) % 4 + 1)  # as GPT-2's has it on the Hub
    path.unlink()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    seen: list[LoadMemory] = []
    monkeypatch.setattr(LoadMemory, "check", lambda memory: seen.append(memory))
    found = load("phi3", device="cpu", dtype="float32").model.state_dict()
    assert seen[0].mapped == 0 and seen[0].copied > 0
    assert all(torch.equal(found[name], each) for name, each in wanted.items())


def test_blocks_are_counted_as_they_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[LoadMemory] = []
    monkeypatch.setattr(LoadMemory, "check", lambda memory: seen.append(memory))
    for quantize in ("int8", "none"):
        load("llama.gguf", device="cpu", dtype="float32", quantize=quantize)
    kept, wide = (memory.copied + memory.mapped for memory in seen)
    assert kept < wide / 3


def test_a_file_that_the_system_does_not_map_is_an_error_in_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)")

    monkeypatch.setattr(torch, "from_file", refuse)
    with pytest.raises(ModelError, match=r"wanted to map .* which the system refused; take"):
        load("llama", device="cpu")
