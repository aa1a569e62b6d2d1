"""Runs what docs/story.md shows, in order, and writes what came out into it: python docs/story.py, after `make demo`.

A block ```console has commands behind `$ `, a block ```pycon statements behind `>>> `; all else in them is output.
"""

import io
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

STORY = Path(__file__).parent / "story.md"
BLOCK = re.compile(r"```(console|pycon)\n(.*?)```", re.DOTALL)
LINES = 24  # of a command's output, at most
MADE = ("head", "full", "compared", "masked", "tasks/plain.toml")  # in demo/, by the story


def retold(text: str) -> str:
    """The story with the output of its blocks as it is now, in this folder."""
    names: dict[str, Any] = {}
    runs: dict[str, Callable[[str], str]] = {"console": command, "pycon": lambda source: statement(source, names)}
    prompts = {"console": "$ ", "pycon": ">>> "}

    def again(block: re.Match[str]) -> str:
        kind = block[1]
        shown = "".join(f"{prompts[kind]}{source}\n{runs[kind](source)}" for source in sources(block[2], prompts[kind]))
        return f"```{kind}\n{shown}```"

    return BLOCK.sub(again, text)


def sources(block: str, prompt: str) -> Iterator[str]:
    """What is to be run; a command goes on to the line in which its quotation closes."""
    lines = iter(block.splitlines())
    for line in lines:
        if line.startswith(prompt):
            source = line.removeprefix(prompt)
            while source.count('"') % 2:
                source += "\n" + next(lines)
            yield source


def command(source: str) -> str:
    """The standard output of a command of ours."""
    from chainrule.cli import main

    name, *arguments = shlex.split(source)
    assert name == "chainrule", source
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        main(arguments)
    return shortened(out.getvalue())


def statement(source: str, names: dict[str, Any]) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(source, "<story>", "single"), names)
    return shortened(out.getvalue())


def shortened(output: str) -> str:
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], "..."]
    return "".join(line + "\n" for line in lines)


if __name__ == "__main__":
    for made in (Path("demo") / name for name in MADE):
        shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
    STORY.write_text(retold(STORY.read_text(encoding="utf-8")), encoding="utf-8")
