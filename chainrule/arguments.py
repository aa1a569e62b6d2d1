"""A command line from a typed function: its signature names the arguments, its docstring explains them.

Positional-only parameters are arguments by position, all others are options; a parameter whose type is a dataclass
stands for an option per field. The sections of a docstring ("Training:") are the groups of the help, and what stands
under "Example:" ends it. Knows no command, and imports nothing that takes time: help is shown at once.
"""

import dataclasses
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from chainrule.errors import OptionError

_REQUIRED = inspect.Parameter.empty
_LEFT = 31  # columns of an option and its value in the help; a longer one has a line for itself
_WIDEST = 100  # columns of the help


@dataclass(frozen=True)
class Help:
    """What the help says of an argument, where its type and the docstring do not: `Annotated[Path, Help("DIR")]`."""

    value: str = ""  # how the value is called
    text: str = ""
    section: str = ""
    name: str = ""  # of the option, where that is a word of Python's own


@dataclass(frozen=True)
class Argument:
    """One argument of a command."""

    parameter: str  # of the function
    field: str  # of the dataclass that the parameter is; empty where it is none
    spelled: str  # MODEL, --batch-tokens
    value: str  # how its value is called in the help; empty for a flag
    read: Callable[[str], Any]  # from the typed word; OptionError says what was wanted
    many: bool  # takes any number of words
    default: Any  # _REQUIRED where it must be given
    section: str
    text: str

    @property
    def positional(self) -> bool:
        return not self.spelled.startswith("--")

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED

    @property
    def usage(self) -> str:
        """How it is typed: MODEL, [TEXT...], --out DIR."""
        shown = self.spelled if self.positional else f"{self.spelled} {self.value}".rstrip()
        shown += "..." if self.many else ""
        return f"[{shown}]" if self.positional and not self.required else shown

    @property
    def explained(self) -> str:
        """Its help, and the default where that is a plain value."""
        plain = self.default not in (None, "", (), _REQUIRED) and not isinstance(self.default, bool)
        shown = f"{self.default:g}" if isinstance(self.default, float) else self.default
        return (self.text.rstrip(".") + f" (default {shown})" * plain).strip()


class Command:
    """A function that can be typed; `name` is how, with the program's own."""

    def __init__(self, name: str, function: Callable[..., None]) -> None:
        self.name, self._function = name, function
        explained = _explained(function)
        self.summary, *self._more = explained.text.split("\n\n")
        self._example = explained.example
        self._parameters = list(inspect.signature(function).parameters.values())
        self.arguments = [one for parameter in self._parameters for one in _arguments(parameter, explained)]
        self._options = {one.spelled: one for one in self.arguments if not one.positional}

    def bind(self, words: Sequence[str]) -> Callable[[], None]:
        """The function with the arguments that the words are; OptionError in one line where they are not right."""
        try:
            values = self._values(words)
        except OptionError as error:
            raise OptionError(f"{error}; see {self.name} --help") from None
        by_position: list[Any] = []
        by_name: dict[str, Any] = {}
        for parameter in self._parameters:
            own = {one.field: values[one.spelled] for one in self.arguments if one.parameter == parameter.name}
            value = own[""] if "" in own else parameter.annotation(**own)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                by_position.append(value)
            else:
                by_name[parameter.name] = value
        return partial(self._function, *by_position, **by_name)

    def _values(self, words: Sequence[str]) -> dict[str, Any]:
        """The value of every argument, by its spelling."""
        left = list(words)
        by_position: list[str] = []
        values: dict[str, Any] = {}
        while left:
            word = left.pop(0)
            if word == "--":
                by_position += left
                break
            if not is_option(word):
                by_position.append(word)
                continue
            spelled, given, value = word.partition("=")
            option, wanted = self._option(spelled)
            if not option.value:
                if given:
                    raise OptionError(f"{spelled}: wanted no value, got {value!r}")
                values[option.spelled] = wanted
            elif option.many:
                typed = [value] if given else _until_option(left) or [_next(option, left)]
                values[option.spelled] = (*values.get(option.spelled, ()), *(_read(option, one) for one in typed))
            else:
                values[option.spelled] = _read(option, value if given else _next(option, left))
        values |= self._by_position(by_position)
        for argument in self.arguments:
            if argument.spelled not in values:
                if argument.required:
                    raise OptionError(f"wanted {argument.usage}, got none")
                values[argument.spelled] = argument.default
        return values

    def _option(self, spelled: str) -> tuple[Argument, bool]:
        """The option of that spelling, and whether it is on: --no-chat is --chat switched off."""
        spelled = spelled.replace("_", "-")
        if spelled in self._options:
            return self._options[spelled], True
        positive = self._options.get("--" + spelled.removeprefix("--no-"))
        if positive is not None and not positive.value:
            return positive, False
        dashes = "" if spelled.startswith("--") else "; put -- before a text that begins with -"
        raise OptionError(f"no option {spelled}{nearest(spelled, self._options)}{dashes}")

    def _by_position(self, words: list[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for argument in self.arguments:
            if argument.positional and words:
                taken = len(words) if argument.many else 1
                read = [_read(argument, word) for word in words[:taken]]
                values[argument.spelled] = tuple(read) if argument.many else read[0]
                words = words[taken:]
        if words:
            raise OptionError(f"{words[0]!r} is one argument too many; put quotes around a text of several words")
        return values

    def help(self, width: int = 0) -> str:
        """What --help prints, folded to `width`, by default the terminal's."""
        width = width or terminal_width()
        needed = [one.usage for one in self.arguments if one.positional or one.required]
        parts = [textwrap.fill(" ".join(["usage:", self.name, *needed, "[options]"]), width, subsequent_indent="    ")]
        parts += [textwrap.fill(paragraph, width) for paragraph in (self.summary, *self._more)]
        for section in dict.fromkeys(one.section for one in self.arguments):
            rows = [(one.usage.strip("[]"), one.explained) for one in self.arguments if one.section == section]
            parts.append(f"{section}:\n" + table(rows, _LEFT, width))
        if self._example:
            parts.append("Example:\n" + textwrap.indent(self._example, "  "))
        return "\n\n".join(parts) + "\n"


def table(rows: Iterable[tuple[str, str]], left: int, width: int) -> str:
    """Two columns, the first one `left` wide; what does not fit beside a longer name begins in the next line."""
    lines = []
    for name, text in rows:
        folded = textwrap.wrap(text, width - left - 2, break_on_hyphens=False) or [""]
        if len(name) > left - 2:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:{left}}{folded.pop(0)}".rstrip())
        lines += [" " * (left + 2) + line for line in folded]
    return "\n".join(lines)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, where one of the known words is much like it; else nothing."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def is_option(word: str) -> bool:
    """Whether a word begins with a dash; a number below 0 and - alone are values."""
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _until_option(left: list[str]) -> list[str]:
    """Take the values of an option that has any number of them."""
    taken = []
    while left and not is_option(left[0]):
        taken.append(left.pop(0))
    return taken


def _next(option: Argument, left: list[str]) -> str:
    if left and not is_option(left[0]):
        return left.pop(0)
    hint = f", which is an option; write {option.spelled}={left[0]} if it is the value" if left else ""
    raise OptionError(f"{option.spelled}: wanted {option.value} behind it, got {left[0] if left else 'none'}{hint}")


def _read(argument: Argument, word: str) -> Any:
    try:
        return argument.read(word)
    except OptionError as error:
        raise OptionError(f"{argument.spelled}: {error}, got {word!r}") from None


class _Explained(NamedTuple):
    """A docstring in its parts."""

    text: str
    arguments: dict[str, tuple[str, str]]  # name -> its section, what is said of it
    example: str


def _explained(documented: Callable[..., Any]) -> _Explained:
    text, *sections = re.split(r"^([A-Z][^\n]*):\n(?=    )", inspect.getdoc(documented) or "", flags=re.MULTILINE)
    arguments, example = {}, ""
    for section, body in zip(sections[::2], sections[1::2], strict=True):
        if section == "Example":
            example = textwrap.dedent(body).strip()
            continue
        for name, said in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", body, re.MULTILINE):
            arguments[name] = ("Arguments" if section == "Args" else section, " ".join(said.split()))
    return _Explained(text.strip(), arguments, example)


def _arguments(parameter: inspect.Parameter, explained: _Explained) -> list[Argument]:
    """Of a parameter: one, or one per field of the dataclass that it is."""
    kind = parameter.annotation
    if not dataclasses.is_dataclass(kind):
        positional = parameter.kind is parameter.POSITIONAL_ONLY
        return [_argument(parameter.name, "", kind, parameter.default, positional, explained)]
    assert isinstance(kind, type)
    own = _explained(kind)
    fields = dataclasses.fields(kind)
    return [_argument(parameter.name, field.name, field.type, field.default, False, own) for field in fields]


def _argument(
    parameter: str, field: str, annotation: Any, default: Any, positional: bool, explained: _Explained
) -> Argument:
    kind, shown, many = annotation, Help(), False
    while True:
        origin, inside = get_origin(kind), get_args(kind)
        if origin is Annotated:
            kind, shown = inside
        elif type(None) in inside:  # None is what stands for an option that was not given
            (kind,) = (one for one in inside if one is not type(None))
        elif origin in (tuple, list):
            kind, many = inside[0], True
        else:
            break
    name = shown.name or field or parameter
    section, text = explained.arguments.get(field or parameter, ("", ""))
    return Argument(
        parameter,
        field,
        (shown.value or name.upper()) if positional else "--" + name.replace("_", "-"),
        "" if kind is bool else shown.value or _called(kind),
        _reader(kind),
        many,
        default,
        section or shown.section or ("Arguments" if positional else "Options"),
        text or shown.text,
    )


def _called(kind: Any) -> str:
    """How a value of this type is called in the help."""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return {int: "N", float: "X", str: "TEXT", Path: "FILE"}[kind]


def _reader(kind: Any) -> Callable[[str], Any]:
    if get_origin(kind) is Literal:
        return partial(_choice, get_args(kind))
    if kind in (int, float):
        return partial(_number, kind)
    assert isinstance(kind, type)
    return kind


def _choice(choices: tuple[str, ...], word: str) -> str:
    if word not in choices:
        raise OptionError(f"wanted {', '.join(choices[:-1])} or {choices[-1]}")
    return word


def _number(kind: type[int] | type[float], word: str) -> int | float:
    try:
        return kind(word)
    except ValueError:
        raise OptionError(f"wanted {'a whole number' if kind is int else 'a number'}") from None


def terminal_width() -> int:
    """Columns to print help in: at most as many as are read with ease."""
    try:
        return min(_WIDEST, os.get_terminal_size(sys.stdout.fileno()).columns)
    except (OSError, ValueError):  # a file or a pipe
        return _WIDEST
