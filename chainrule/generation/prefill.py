"""Processes prompts a part at a time, before the first token of each is chosen.

Shapes: D width.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from chainrule.machine import tokens_at_once
from chainrule.model.kv_cache import KVCache
from chainrule.model.prefix_cache import PrefixCache
from chainrule.model.prefixes import read_all
from chainrule.model.transformer import Transformer


class Prefilled(NamedTuple):
    """A prompt that was processed; valid until the next part of the prompts is."""

    prompt: tuple[int, ...]
    features: Tensor  # φ (D,) at its last token
    cache: KVCache
    columns: Tensor  # of the prompt's tokens in that cache


def prefill(
    model: Transformer, prompts: Sequence[tuple[int, ...]], chunk: int | None, known: PrefixCache | None
) -> Iterator[list[Prefilled]]:
    """Process prompts a part at a time, at most `chunk` tokens or what suits the device; those that a part completed.

    A prompt longer than a chunk is processed as its beginnings of one chunk, two, three …: they share all they can.
    """
    beginnings: list[tuple[int, ...]] = []
    lengths, original = [len(prompt) for prompt in prompts], model.config.original_context
    if chunk is not None:
        for prompt in prompts:
            long = original is not None and len(prompt) > original
            start = 0 if known is None else known.match(np.array(prompt, np.int32), len(prompt) - 1, long)
            more = [prompt[:end] for end in range(start + chunk, len(prompt), chunk)]
            beginnings, lengths = beginnings + more, lengths + [len(prompt)] * len(more)
    sequences = [*prompts, *beginnings]
    for part in read_all(
        model,
        sequences,
        chunk or tokens_at_once("prefill", model.device),
        [len(sequence) - 1 for sequence in sequences],
        known,
        lengths,
    ):
        yield [
            Prefilled(
                prompts[index],
                part.features[columns[-1]],
                part.cache,
                torch.from_numpy(columns).to(model.device),
            )
            for index, columns in zip(part.sequences, part.columns, strict=True)
            if index < len(prompts)
        ]
