"""LoRA's matrices beside frozen layers, as what a training changes. Knows layers, no objective and no files."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chainrule.errors import OptionError
from chainrule.model.adapter import LowRank, adapters_of, merged, random_adapter, with_adapters, with_copies
from chainrule.model.quantised import is_quantised
from chainrule.model.transformer import Transformer

RANK = 16
ALPHA = 32.0  # the scale is this / rank: the learning rate need not change with the rank


def check_rank(rank: int | None, model: Transformer) -> None:
    """OptionError for a rank above the model's width."""
    if rank is not None and rank > model.config.width:
        raise OptionError(
            f"--rank: wanted at most {model.config.width} (the model's width), got {rank}; take less, or leave --rank"
            " out"
        )


class LowRankMatrices:
    """Matrices of `rank` beside all linear layers of the blocks are trained; θ̂ is frozen, and in memory once, quantised
    as it is (QLoRA; Dettmers et al., 2023).

    parts: the maps of each layer that have a pair of matrices each, by the layer's name. seed: of the first values.
    """

    def __init__(self, start: Transformer, parts: Mapping[str, Sequence[int]], rank: int, seed: int) -> None:
        self.start, self.rank, self._parts = start, rank, parts
        generator, scale = torch.Generator().manual_seed(seed % 2**63), ALPHA / rank
        adapters = {}
        for name, rows_of_maps in parts.items():
            if name.startswith("blocks."):
                layer: Any = start.get_submodule(name)
                inputs: int = layer.in_features
                adapters[name] = {
                    index: random_adapter(inputs, rows, rank, scale, generator)
                    for index, rows in enumerate(rows_of_maps)
                }
        self.transformer = with_adapters(start, parts, adapters).to(start.device)
        self._adapters: dict[str, dict[int, LowRank]] | None = None

    def result(self, state: dict[str, Tensor]) -> Transformer:
        """The Transformer with the matrices of the state merged into its weights; beside them where these are
        quantised. What is trained stays as it is."""
        made = with_copies(self.start, self.transformer, self._parts)
        unknown = made.load_state_dict(state, strict=False).unexpected_keys
        assert not unknown, f"only matrices are trained, got {unknown}"
        self._adapters = adapters_of(made)
        return made if is_quantised(self.start) else merged(made)

    @property
    def adapters(self) -> dict[str, dict[int, LowRank]]:
        """By layer and map: those of the state that `result` was given last, else those that are trained."""
        return adapters_of(self.transformer) if self._adapters is None else self._adapters
