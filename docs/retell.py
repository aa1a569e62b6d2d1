"""Runs what a page shows, in order, and writes what came out into it: python docs/retell.py docs/story.md

A block ```console has commands behind `$ `, a block ```pycon statements behind `>>> `; all else in them is output. They
run in this folder, or in another that is named behind --in; what the page's commands write with --out is made anew.
"""

import argparse
import io
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from chainrule.storage.files import write_text

BLOCK = re.compile(r"```(console|pycon)\n(.*?)```", re.DOTALL)
PROMPTS = {"console": "$ ", "pycon": ">>> "}
LINES = 40  # of an output, at most


def retold(text: str) -> str:
    """The page with the output of its blocks as it is now."""
    names: dict[str, Any] = {}
    runs: dict[str, Callable[[str], str]] = {"console": command, "pycon": lambda source: statement(source, names)}

    def again(block: re.Match[str]) -> str:
        prompt, run = PROMPTS[block[1]], runs[block[1]]
        shown = "".join(f"{prompt}{source}\n{shortened(run(source))}" for source in sources(block[2], prompt))
        return f"```{block[1]}\n{shown}```"

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
    """The standard output of a command: of ours, or of the shell's."""
    from chainrule.cli import main

    if not source.startswith("chainrule "):
        return subprocess.run(source, shell=True, stdout=subprocess.PIPE, text=True, check=True).stdout
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(shlex.split(source)[1:])
    except SystemExit:
        raise RuntimeError(f"{source}: {err.getvalue()}") from None
    return out.getvalue()


def statement(source: str, names: dict[str, Any]) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(source, "<page>", "single"), names)
    return out.getvalue()


def shortened(output: str) -> str:
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], "..."]
    return "".join(line + "\n" for line in lines)


def remove_what_is_made(text: str) -> None:
    """What stands behind --out in the page's commands: they would go on with it, or refuse it."""
    for kind, block in BLOCK.findall(text):
        for source in sources(block, PROMPTS[kind]):
            for name in re.findall(r"--out (\S+)", source):
                shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink(missing_ok=True)
                if name.endswith(".gguf"):
                    Path(name).with_suffix(".Modelfile").unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--in", dest="folder", default=".")
    options = parser.parse_args()
    page = options.page.resolve()
    os.chdir(options.folder)
    told = page.read_text(encoding="utf-8")
    remove_what_is_made(told)
    write_text(page, retold(told))
