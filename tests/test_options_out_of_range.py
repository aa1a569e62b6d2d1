"""A number that cannot be is refused by the option's name, before a model or data is looked for, by every command."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from chainrule.cli import COMMANDS, _command, main

# Command -> the options that take a number, each with values that cannot be.
WRONG: dict[str, dict[str, tuple[str, ...]]] = {
    "demo": {"seed": ("-1", str(2**64))},
    "tokenize nowhere.txt --out OUT": {
        "vocabulary-size": ("256", "0", "-5"),
        "validation": ("-0.1", "1", "nan", "inf"),
        "workers": ("0", "-1"),
    },
    "pretrain nowhere.txt --out OUT": {
        "depth": ("0", "-1"),
        "width": ("0", "-64", "3"),
        "heads": ("0", "-1", "5"),
        "context": ("0", "1", "-1"),
        "steps": ("0", "-1"),
        "minutes": ("0", "-1", "nan", "inf"),
        "batch-tokens": ("0", "255"),
        "learning-rate": ("0", "-0.1", "nan", "inf"),
        "validate-every": ("0", "-1"),
        "keep": ("0", "-1"),
        "rank": ("0", "-1"),
        "wait": ("0", "-1", "nan", "inf"),
        "seed": ("-1", str(2**64)),
        "vocabulary-size": ("256",),
        "validation": ("0", "-0.1", "1", "nan"),
        "workers": ("0",),
    },
    "generate nowhere": {
        "temperature": ("-0.1", "nan", "inf"),
        "top-k": ("0", "-1"),
        "top-p": ("0", "-0.1", "1.1", "nan"),
        "min-p": ("-0.1", "1.1", "nan"),
        "repetition-penalty": ("0", "-1", "nan", "inf"),
        "max-tokens": ("0", "-1"),
        "samples": ("0", "-1"),
        "seed": ("-1", str(2**64)),
    },
    "score nowhere text": {"top": ("-1",)},
    "evaluate nowhere nowhere.txt": {"stride": ("0", "-1")},
    "evaluate nowhere --tasks arc_easy": {"shots": ("-1",), "limit": ("0", "-1")},
    "info nowhere": {},
    "task nowhere.csv --text a --label b --out OUT.toml": {},
    "zero-shot nowhere nowhere.csv": {"limit": ("0", "-1"), "show": ("-1",)},
    "in-context nowhere nowhere.csv": {
        "shots": ("-1",),
        "labels": ("0", "-1"),
        "seeds": ("0", "-1"),
        "limit": ("0", "-1"),
        "show": ("-1",),
    },
    "finetune nowhere nowhere.csv --out OUT": {
        "labels": ("0", "-1"),
        "rank": ("0", "-1"),
        "show": ("-1",),
        "wait": ("0", "-1", "nan", "inf"),
        "epochs": ("0", "-1", "nan", "inf"),
        "learning-rate": ("0", "-0.1", "nan", "inf"),
        "seed": ("-1", str(2**64)),
        "limit": ("0", "-1"),
    },
    "serve nowhere": {
        "batch": ("0", "-1"),
        "cache-tokens": ("0", "-1"),
        "queue": ("0", "-1"),
        "port": ("-1", "65536"),
    },
    "predict nowhere text --task nowhere.csv": {"shots": ("-1",), "seed": ("-1", str(2**64))},
    "compare nowhere nowhere.csv --out OUT": {
        "sizes": ("-1",),
        "seeds": ("0", "-1"),
        "limit": ("1", "0", "-1"),
        "minutes": ("0", "-1", "nan"),
    },
}
CASES = [
    (command, option, value) for command, options in WRONG.items() for option, values in options.items()
    for value in values
]  # fmt: skip


@pytest.mark.parametrize(("command", "option", "value"), CASES)
def test_it_is_refused_by_its_name_before_anything_is_looked_for(
    command: str,
    option: str,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([*command.split(), f"--{option}", value])
    told = capsys.readouterr()
    assert (end.value.code, told.out, told.err.count("\n")) == (2, "", 1)
    named = told.err.removeprefix("chainrule: ").partition(":")[0]
    # Sizes that must fit together are told by one of them.
    together = {"width": "heads"} if value == "3" else {}
    assert named.strip("-").replace("_", "-").replace(" ", "-") == together.get(option, option)
    assert list(tmp_path.iterdir()) == []


def numbers_in(kind: Any, name: str = "") -> Iterator[str]:
    """The options that take a number, among those that an annotation stands for."""
    if is_dataclass(kind):
        for field in fields(kind):
            yield from numbers_in(get_type_hints(kind)[field.name], field.name.replace("_", "-"))
    elif kind in (int, float):
        yield name
    else:
        for part in get_args(kind):
            yield from numbers_in(part, name)


def test_no_number_of_any_command_is_left_out_of_the_table() -> None:
    for verb in COMMANDS:
        tried = {option for command, options in WRONG.items() for option in options if command.split()[0] == verb}
        hints = get_type_hints(_command(verb)._function)
        wanted = {option for name in hints for option in numbers_in(hints[name], name.replace("_", "-"))}
        assert wanted == tried, verb


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "bert"])
def test_the_smallest_model_that_is_allowed_trains_and_samples(family: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the owl sees a mouse. " * 40)
    smallest = ["--depth", "1", "--width", "2", "--heads", "1", "--context", "2", "--batch-tokens", "2"]
    more = ["--family", family, "--objective", "masked" if family == "bert" else "next", "--tokenizer", "byte"]
    fast = ["--steps", "1", "--compile", "off", "--dtype", "float32"]
    main(["pretrain", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), *smallest, *more, *fast])
    if family != "bert":
        main(["generate", str(tmp_path / "run"), "--max-tokens", "1"])
