"""Memory for activations: an estimate, and what is done where they do not fit. Knows a model's shape and objectives.

A block's activations are kept for the backward pass, or, with activation checkpointing (Chen et al., 2016), its input
alone, and computed again: a third more work, the same bits. Shapes: T positions, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from chainrule.model.chunked_loss import positions_at_once
from chainrule.model.config import Config
from chainrule.model.transformer import Transformer

if TYPE_CHECKING:
    from chainrule.training.objectives import Objective

ROOM = 0.8  # share of the free memory that activations may take: the estimate is one
OPTIMIZER = 12  # bytes a trained weight takes beside itself: gradient and two moments in float32


def activation_bytes(
    config: Config, tokens: int, length: int, dtype: torch.dtype, device: torch.device, checkpointed: bool
) -> float:
    """Bytes that forward and backward pass of `tokens` tokens, in sequences of `length`, need beside weights, gradients
    and moments."""
    D, keys = config.width, config.key_value_heads * config.head_width
    queries = config.heads * config.head_width
    # What each operation of a block keeps: norms and their inputs; q, k and v, turned and normalised; the mixed values;
    # gate, up and their product.
    norms = 2 if config.query_key_norm is None else 3
    numbers = 6 * D + (norms + 2) * queries + (2 * norms + 2) * keys + (4 if config.gated else 2) * config.hidden
    if config.attention_cap is not None:  # scores, what the cap made of them, and weights
        numbers += 3 * config.heads * length
    elif device.type == "cpu" and config.causal:  # weights at and below the diagonal
        numbers += config.heads * (length + 64) // 2
    kept = config.layers * D + numbers if checkpointed else config.layers * numbers
    width = torch.finfo(dtype).bits // 8
    logits = min(tokens, positions_at_once(config.vocabulary_size, device)) * config.vocabulary_size
    return width * tokens * (kept + 4 * D) + 3 * 4 * logits + 4 * config.vocabulary_size * D


def memory_for_activations(model: Transformer, device: torch.device, free: float, parts: int = 1) -> float:
    """Of `free` bytes of a device those that activations may take, beside what the training of the model's parameters
    needs, of which each process has one of `parts`."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    coming = 0 if model.device.type == device.type else sum(parameter.nbytes for parameter in model.parameters())
    return ROOM * (free - (OPTIMIZER * trained + coming) / parts)


def decide_activations(
    asked: Literal["auto", "on", "off"],
    config: Config,
    sizes: Sequence[int],
    length: int,
    dtype: torch.dtype,
    device: torch.device,
    memory: float,
) -> tuple[int, bool | None]:
    """How many sequences of `length` tokens to compute together, one of `sizes`, and whether to checkpoint their
    activations: the largest size that takes at most `memory` bytes, if need be with checkpointing where that is "auto".

    None: not now, but it may be turned on where memory runs out after all. Where nothing fits it is the smallest size:
    this is an estimate, so that it is tried.
    """

    def fitting(checkpointed: bool) -> int | None:
        need = (activation_bytes(config, size * length, length, dtype, device, checkpointed) for size in sizes)
        return max((size for size, bytes in zip(sizes, need, strict=True) if bytes <= memory), default=None)

    if asked != "on":
        plain = fitting(False)
        if plain is not None or asked == "off":
            return plain or min(sizes), False if asked == "off" else None
    return fitting(True) or min(sizes), True


def tokens_in_memory(
    asked: Literal["auto", "on", "off"],
    model: Transformer,
    tokens: int,
    longest: int,
    dtype: torch.dtype,
    free: float,
    parts: int = 1,
) -> int:
    """How many tokens of sequences of up to `longest` to compute together in finetuning: `tokens`, or as many as fit.
    Lets the model checkpoint activations where that was asked, or nothing else fits."""
    device = model.device
    most = max(1, tokens // longest)
    sizes = sorted({max(1, most >> shift) for shift in range(most.bit_length())})
    memory = memory_for_activations(model, device, free, parts)
    size, model.checkpoint_activations = decide_activations(asked, model.config, sizes, longest, dtype, device, memory)
    return tokens if size == most else size * longest


def compute_less_at_once(
    model: nn.Module,
    objective: "Objective[Any]",
    step: int,
    rank: int,
    world: int,
    largest: Callable[[int], int] = lambda number: number,
) -> str | None:
    """Make the micro-batches of this step and of all later ones smaller; where they are the smallest already, let the
    model checkpoint its activations. Returns what changed, for a message; None where nothing is left to change.

    `largest`: of a number of each process, where all change alike.
    """
    before = largest(sum(1 for _ in objective.batches(step, rank, world)))
    while (size := objective.halve()) is not None:
        if largest(sum(1 for _ in objective.batches(step, rank, world))) > before:
            return f"{size} at once"
    for part in model.modules():
        if isinstance(part, Transformer) and part.checkpoint_activations is None:
            part.checkpoint_activations = True
            return "activation checkpointing"
    return None
