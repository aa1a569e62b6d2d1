"""`info` reads headers, not weights."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import SHAPES, random_model

from chainrule.finetuning.finetune import finetune
from chainrule.inspection import inspect_model
from chainrule.language_model import LanguageModel, load
from chainrule.tasks.examples import Examples, Task
from chainrule.tokens.make import byte_tokenizer


@pytest.mark.parametrize("family", SHAPES)
def test_sizes_are_told_of_every_family(family: str, tmp_path: Path) -> None:
    model = random_model(family, vocabulary_size=257)
    LanguageModel(model, byte_tokenizer(), family).save(tmp_path)
    found = inspect_model(tmp_path)
    assert (
        found["family"] == family
        and found["context"] == 32
        and found["key_value_heads"] == model.config.key_value_heads
    )
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("train", ["head", "lora"])
@pytest.mark.parametrize(
    ("kind", "answers", "told"),
    [
        ("classification", ["a", "b"], {"classes": "a, b"}),
        ("multilabel", [("a",), ("a", "b")], {"classes": "a, b", "classes_of_a_text": "several at once, or none"}),
        ("regression", [1.0, 2.0], {"number": "label"}),
    ],
)
def test_a_classifier_tells_what_it_gives(
    train: Literal["head", "lora"], kind: Any, answers: list[Any], told: Any, tmp_path: Path
) -> None:
    rows = Examples([{"text": f"{number} {'ab'[number % 2]}"} for number in range(8)], answers * 4, [""] * 8)
    labels = () if kind == "regression" else ("a", "b")
    LanguageModel(random_model("qwen3", vocabulary_size=257), byte_tokenizer(), "qwen3").save(tmp_path / "base")
    lm = load(tmp_path / "base", device="cpu")
    finetune(lm, Task(kind, ("text",), "label", rows, rows, labels), train=train, out=tmp_path / "out")
    found = inspect_model(tmp_path / "out")
    assert {key: found[key] for key in ("classes", "classes_of_a_text", "number") if key in found} == told


def test_a_file_larger_than_memory_and_disk_is_described(tmp_path: Path) -> None:
    LanguageModel(random_model("llama", vocabulary_size=257), byte_tokenizer(), "llama").save(tmp_path)
    rows, width = 2**20, 2**18  # 1 TB in float32, in a sparse file
    header = {
        "model.embed_tokens.weight": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}
    }
    encoded = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + 4 * rows * width)
    assert inspect_model(tmp_path)["parameters"] == rows * width
