"""The fields that completions and chat have in common: how tokens are chosen, and where a text ends. Knows no model."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from chainrule.generation.sampling import Sampling
from chainrule.serving.fields import Fields
from chainrule.serving.kinds import Either, Flag, Form, Kind, ListOf, Number, Only, Text, Whole
from chainrule.serving.requests import RequestError

MOST_SAMPLES = 128
MOST_TOP = 20  # log-probabilities at a position
_MOST_STOPS = 16
_PENALTY = Only((0,), "repetition_penalty is what this server has")
_STOPS = f"a string or a list of at most {_MOST_STOPS}, each of at least one character"
COMMON: Mapping[str, Kind] = {
    "model": Text(),
    "n": Whole(1, MOST_SAMPLES),
    "temperature": Number(0, 100),
    "top_p": Number(1e-9, 1),
    "top_k": Whole(1, 2**31),
    "min_p": Number(0, 1),
    "repetition_penalty": Number(1e-3, 1e3),
    "seed": Whole(-(2**63), 2**63 - 1),
    "stop": Either((Text(1), ListOf(Text(1), 0, _MOST_STOPS, _STOPS)), _STOPS),
    "stream": Flag(),
    "stream_options": Form({"include_usage": Flag(), "include_obfuscation": Only((False,))}),
    "user": Text(),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logit_bias": Only(({},)),
}


@dataclass(frozen=True)
class Asked:
    """How the texts of a request are made."""

    sampling: Sampling
    samples: int
    seed: int
    stop: list[str]
    stream: bool
    include_usage: bool


def read_sampling(fields: Fields) -> Asked:
    """The common fields; RequestError for options of a stream without one."""
    sampling = Sampling(
        fields.number("temperature", 1.0),
        fields.integer("top_k"),
        fields.number("top_p"),
        fields.number("min_p"),
        fields.number("repetition_penalty", 1.0),
    )
    stream = fields.flag("stream")
    if "stream_options" in fields and not stream:
        raise RequestError("stream_options: wanted stream: true beside it; leave it out", "stream_options")
    return Asked(
        sampling,
        fields.integer("n", 1),
        fields.integer("seed", secrets.randbits(63)) % 2**64,
        fields.texts("stop"),
        stream,
        fields.fields("stream_options").flag("include_usage"),
    )
