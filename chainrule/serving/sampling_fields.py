"""The fields that completions and chat have in common: how tokens are chosen, and where a text ends. Knows no model."""

import secrets
from dataclasses import dataclass

from chainrule.generation.sampling import Sampling
from chainrule.serving.requests import Fields, RequestError

MOST_SAMPLES = 128
MOST_TOP = 20  # log-probabilities at a position
_MOST_STOPS = 16
COMMON = (
    *("model", "n", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop", "stream"),
    *("stream_options", "max_tokens", "user"),
    *("presence_penalty", "frequency_penalty", "logit_bias"),  # at the values that change nothing
)


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
    """The common fields; RequestError for one that is out of range."""
    fields.only("presence_penalty", 0, 0.0, why="repetition_penalty is what this server has")
    fields.only("frequency_penalty", 0, 0.0, why="repetition_penalty is what this server has")
    fields.only("logit_bias", {})
    fields.text("user")
    sampling = Sampling(
        fields.number("temperature", 1.0, least=0, most=100),
        fields.integer("top_k", None, least=1, most=2**31),
        fields.number("top_p", None, least=1e-9, most=1),
        fields.number("min_p", None, least=0, most=1),
        fields.number("repetition_penalty", 1.0, least=1e-3, most=1e3),
    )
    stop = fields.texts("stop", most=_MOST_STOPS)
    if "" in stop:
        raise fields.error("stop", "strings of at least one character")
    stream, options = fields.flag("stream"), fields.fields("stream_options", ("include_usage", "include_obfuscation"))
    options.only("include_obfuscation", False)
    if "stream_options" in fields and not stream:
        raise RequestError("stream_options: wanted stream: true beside it; leave it out", "stream_options")
    return Asked(
        sampling,
        fields.integer("n", 1, least=1, most=MOST_SAMPLES),
        fields.integer("seed", secrets.randbits(63), least=-(2**63), most=2**63 - 1) % 2**64,
        stop,
        stream,
        options.flag("include_usage"),
    )
