"""A finetuning by several processes is that of one."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from groups import Group, command
from safetensors.torch import load_file

from chainrule.cli import main

TASK = "--text text --label label --dtype float32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuning")
    lines = [
        {"text": f"a {'fine grim odd'.split()[row % 3]} day {row % 11}: b c", "label": "abc"[row % 3]}
        for row in range(99)
    ]
    (folder / "days.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompt = '[prompt]\ntemplate = "{text}: {label}"\n'
    words = '[prompt.words]\na = "a"\nb = "d"\nc = "g"\n'
    columns = 'train = "days.jsonl"\ntext = "text"\nlabel = "label"\n'
    (folder / "words.toml").write_text(columns + prompt + words)
    (folder / "answers.toml").write_text('kind = "free"\n' + columns + prompt)
    (folder / "text.txt").write_text("\n".join(line["text"] for line in lines))
    main(
        f"pretrain {folder}/text.txt --out {folder}/model --tokenizer char --depth 1 --width 16 --heads 2 --context 16"
        " --batch-tokens 64 --steps 3 --compile off --dtype float32".split()
    )
    return folder


def finetuned(folder: Path, name: str, world: int, options: str) -> dict[str, torch.Tensor]:
    steps = "" if "head" in options else "--epochs 2"
    words = f"finetune {folder}/model {folder}/days.jsonl --out {folder}/{name} {TASK} {steps} {options}"
    group = Group(world, command, words, folder / f"{name}.errors")
    assert group.results == [0] * world, (folder / f"{name}.errors/0").read_text()
    file = "adapter_model" if "lora" in options else "model"
    return load_file(folder / name / f"{file}.safetensors")


@cache
def of_one(folder: Path, train: str) -> dict[str, torch.Tensor]:
    return finetuned(folder, f"alone-{train}", 1, f"--train {train}")


@pytest.mark.parametrize(
    ("world", "train", "shard"), [(2, "full", "on"), (3, "full", "off"), (2, "lora", "off"), (2, "head", "auto")]
)
def test_processes_finetune_to_the_weights_of_one(world: int, train: str, shard: str, folder: Path) -> None:
    alone = of_one(folder, train)
    made = finetuned(folder, f"{world}-{train}", world, f"--train {train} --shard {shard}")
    assert made.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(made[name], tensor, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("name", "options"), [("words", "--by words --train lora"), ("answers", "--train full")])
def test_processes_finetune_the_language_model_to_the_weights_of_one(name: str, options: str, folder: Path) -> None:
    def made(world: int) -> dict[str, torch.Tensor]:
        out = folder / f"{name}-{world}"
        words = f"finetune {folder}/model {folder}/{name}.toml --out {out} {options} --epochs 1 --dtype float32"
        group = Group(world, command, words, folder / f"{name}-{world}.errors")
        assert group.results == [0] * world, (folder / f"{name}-{world}.errors/0").read_text()
        file = "adapter_model" if "lora" in options else "model"
        return load_file(out / f"{file}.safetensors")

    alone, together = made(1), made(2)
    assert together.keys() == alone.keys()
    for key, tensor in alone.items():
        torch.testing.assert_close(together[key], tensor, atol=2e-4, rtol=1e-3, msg=key)
