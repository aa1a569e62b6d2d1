"""The command line: finds the verb, and tells a user's mistake in one line. Knows no verb but by its name."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, NoReturn

import tyro

from chainrule.commands.compare import compare
from chainrule.commands.demo import demo
from chainrule.commands.evaluate import evaluate
from chainrule.commands.finetune import finetune
from chainrule.commands.generate import generate
from chainrule.commands.in_context import in_context
from chainrule.commands.info import info
from chainrule.commands.predict import predict
from chainrule.commands.pretrain import pretrain
from chainrule.commands.score import score
from chainrule.commands.task import task
from chainrule.commands.tokenize import tokenize
from chainrule.commands.zero_shot import zero_shot
from chainrule.memory import keep_freed_memory

TEXT = (demo, tokenize, pretrain, generate, score, evaluate, info)
LABELS = (task, zero_shot, in_context, finetune, predict, compare)
VERBS: dict[str, Callable[..., None]] = {verb.__name__.replace("_", "-"): verb for verb in (*TEXT, *LABELS)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the verb that the arguments name; a user's mistake ends with one line on standard error and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    verb = _parsed(arguments)
    keep_freed_memory()
    try:
        verb()
    except KeyboardInterrupt:
        print("chainrule: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has enough, and that is no error
    except (ValueError, OSError) as error:
        if os.environ.get("CHAINRULE_TRACEBACK"):
            raise
        _mistake(str(error))


def _parsed(arguments: Sequence[str]) -> Callable[[], None]:
    """The verb with its arguments, to be called; what is wrong with them is told in one line."""

    def later(verb: Callable[..., None]) -> Callable[..., Callable[[], None]]:
        @wraps(verb)
        def bound(*positional: Any, **named: Any) -> Callable[[], None]:
            return partial(verb, *positional, **named)

        bound.__annotations__ = {**verb.__annotations__, "return": Callable[[], None]}
        return bound

    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            parsed: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
                {name: later(verb) for name, verb in VERBS.items()},
                prog="chainrule",
                description="The whole life of an autoregressive language model, from text to adaptation.",
                args=arguments,
            )
            return parsed
    except SystemExit as end:
        if end.code:
            _mistake(_unboxed(box.getvalue(), arguments))
        raise
    except ValueError as error:  # an option's own check
        _mistake(str(error))


def _unboxed(box: str, arguments: Sequence[str]) -> str:
    """The first message of a box that tyro drew, and where to look further."""
    lines = [line.strip(" │╭╮╰╯─━╌") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    told = [line for line in lines[1:] if line.strip("-+")]
    further = ("For full helptext", "Argument helptext", "Perhaps you meant", "Arguments are applied")
    ends = [index for index, line in enumerate(told) if line.startswith(further)]
    message = re.sub(r"^Error parsing \S*dummy\S*: ", "", " ".join(told[: ends[0]] if ends else told))
    verb = f" {arguments[0]}" if arguments and arguments[0] in VERBS else ""
    return f"{message}; see chainrule{verb} --help"


def _mistake(message: str) -> NoReturn:
    print("chainrule: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
