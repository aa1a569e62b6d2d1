"""What a user may ask of a pretraining run, and the sizes that follow. Imports nothing heavy: --help shows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from chainrule.arguments import Help
from chainrule.errors import OptionError

MIN_CONTEXT = 2


@dataclass(frozen=True)
class PretrainOptions:
    """What a user may ask of a run. None: decided from --depth, or by timing this machine.

    Model:
        depth: Layers; the defaults of the other sizes follow from it (default 4).
        width: Width of the hidden states (default 64 per layer).
        heads: Attention heads (default 32 wide each; 64 in wide models).
        context: Tokens the model reads at once (default 256 to 1024, by --depth).
        family: Architecture (default qwen3; bert with --objective masked).
        tied: Use one matrix for embedding and output.
        objective: Predict the next token, or masked ones as BERT.
        start: Start from this model's weights, with its tokenizer and shape.
        train: With --from, train the whole model, or adapters beside it (LoRA).
        rank: Rank of the adapters of --train lora (default 16).
        quantize: With --train lora, keep the model in 8 or 4 bits; auto keeps those of its file.

    Training:
        steps: Number of optimizer steps.
        minutes: Train X minutes, or --steps if sooner (default 10 minutes).
        batch_tokens: Tokens per step (default 4096 to 262144, by --depth).
        align_documents: Start each example with a new document, cut at --context.
        optimizer: Optimizer (default muon; adamw with --from).
        learning_rate: Peak rate (default by --optimizer, 10 times lower with --from).
        validate_every: Steps between validations (default: at most a tenth of the time).
        compile: Use torch.compile; auto: if it saves time.
        seed: Seed of the initial weights and of the order of the text.
        verify: Check the hashes of all shards first, not only their sizes.
        keep: Keep the newest N checkpoints, and the one of the lowest validation loss (default: the newest alone).
    """

    depth: int | None = None
    width: int | None = None
    heads: int | None = None
    context: int | None = None
    family: Literal["qwen3", "gpt2", "bert"] | None = None
    tied: bool = False
    objective: Literal["next", "masked"] = "next"
    start: Annotated[Path | None, Help("MODEL", name="from")] = None
    train: Literal["full", "lora"] = "full"
    rank: int | None = None
    quantize: Literal["none", "auto", "int8", "int4"] = "none"
    steps: int | None = None
    minutes: float | None = None
    batch_tokens: int | None = None
    align_documents: bool = False
    optimizer: Literal["muon", "adamw"] | None = None
    learning_rate: float | None = None
    validate_every: int | None = None
    compile: Literal["auto", "on", "off"] = "auto"
    seed: int = 0
    verify: bool = False
    keep: int | None = None

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
            "keep",
            "rank",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise OptionError(f"--{name.replace('_', '-')}: wanted a number above 0, got {value}")
        if self.context is not None and self.context < MIN_CONTEXT:
            raise OptionError(
                f"--context: wanted at least {MIN_CONTEXT} tokens, ⊥ and what follows, got {self.context}"
            )
        if not 0 <= self.seed < 2**64:
            raise OptionError(f"--seed: wanted a whole number from 0 to 2**64 - 1, got {self.seed}")
        if self.family is not None and (self.family == "bert") != (self.objective == "masked"):
            raise OptionError(
                f"--family: wanted {'bert' if self.objective == 'masked' else 'qwen3 or gpt2'} for --objective"
                f" {self.objective}, got {self.family}"
            )
        if self.train == "lora" and self.start is None:
            raise OptionError("--train lora: wanted --from beside it, a model that stays as it is, got none; add it")
        if self.train == "lora" and self.optimizer == "muon":
            raise OptionError("--optimizer: wanted adamw with --train lora, got muon; leave it out")
        if self.rank is not None and self.train != "lora":
            raise OptionError(f"--rank: wanted --train lora beside it, got {self.train}; add it, or leave --rank out")
        if self.quantize != "none" and self.train != "lora":
            raise OptionError(
                f"--quantize: wanted --train lora beside it, as quantised weights stay as they are, got {self.train};"
                " add it, or leave --quantize out"
            )
        if self.quantize != "none" and self.compile == "on":
            raise OptionError("--compile: wanted off or auto with --quantize, got on; leave it out")
        if self.start is not None:
            for name in ("depth", "width", "heads", "context", "family"):
                if getattr(self, name) is not None:
                    raise OptionError(
                        f"--{name}: wanted none with --from, whose model has its own, got {getattr(self, name)}"
                    )

    @property
    def optimizer_name(self) -> Literal["muon", "adamw"]:
        """The one that was asked for, or the default."""
        return self.optimizer or ("muon" if self.start is None else "adamw")

    @property
    def family_name(self) -> Literal["qwen3", "gpt2", "bert"]:
        """The family of a model with random weights: the one that was asked for, or the default."""
        return self.family or ("bert" if self.objective == "masked" else "qwen3")


@dataclass(frozen=True)
class Shape:
    """The sizes that follow from --depth."""

    depth: int
    width: int
    heads: int
    context: int


def shape_of(options: PretrainOptions) -> Shape:
    """Sizes for a depth, or those that the user set."""
    depth = options.depth or 4
    width = options.width or 64 * depth
    heads = options.heads or max(1, width // (64 if width >= 512 else 32))
    if width % heads or (width // heads) % 2:
        raise OptionError(f"--heads: wanted a number that divides the width of {width} into even parts, got {heads}")
    context = options.context or (1024 if depth >= 12 else 512 if depth >= 8 else 256)
    return Shape(depth, width, heads, context)


def windows_per_step(options: PretrainOptions, depth: int, context: int) -> int:
    """How many windows of the context's length a step has."""
    tokens = options.batch_tokens or max(context, 2**18 if depth >= 12 else 2**14 if depth >= 6 else 2**12)
    if tokens < context:
        raise OptionError(f"--batch-tokens: wanted at least one window of {context} tokens, got {tokens}")
    return tokens // context
