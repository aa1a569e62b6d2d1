"""The command line: finds the command, and tells a user's mistake in one line. Knows commands by their names alone."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import NoReturn

from chainrule.arguments import Command, nearest, table, terminal_width

GROUPS = {
    "Text: make a language model from your own": ("tokenize", "pretrain"),
    "Models: yours, or those of the Hugging Face Hub": ("generate", "score", "evaluate", "info"),
    "Labels: what a model can do with yours": (*("task", "zero-shot", "in-context", "finetune", "predict", "compare"),),
    "A tour": ("demo",),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; a user's mistake ends with one line on standard error and status 2."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        run = _bound(words)
    except ValueError as error:
        _mistake(str(error))
    from chainrule.memory import keep_freed_memory

    keep_freed_memory()
    try:
        run()
    except KeyboardInterrupt:
        print("chainrule: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has enough, and that is no error
    except (ValueError, OSError) as error:
        if os.environ.get("CHAINRULE_TRACEBACK"):
            raise
        _mistake(str(error))


def _bound(words: Sequence[str]) -> Callable[[], None]:
    """The command that the words ask for, to be called; asked for help, it prints that and exits."""
    name, *rest = words or [""]
    if name in HELP:
        _show(_overview())
    if name not in COMMANDS:
        got = f"got {name!r}{nearest(name, COMMANDS)}" if name else "got none"
        raise ValueError(f"wanted a command, {got}; see chainrule --help")
    command = _command(name)
    if any(word in HELP for word in rest[: rest.index("--") if "--" in rest else None]):
        _show(command.help())
    return command.bind(rest)


def _command(name: str) -> Command:
    """Import the one command, whose function stands in the module of its name."""
    of_python = name.replace("-", "_")
    return Command(f"chainrule {name}", getattr(import_module(f"chainrule.commands.{of_python}"), of_python))


def _overview() -> str:
    """Every command in a line."""

    def parts() -> Iterator[str]:
        yield "usage: chainrule COMMAND [arguments]"
        yield "The whole life of a language model: make one from text, ask it, and adapt it to your labels, measured."
        for group, names in GROUPS.items():
            yield f"{group}:\n" + table([(name, _command(name).summary) for name in names], 12, terminal_width())
        yield "chainrule COMMAND --help explains a command and shows an example."

    return "\n\n".join(parts()) + "\n"


def _show(text: str) -> NoReturn:
    print(text, end="")
    sys.exit(0)


def _mistake(message: str) -> NoReturn:
    print("chainrule: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
