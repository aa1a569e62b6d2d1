"""w and LoRA's matrices trained on labelled texts, θ̂ being frozen. Knows tokens and classes, not labels or files.

The recipe is that of full finetuning with 10 times its learning rate, on all linear layers of the blocks ("LoRA
Without Regret", Schulman et al., 2025).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from chainrule.errors import ModelError, OptionError
from chainrule.finetuning.full import Recipe, recipe
from chainrule.language_model import Pretrained
from chainrule.model.adapter import LowRank, adapters_of, merged, random_adapter, with_adapters
from chainrule.model.transformer import Transformer

RANK = 16
ALPHA = 32.0  # the scale is this / rank: the learning rate need not change with the rank


def lora_recipe(n: int, width: int, *, epochs: float | None, learning_rate: float | None, seed: int) -> Recipe:
    """Full finetuning's, the matrices learning 10 times as fast as its weights; the head as fast as there."""
    made = recipe(n, width, epochs=epochs, learning_rate=None, seed=seed)
    return dataclasses.replace(made, rate=learning_rate or 10 * made.rate)


def require_file(lm: Pretrained, out: Path | None) -> None:
    """ModelError for a model of no file, where an adapter is to be saved, which names its base."""
    if out is not None and lm.path is None:
        raise ModelError(
            "finetune: wanted a model that load read, as the saved adapter names it, got one made here, or an"
            " adapter; save it, or merge the adapter (chainrule export ADAPTER --to huggingface), and load that"
        )


def check_rank(rank: int | None, model: Transformer) -> None:
    """OptionError for a rank above the model's width."""
    if rank is not None and rank > model.config.width:
        raise OptionError(f"--rank: wanted at most {model.config.width} (the model's width), got {rank}")


class LowRankMatrices:
    """Matrices of `rank` beside all linear layers of the blocks are trained; θ̂ is frozen, and in memory once.

    parts: the maps of each layer that have a pair of matrices each, by the layer's name. seed: of the first values.
    """

    def __init__(self, start: Transformer, parts: Mapping[str, Sequence[int]], rank: int, seed: int) -> None:
        self.start, self.rank = start, rank
        generator, scale = torch.Generator().manual_seed(seed % 2**63), ALPHA / rank
        adapters = {}
        for name, rows_of_maps in parts.items():
            if name.startswith("blocks."):
                inputs = start.get_submodule(name).get_parameter("weight").shape[1]
                adapters[name] = {
                    index: random_adapter(inputs, rows, rank, scale, generator)
                    for index, rows in enumerate(rows_of_maps)
                }
        self.transformer = with_adapters(start, parts, adapters).to(start.device)

    def result(self, state: dict[str, Tensor]) -> Transformer:
        """The Transformer with the matrices of the state merged into its weights."""
        self.transformer.load_state_dict(state, strict=False)
        return merged(self.transformer)

    @property
    def adapters(self) -> dict[str, dict[int, LowRank]]:
        """What was learned, by layer and map; of the state that `result` was given last."""
        return adapters_of(self.transformer)
