"""A typed function is its command line: what is typed arrives as typed values, and a mistake is one line."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from chainrule.arguments import Command, Help
from chainrule.cli import COMMANDS, _command


@dataclass(frozen=True)
class Size:
    """How large.

    Size:
        depth: Layers (default 4).
        start: Where to begin.
    """

    depth: int | None = None
    start: Annotated[Path | None, Help("MODEL", name="from")] = None

    def __post_init__(self) -> None:
        if self.depth == 0:
            raise ValueError("--depth: wanted at least 1, got 0")


def build(
    model: str,
    texts: Annotated[tuple[str, ...], Help("TEXT")] = (),
    /,
    out: Annotated[Path, Help("DIR")] = Path("out"),
    rate: float = 0.5,
    top_k: int | None = None,
    methods: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (),
    kind: Literal["head", "full"] = "head",
    chat: bool = False,
    size: Size = Size(),
) -> None:
    """Build a model.

    Slowly.

    Args:
        model: What to
            build.

    Options:
        rate: How fast.

    Example:
        chainrule build it
    """


COMMAND = Command("chainrule build", build)


def bound(*words: str, command: Command = COMMAND) -> dict[str, Any]:
    """The values that the function would be called with."""
    call: Any = command.bind(words)
    arguments = inspect.signature(build).bind(*call.args, **call.keywords)
    arguments.apply_defaults()
    return dict(arguments.arguments)


def test_what_is_left_out_is_the_functions_own_default() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert bound("it") == {"model": "it", **defaults}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("it one two", "texts", ("one", "two")),
        ("it --chat one", "texts", ("one",)),
        ("it --rate 2 one", "texts", ("one",)),
        ("--rate 2 it one", "model", "it"),
        ("it - one", "texts", ("-", "one")),
        ("it -5", "texts", ("-5",)),
        ("it -- --rate", "texts", ("--rate",)),
        ("it --methods a b -- one", "methods", ("a", "b")),
        ("it --methods a b -- one", "texts", ("one",)),
        ("it --methods a --chat --methods b", "methods", ("a", "b")),
        ("it --methods=a=b", "methods", ("a=b",)),
        ("it --sizes 4 16", "sizes", (4, 16)),
        ("it --out=here", "out", Path("here")),
        ("it --rate -1e-3", "rate", -0.001),
        ("it --rate nan --rate 3", "rate", 3.0),
        ("it --top-k 5", "top_k", 5),
        ("it --top_k 5", "top_k", 5),
        ("it --kind full", "kind", "full"),
        ("it --chat", "chat", True),
        ("it --chat --no-chat", "chat", False),
        ("it --depth 3 --from there", "size", Size(3, Path("there"))),
    ],
)
def test_what_is_typed_arrives_as_a_value_of_its_type(words: str, name: str, value: Any) -> None:
    found = bound(*words.split())[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "wanted MODEL, got none"),
        ("it --top-k", "--top-k: wanted N behind it, got none"),
        ("it --top-k --chat", "got --chat, which is an option; write --top-k=--chat if it is the value"),
        ("it --top-k 1.5", "--top-k: wanted a whole number, got '1.5'"),
        ("it --rate fast", "--rate: wanted a number, got 'fast'"),
        ("it --sizes 4 many", "--sizes: wanted a whole number, got 'many'"),
        ("it --sizes --chat", "--sizes: wanted N behind it, got --chat"),
        ("it --kind half", "--kind: wanted head or full, got 'half'"),
        ("it --chat=yes", "--chat: wanted no value, got 'yes'"),
        ("it --no-rate", "no option --no-rate"),
        ("it --rat 1", "no option --rat; did you mean --rate?"),
        ("it -rate 1", "put -- before a text that begins with -"),
        ("it --from", "--from: wanted MODEL behind it"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option_and_the_help(words: str, told: str) -> None:
    with pytest.raises(ValueError) as error:
        COMMAND.bind(words.split())
    assert told in str(error.value)
    assert str(error.value).endswith("; see chainrule build --help")
    assert "\n" not in str(error.value)


def test_no_option_is_guessed_from_its_beginning() -> None:
    with pytest.raises(ValueError, match="no option --meth; did you mean --methods"):
        COMMAND.bind(["it", "--meth", "a"])


def test_one_argument_too_many_is_named() -> None:
    def one(text: str, /) -> None:
        """Take one text."""

    with pytest.raises(ValueError, match="'day' is one argument too many; put quotes around"):
        Command("chainrule one", one).bind(["fine", "day"])


def test_an_options_own_check_is_told_as_it_is() -> None:
    with pytest.raises(ValueError, match=r"^--depth: wanted at least 1, got 0$"):
        COMMAND.bind(["it", "--depth", "0"])


def test_the_help_is_the_signature_and_the_docstring() -> None:
    left = 31
    wanted = [
        "usage: chainrule build MODEL [TEXT...] [options]",
        "Build a model.",
        "Slowly.",
        "Arguments:",
        f"  {'MODEL':{left}}What to build",
        "  TEXT...",
        "Options:",
        "  --rate X".ljust(left + 2) + "How fast (default 0.5)",
        "  --kind head|full",
        "Size:",
        "  --depth N".ljust(left + 2) + "Layers (default 4)",
        "  --from MODEL".ljust(left + 2) + "Where to begin",
        "Example:",
        "  chainrule build it",
    ]
    lines = [line.rstrip() for line in COMMAND.help(100).splitlines()]
    places = [next(place for place, line in enumerate(lines) if line.startswith(one)) for one in wanted]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [60, 100])
def test_every_help_fits_its_width_says_something_of_each_argument_and_has_an_example(name: str, width: int) -> None:
    command = _command(name)
    shown = command.help(width)
    assert max(map(len, shown.split("Example:")[0].splitlines())) <= width
    assert all(one.text for one in command.arguments)
    assert f"Example:\n  chainrule {name} " in shown
    for word in ("None", "STR", "INT", "PATH", "(default )"):
        assert word not in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_in_the_help_is_a_command_that_can_be_typed(name: str) -> None:
    import shlex

    command = _command(name)
    examples: Sequence[str] = command.help().split("Example:\n")[1].splitlines()
    for line in examples:
        program, verb, *words = shlex.split(line)
        assert (program, verb) == ("chainrule", name)
        call: Callable[[], None] = command.bind(words)
        assert callable(call)
