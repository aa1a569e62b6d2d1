"""`compare --quantize`: a model in 8 or 4 bits under every method that leaves its weights as they are."""

import csv
import json
from pathlib import Path

import pytest
from conftest import random_model

import chainrule
from chainrule.cli import main
from chainrule.comparison.methods import METHODS
from chainrule.comparison.study import Study
from chainrule.language_model import make_language_model
from chainrule.model.quantise import quantise_model
from chainrule.model.quantised import count_weights
from chainrule.tasks.examples import Task
from chainrule.tokens.make import byte_tokenizer

WIDE = {"width": 64, "hidden": 96, "head_width": 16}  # blocks have 32 columns
COLOURS = ("red", "green", "blue")
WHOLE = {"full", "words", "answers"}  # train all weights
CLASSES = "compare {} rows.toml --sizes 6 --seeds 1 --limit 6 --dtype float32 --out {} --quantize {}"
FREE = "compare qwen3 free.toml --sizes 6 --seeds 1 --limit 3 --dtype float32 --out {} --quantize {}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [(f"{i} a {COLOURS[i % 3]} thing", COLOURS[i % 3]) for i in range(30)]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "colour"), *rows])
    words = "".join(f'{colour} = "{colour}"\n' for colour in COLOURS)
    task = 'train = "rows.csv"\ntext = "text"\nlabel = "colour"\n\n[prompt]\ntemplate = "{text} is {label}"\n'
    (tmp_path / "rows.toml").write_text(f"{task}\n[prompt.words]\n{words}")
    (tmp_path / "free.toml").write_text(f'kind = "free"\n{task}')
    tokenizer = byte_tokenizer()
    model = random_model("qwen3", tokenizer.vocabulary_size, context=64, **WIDE)
    make_language_model(model, tokenizer, "qwen3").save(tmp_path / "qwen3")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(folder: Path, out: str) -> dict[str, dict[str, object]]:
    results = json.loads((folder / out / "results.json").read_text(encoding="utf-8"))
    return {row["method"]: row for row in results["rows"]}


def refusal(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and "\n" not in error
    return error


@pytest.mark.parametrize("methods", ["head lora zero-shot in-context centroid", "words-lora"])
def test_methods_that_leave_the_weights_as_they_are_are_compared_beside_blocks(methods: str, folder: Path) -> None:
    main([*CLASSES.format("qwen3", "out", "int8").split(), "--methods", *methods.split()])
    assert set(found(folder, "out")) == set(methods.split())
    assert "quantised" in json.loads((folder / "out/results.json").read_text(encoding="utf-8"))["model"]


def test_methods_that_train_all_weights_are_left_out_and_no_others(folder: Path) -> None:
    for quantize, wanted in (("int8", WHOLE - {"answers"}), ("none", set())):
        lm = chainrule.load("qwen3", device="cpu", dtype="float32", quantize=quantize)
        study = Study(lm, Task.load("rows.toml"))
        of_classes = [method for method in METHODS if "classification" in method.kinds]
        obstacles = {method.name: method.obstacle(study) for method in of_classes}
        assert {name for name, obstacle in obstacles.items() if obstacle is not None} == wanted
        assert all("--quantize none" in str(obstacles[name]) for name in wanted)


def test_free_answers_are_compared_beside_blocks(folder: Path) -> None:
    main(FREE.format("out", "int4").split())
    assert "answers-lora" in found(folder, "out") and "answers" not in found(folder, "out")
    results = json.loads((folder / "out/results.json").read_text(encoding="utf-8"))
    assert list(results["left_out"]) == ["answers"]


def test_a_method_that_trains_all_weights_is_refused_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("full", "words"):
        error = refusal(f"{CLASSES.format('qwen3', 'out', 'int8')} --methods {name}", capsys)
        assert "wants --quantize none" in error and not (folder / "out").exists()


def test_what_was_begun_is_not_continued_with_another_quantisation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap = " --methods majority centroid"
    main((CLASSES.format("qwen3", "out", "int8") + cheap).split())
    for other, came in (("int4", "int4"), ("none", "none")):
        error = refusal(CLASSES.format("qwen3", "out", other) + cheap, capsys)
        assert error.startswith(f"chainrule: --quantize: wanted int8, as when out was begun, got {came}")
    main((CLASSES.format("qwen3", "out", "int8") + cheap).split())


def test_parts_find_what_one_command_finds_and_have_one_quantisation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap = " --methods majority centroid head zero-shot"
    main((CLASSES.format("qwen3", "whole", "int8") + cheap).split())
    for part in ("1/2", "2/2"):
        main((CLASSES.format("qwen3", "parts", "int8") + cheap + f" --part {part}").split())
    error = refusal(CLASSES.format("qwen3", "parts", "int4") + cheap + " --join", capsys)
    assert "int8" in error and "int4" in error
    main((CLASSES.format("qwen3", "parts", "int8") + cheap + " --join").split())
    whole, parts = found(folder, "whole"), found(folder, "parts")
    assert {name: row["accuracy"] for name, row in whole.items()} == {
        name: row["accuracy"] for name, row in parts.items()
    }


def test_an_adapter_is_compared_beside_blocks(folder: Path) -> None:
    main("finetune qwen3 rows.toml --by words --train lora --rank 2 --epochs 1 --dtype float32 --out lora".split())
    main((CLASSES.format("lora", "out", "int8") + " --methods head lora zero-shot").split())
    assert set(found(folder, "out")) == {"head", "lora", "zero-shot"}


def test_no_second_adapter_is_trained_beside_one_that_stays_beside_blocks(folder: Path) -> None:
    lora = "--train lora --quantize int8 --rank 2 --epochs 1 --dtype float32"
    main(f"finetune qwen3 rows.toml --by words {lora} --out beside".split())
    lm, task = chainrule.load("beside", device="cpu", dtype="float32", quantize="int8"), Task.load("rows.toml")
    for by in ("head", "words"):
        with pytest.raises(chainrule.ChainruleError, match="wanted a model without adapter"):
            chainrule.finetune(lm, task, train="lora", by=by)
    main((CLASSES.format("beside", "out", "int8") + " --methods head zero-shot majority").split())
    for name in ("lora", "words-lora"):
        method = next(method for method in METHODS if method.name == name)
        assert "--quantize none" in str(method.obstacle(Study(lm, task)))


def test_weights_in_blocks_are_counted_as_those_that_they_stand_for() -> None:
    for family in ("qwen3", "gpt2", "gemma3_text"):
        model = random_model(family, **WIDE)
        before = count_weights(model)
        assert before == sum(parameter.numel() for parameter in model.parameters())
        quantise_model(model, "int4")
        assert count_weights(model) == before
