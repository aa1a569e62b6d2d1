"""The command line: finds the command, and tells a user's mistake in one line. Knows commands by their names alone."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import NoReturn

from chainrule.arguments import Command, nearest, table, terminal_width
from chainrule.errors import ChainruleError, OptionError

GROUPS = {
    "Text: make a language model from your own": ("tokenize", "pretrain"),
    "Models: yours, or those of the Hugging Face Hub": ("generate", "score", "evaluate", "info", "export"),
    "Labels: what a model can do with yours": ("task", "zero-shot", "in-context", "finetune", "predict", "compare"),
    "Other programs, and a page to look at a model": ("serve",),
    "A tour": ("demo",),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
HELP = ("-h", "--help")
TRACEBACK = "--traceback"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # raised by writes, without a file's name


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name.

    A user's mistake, and an error of the operating system about a file, end with one line on standard error and exit
    status 2; with --traceback they show where they were raised. Any other exception is a bug, and does so always.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    words, traceback = _without_traceback(words)
    try:
        run = _bound(words)
        from chainrule.memory import keep_freed_memory

        keep_freed_memory()
        run()
    except KeyboardInterrupt:
        print("chainrule: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, has stopped
    except Exception as error:
        mistake = isinstance(error, ChainruleError) or _is_about_a_file(error)
        if mistake and not traceback:
            _wait_for_the_first_process()
            print("chainrule: " + " ".join(str(error).split()), file=sys.stderr)
            sys.exit(2)
        too_large = _is_out_of_memory(error)
        if too_large and not traceback:
            what = " ".join(str(error).split()).partition(". GPU ")[0].rstrip(".")
            print(
                f"chainrule: wanted more memory than there is: {what}; take a smaller model, --dtype bfloat16 where"
                " there is one, or a device with more",
                file=sys.stderr,
            )
            sys.exit(2)
        if not (mistake or too_large):
            print("chainrule: this is a bug; please report the command and the lines below", file=sys.stderr)
        raise


def _without_traceback(words: list[str]) -> tuple[list[str], bool]:
    """The words without --traceback, which every command takes, and whether it was among them."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != TRACEBACK]
    return kept + words[end:], len(kept) < end


def _wait_for_the_first_process() -> None:
    """Under torchrun, wait a moment in all processes but the first: if it met the same mistake, it prints it,
    and torchrun ends the others."""
    if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("RANK", "0") != "0":
        time.sleep(1.0)


def _is_about_a_file(error: Exception) -> bool:
    """Whether the operating system refused a file or folder: not found, not permitted, no space left."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in DISK)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the system, had no memory left. Known by its name: torch may not be imported."""
    return type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error)


def _bound(words: Sequence[str]) -> Callable[[], None]:
    """The command that the words ask for, to be called; asked for help, it prints that and exits."""
    name, *rest = words or [""]
    if name in HELP:
        _show(_overview())
    if name not in COMMANDS:
        got = f"got {name!r}{nearest(name, COMMANDS)}" if name else "got none"
        raise OptionError(f"wanted a command, {got}; see chainrule --help")
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
        yield (
            "chainrule COMMAND --help explains a command and shows an example.\n"
            "--traceback, with any command, shows where an error was raised."
        )

    return "\n\n".join(parts()) + "\n"


def _show(text: str) -> NoReturn:
    print(text, end="")
    sys.exit(0)
