"""The README's commands and its Python run as they are printed, on a text of a few kB and with a few steps."""

import random
import re
import shlex
from pathlib import Path

import pytest

from chainrule.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SMALL = "--steps 5 --depth 1 --width 16 --heads 2 --context 256 --batch-tokens 256 --compile off"


def test_the_readmes_commands_and_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "To be, or not to be: that is the question. ROMEO: soft! What light?\n"
        "Review of Stars, good or grim: It was a warm day in 012345678 A charming film\n"
    ).split(" ")
    rng = random.Random(0)
    text = "To be, or not to be\nROMEO: " + " ".join(rng.choice(words) for _ in range(3000))
    Path("shakespeare.txt").write_text(text)
    (block,) = re.findall(r"```\n(chainrule pretrain shakespeare.*?)```", README, re.DOTALL)
    commands = [shlex.split(line)[1:] for line in block.replace("--minutes 3", SMALL).splitlines()]
    assert [command[0] for command in commands] == ["pretrain", "generate", "score", "evaluate", "info"]
    for command in commands:
        main(command)
        assert capsys.readouterr().out.strip(), command

    rows = [
        f"{stars},It was a {word} day in {place}"
        for place in range(9)
        for stars, word in (("good", "warm"), ("bad", "grim"))
    ]
    Path("reviews.csv").write_text("\n".join(["stars,review", *rows]))
    (block,) = re.findall(r"```\n(chainrule task reviews.*?)```", README, re.DOTALL)
    for line in block.splitlines():
        main(shlex.split(line)[1:])
        assert capsys.readouterr().out.strip(), line

    (python,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(python, names)
    assert names["lm"].log_prob("To be") < 0  # type: ignore[attr-defined]
