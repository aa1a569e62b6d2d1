"""What many verbs take. Knows no verb."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import tyro

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16"]
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def refuse_without(wanted: str, given: Mapping[str, object], default: Mapping[str, object]) -> None:
    """ValueError for an option that is not at its default, and has no effect without what is wanted."""
    for name, value in given.items():
        if value != default[name]:
            raise ValueError(f"--{name}: wanted {wanted} beside it, got none; add it, or leave --{name} out")


def unescape(typed: str) -> str:
    r"""What a shell hands on as a backslash and a letter: \n, \t and \\ are a newline, a tab and a backslash."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], "\\"), typed)
