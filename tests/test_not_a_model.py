"""What is no model, given where a model is wanted, is told by what it is, with the way to a model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chainrule.cli import main
from chainrule.tokens.make import byte_tokenizer


def adapter(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    byte_tokenizer().save(folder)
    return folder


def file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def folder_of(name: str, content: str = "{}") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        return folder

    return make


def shards(folder: Path) -> Path:
    (folder / "text.txt").write_text("some text " * 40)
    main(["tokenize", str(folder / "text.txt"), "--out", str(folder / "shards"), "--tokenizer", "byte"])
    return folder / "shards"


def pickled(folder: Path) -> Path:
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "vocab_size": 257, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 1})
    )
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    byte_tokenizer().save(folder)
    return folder


CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a GGUF file that is cut": (file("model.gguf", b"GGUF\3\0"), "wanted a whole GGUF file, got one that ends after 6"),
    "one by another name": (file("model", b"GGUF\3\0"), "wanted a whole GGUF file"),
    "another file by that name": (file("model.gguf", b"{}"), "wanted a GGUF file, which begins with GGUF, got another"),
    "a folder of one": (folder_of("q4.gguf"), "q4.gguf: wanted a GGUF file, which begins with GGUF"),
    "a PEFT adapter": (adapter, "adapter_model.safetensors: wanted a whole safetensors file, got one that is cut"),
    "a pickle": (pickled, "only a pickle, which is never read: where you trust it, convert it"),
    "a pickle without a config": (folder_of("pytorch_model.bin"), "found no config.json, and only a pickle"),
    "a pickle's file": (file("pytorch_model.bin", b"never read"), "found only a pickle, which is never read"),
    "shards": (shards, "found shards that tokenize wrote; train a model on them: chainrule pretrain"),
    "a task": (file("task.toml", b'train = "rows.csv"\n'), "found a file, perhaps a task; the model is named first"),
    "rows": (
        file("rows.csv", b"text,label\n"),
        "found a file of text or rows; chainrule pretrain trains a model on text",
    ),
    "weights": (file("model.safetensors", b"weights"), "name the directory that holds it and its config.json"),
    "an unfinished run": (folder_of("run.toml", ""), "found an unfinished run"),
    "a folder of runs": (folder_of("owls/config.json"), "found no config.json, but there is one in"),
    "nothing": (lambda folder: folder / "nowhere", "as there is no such directory; correct the name"),
}
TASK = "rows.csv --text text --label label"
COMMANDS = ["info MODEL", "generate MODEL a", "score MODEL a", "predict MODEL a", f"zero-shot MODEL {TASK}"]


@pytest.mark.parametrize("case", CASES)
def test_what_it_is_and_what_to_do_is_said_in_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = CASES[case]
    (tmp_path / "given").mkdir()
    model = make(tmp_path / "given")
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"row {number},{'ab'[number % 2]}\n" for number in range(9))
    )
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        if case == "a pickle" and command.startswith("predict"):
            continue  # its config.json says that it is no classifier
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(model) if word == "MODEL" else word for word in command.split()])
        told = capsys.readouterr()
        assert (end.value.code, told.out, told.err.count("\n")) == (2, "", 1), command
        assert told.err.startswith(f"chainrule: {model}") and ": wanted " in told.err and message in told.err, command


def test_a_run_that_was_stopped_before_it_saved_a_model_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(SystemExit):
        main(["generate", str(tmp_path)])
    assert "a run that has saved no model yet; give its command again to continue it" in capsys.readouterr().err
