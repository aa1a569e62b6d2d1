"""What a user's file holds may be anything: one line says what is wrong with it, and no file of the user's is lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import random_model
from safetensors.torch import load_file, save_file

from chainrule.cli import main
from chainrule.language_model import load, make_language_model
from chainrule.model.formats.adapter_files import weights_hash
from chainrule.tokens.make import byte_tokenizer

Refused = Callable[..., str]
ROWS = "".join(f"text {number},{'abc'[number % 3]}\n" for number in range(30))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows of three classes, and an adapter and a head learned from them."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = byte_tokenizer()
    make_language_model(random_model("llama", tokenizer.vocabulary_size, context=64), tokenizer, "llama").save(
        folder / "model"
    )
    (folder / "rows.csv").write_text("t,l\n" + ROWS)
    rows = [str(folder / "rows.csv"), "--text", "t", "--label", "l"]
    for kind in ("lora", "head"):
        chosen = ["--rank", "2", "--epochs", "0.1"] if kind == "lora" else []
        main(["finetune", str(folder / "model"), *rows, "--train", kind, *chosen, "--out", str(folder / kind)])
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    def refused(*words: object) -> str:
        """The one line that a command is refused with."""
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        assert end.value.code == 2 and printed.out == ""
        lines = [line for line in printed.err.splitlines() if line.startswith("chainrule: ")]
        assert len(lines) == 1 and lines[0] == printed.err.splitlines()[-1]
        return lines[0]

    return refused


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("file", "fields", "wanted"),
    [
        ("adapter_config.json", {"rank_pattern": {"[": 3}}, "rank_pattern"),
        ("adapter_config.json", {"alpha_pattern": 3}, "alpha_pattern"),
        ("adapter_config.json", {"target_modules": 5}, "target_modules"),
        ("adapter_config.json", {"lora_alpha": float("nan")}, "a number alpha"),
        ("chainrule_adapter.json", {"labels": 5}, "labels"),
        ("chainrule_adapter.json", {"labels": ["a", "a", "b"]}, "labels"),
    ],
)
def test_an_adapter_with_an_odd_field_is_refused_by_its_name(
    copy: Path, refused: Refused, file: str, fields: dict[str, object], wanted: str
) -> None:
    change(copy / "lora" / file, **fields)
    assert wanted in refused("predict", copy / "lora", "text 1")


def test_an_adapter_with_numbers_that_are_none_is_refused(copy: Path, refused: Refused) -> None:
    path = copy / "lora" / "adapter_model.safetensors"
    tensors = load_file(path)
    next(tensors[name] for name in tensors if "lora_B" in name)[0, 0] = float("nan")
    save_file(tensors, path)
    assert "wanted finite numbers for" in refused("predict", copy / "lora", "text 1")


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": ["llama"]},
        {"hidden_act": ["silu"]},
        {"rope_scaling": {"rope_type": ["linear"]}},
        {"hidden_size": True},
        {"num_hidden_layers": 10**9},
        {"eos_token_id": 2**70},
    ],
)
def test_a_config_with_a_value_of_another_type_is_refused(
    copy: Path, refused: Refused, fields: dict[str, object]
) -> None:
    (copy / "model" / "generation_config.json").unlink()
    change(copy / "model" / "config.json", **fields)
    said = refused("generate", copy / "model", "a")
    assert "wanted" in said and str(copy / "model") in said


def test_a_record_that_was_altered_is_named(copy: Path, refused: Refused) -> None:
    (copy / "model" / "run.toml").write_text("options = 5\n")
    assert "run.toml: wanted the record of a run" in refused("info", copy / "model")
    (copy / "lora" / "chainrule.toml").write_text("classifier = 5\n")
    assert "wanted the columns" in refused("predict", copy / "lora", "text 1")


def test_an_export_never_replaces_a_file(copy: Path, refused: Refused) -> None:
    weights = (copy / "model" / "model.safetensors").read_bytes()
    assert "ends in .gguf" in refused("export", copy / "model", "--out", copy / "model" / "model.safetensors")
    assert "ends in .gguf" in refused("export", copy / "model", "--out", copy / "z.Modelfile")
    assert "ends in .gguf" in refused("export", copy / "model", "--out", ".")
    (copy / "mine.Modelfile").write_text("mine")
    assert "wanted a new file" in refused("export", copy / "model", "--out", copy / "mine.gguf")
    assert "wanted a new file" in refused("export", copy / "model", "--out", copy / "mine.gguf", "--type", "f32")
    assert not (copy / "mine.gguf").exists()
    assert (copy / "mine.Modelfile").read_text() == "mine"
    assert (copy / "model" / "model.safetensors").read_bytes() == weights


def test_predictions_never_replace_the_rows_they_are_made_of(copy: Path, refused: Refused) -> None:
    rows = copy / "rows.csv"
    assert "another file than --input" in refused("predict", copy / "head", "--input", rows, "--out", rows)
    assert rows.read_text() == "t,l\n" + ROWS


def test_a_rank_beyond_the_width_is_refused_before_memory_is_taken(copy: Path, refused: Refused) -> None:
    rows = [copy / "rows.csv", "--text", "t", "--label", "l", "--train", "lora", "--rank", 10**9]
    assert "--rank: wanted at most 32" in refused("finetune", copy / "model", *rows, "--out", copy / "new")
    assert not (copy / "new").exists()


def test_deeply_nested_json_is_a_bad_line(tmp_path: Path, made: Path, refused: Refused) -> None:
    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + "\n")
    assert "deep.jsonl:1: not JSON" in refused("evaluate", made / "model", tmp_path / "deep.jsonl")


def test_a_base_is_recognised_whatever_precision_it_is_loaded_in(made: Path) -> None:
    assert weights_hash(load(made / "model", dtype="bfloat16").model) == weights_hash(
        load(made / "model", dtype="float32").model
    )
