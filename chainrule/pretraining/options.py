"""What a user may ask of a pretraining run, and the sizes that follow. Imports nothing heavy: the command line does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

LEAST_CONTEXT = 2


@dataclass(frozen=True)
class PretrainOptions:
    """None means: decided from --depth, or from what this machine measures."""

    depth: int | None = None
    """Layers (4); alone it gives a sensible width, heads, context and learning rates."""
    width: int | None = None
    """D, the width of the representation; 64 a layer."""
    heads: int | None = None
    context: int | None = None
    """T, the tokens of an example and the most the model reads at once."""
    steps: int | None = None
    minutes: float | None = None
    """Fit the whole schedule, decay included, into so many minutes of this machine; with --steps, at most these."""
    batch_tokens: int | None = None
    """Tokens a step."""
    learning_rate: float | None = None
    """Peak rate of the matrices; the other rates keep their proportion to it. --from: a tenth by default."""
    optimizer: Literal["muon", "adamw"] | None = None
    """muon; adamw where --from goes on with a model, which it moves carefully."""
    objective: Literal["next", "masked"] = "next"
    """Predict the next token, or masked ones (BERT)."""
    family: Literal["qwen3", "gpt2", "bert"] | None = None
    """The architecture: qwen3, or bert for the masked objective."""
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Go on from this model's weights, with its tokenizer and shape."""
    tied: bool = False
    """The output matrix is the embedding matrix."""
    compile: Literal["auto", "on", "off"] = "auto"
    validate_every: int | None = None
    """Steps between validations; the default spends at most a tenth of the time on them."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "depth",
            "width",
            "heads",
            "context",
            "steps",
            "minutes",
            "batch_tokens",
            "learning_rate",
            "validate_every",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')}: wanted a number above 0, got {value}")
        if self.context is not None and self.context < LEAST_CONTEXT:
            raise ValueError(
                f"--context: wanted at least {LEAST_CONTEXT} tokens, ⊥ and what follows, got {self.context}"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"--seed: wanted a whole number from 0 to 2**64 - 1, got {self.seed}")
        if self.family is not None and (self.family == "bert") != (self.objective == "masked"):
            raise ValueError(
                f"--family: wanted {'bert' if self.objective == 'masked' else 'qwen3 or gpt2'} for --objective"
                f" {self.objective}, got {self.family}"
            )
        if self.start is not None:
            for name in ("depth", "width", "heads", "context", "family"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"--{name}: wanted none beside --from, whose model has its shape, got {getattr(self, name)}"
                    )

    @property
    def moved_by(self) -> Literal["muon", "adamw"]:
        """The optimizer."""
        return self.optimizer or ("muon" if self.start is None else "adamw")

    @property
    def made(self) -> Literal["qwen3", "gpt2", "bert"]:
        """The family of a model that is made here."""
        return self.family or ("bert" if self.objective == "masked" else "qwen3")


@dataclass(frozen=True)
class Shape:
    """The sizes that --depth stands for."""

    depth: int
    width: int
    heads: int
    context: int


def shape_of(options: PretrainOptions) -> Shape:
    """Sizes for a depth, with what the user set in their place."""
    depth = options.depth or 4
    width = options.width or 64 * depth
    heads = options.heads or max(1, width // (64 if width >= 512 else 32))
    if width % heads or (width // heads) % 2:
        raise ValueError(f"--heads: wanted a number that cuts the width of {width} into even parts, got {heads}")
    context = options.context or (1024 if depth >= 12 else 512 if depth >= 8 else 256)
    return Shape(depth, width, heads, context)


def batch_rows(options: PretrainOptions, depth: int, context: int) -> int:
    """Windows a step."""
    tokens = options.batch_tokens or max(context, 2**18 if depth >= 12 else 2**14 if depth >= 6 else 2**12)
    if tokens < context:
        raise ValueError(f"--batch-tokens: wanted at least one window of {context} tokens, got {tokens}")
    return tokens // context
