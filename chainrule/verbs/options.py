"""What many verbs take. Knows no verb."""

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


def check_at_least(least: float, **options: float | None) -> None:
    """ValueError for an option below `least`; None is one that is not given. A verb's first lines: nothing is loaded
    or written for what cannot be."""
    for name, value in options.items():
        if value is not None and not value >= least:  # so written that NaN fails too
            raise ValueError(f"--{name.replace('_', '-')}: wanted at least {least}, got {value}")


def check_seed(seed: int) -> None:
    """ValueError for what no generator of random numbers begins with."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"--seed: wanted a whole number from 0 to 2**64 - 1, got {seed}")
