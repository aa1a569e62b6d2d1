"""`info` reads headers, not weights."""

import json
from pathlib import Path

import pytest
from conftest import SHAPES, random_model

from chainrule.inspection import inspect_model
from chainrule.language_model import LanguageModel
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
