"""w and LoRA's matrices trained on labelled texts, θ̂ being frozen. Knows tokens and classes, not labels or files.

The recipe is that of full finetuning with 10 times its learning rate, on all linear layers of the blocks ("LoRA
Without Regret", Schulman et al., 2025).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.finetuning.full import ClassifierTraining, Recipe, recipe
from chainrule.model.adapter import LowRank, adapters_of, merged, random_adapter, with_adapters
from chainrule.model.transformer import Transformer
from chainrule.training.classes import LabelledTexts

RANK = 16
ALPHA = 32.0  # the scale is this / rank: the learning rate need not change with the rank


def lora_recipe(n: int, width: int, *, epochs: float | None, learning_rate: float | None, seed: int) -> Recipe:
    """Full finetuning's, the matrices learning 10 times as fast as its weights; the head as fast as there."""
    made = recipe(n, width, epochs=epochs, learning_rate=None, seed=seed)
    return dataclasses.replace(made, rate=learning_rate or 10 * made.rate)


class LoraFinetuning(ClassifierTraining):
    """Matrices of `rank` beside all linear layers of the blocks are trained; θ̂ is frozen, and in memory once.

    parts: the maps of each layer that have a pair of matrices each, by the layer's name.
    """

    def __init__(
        self,
        model: Transformer,
        w: Tensor,
        texts: LabelledTexts,
        validation: LabelledTexts,
        recipe: Recipe,
        weights: NDArray[np.float32],
        dtype: torch.dtype,
        folder: Path | None,
        parts: Mapping[str, Sequence[int]],
        rank: int,
    ) -> None:
        self._parts, self.rank = parts, rank
        super().__init__(model, w, texts, validation, recipe, weights, dtype, folder)

    def _transformer(self, occurring: NDArray[np.int64], recipe: Recipe) -> Transformer:
        generator, scale = torch.Generator().manual_seed(recipe.seed % 2**63), ALPHA / self.rank
        adapters = {}
        for name, parts in self._parts.items():
            if name.startswith("blocks."):
                inputs = self._start.get_submodule(name).get_parameter("weight").shape[1]
                adapters[name] = {
                    index: random_adapter(inputs, rows, self.rank, scale, generator) for index, rows in enumerate(parts)
                }
        return with_adapters(self._start, self._parts, adapters).to(self._start.device)

    def _merged(self, state: dict[str, Tensor]) -> Transformer:
        self.model.transformer.load_state_dict(state, strict=False)
        return merged(self.model.transformer)

    @property
    def adapters(self) -> dict[str, dict[int, LowRank]]:
        """What was learned, by layer and map; of the state that `result` gave last."""
        return adapters_of(self.model.transformer)
