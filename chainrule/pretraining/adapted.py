"""A run that trains an adapter beside a frozen model: what is trained, and its files. Knows no text."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from chainrule.model.formats.adapter import Base, adapter_parts, language_adapter
from chainrule.model.formats.adapter_files import weights_hash
from chainrule.model.formats.checkpoint import save_generation
from chainrule.model.transformer import Transformer
from chainrule.pretraining.options import PretrainOptions
from chainrule.storage.run_folder import require_same
from chainrule.tokens.tokenizer import Tokenizer
from chainrule.training.low_rank import ALPHA, RANK, LowRankMatrices, check_rank


@dataclass(frozen=True)
class AdaptedModel:
    """LoRA's matrices beside a base model, which stays as it is. Made by `adapt`."""

    base: Base
    matrices: LowRankMatrices

    @property
    def model(self) -> Transformer:
        """The base with the matrices, which alone require a gradient."""
        return self.matrices.transformer

    @cached_property
    def base_hash(self) -> str:
        """Of the base's weights."""
        return weights_hash(self.base.model)

    def require_same_base(self, out: Path, stored: dict[str, Any]) -> None:
        """FolderError where the run in `out` was begun with other weights of the base."""
        called = {"base": f"the weights of --from {self.base.name}"}
        require_same(out, {"base": stored.get("base")}, {"base": self.base_hash}, called)

    def save_settings(self, out: Path, tokenizer: Tokenizer, stop_tokens: tuple[int, ...]) -> None:
        """What ends a generated text: an adapter has no config.json."""
        if self.base.model.config.causal:
            save_generation(out, tokenizer.bos_id, stop_tokens)

    def save(self, out: Path) -> None:
        """PEFT's files."""
        adapter = language_adapter(self.base, self.matrices.adapters, self.matrices.rank, ALPHA)
        replace(adapter, extra={**adapter.extra, "base_sha256": self.base_hash}, trained_on=None).save(out)


def adapt(model: Transformer, family: str, name: str, options: PretrainOptions) -> AdaptedModel:
    """`model` with matrices of --rank; `name` is what --from was. OptionError for a rank above the model's width."""
    rank = options.rank or RANK
    check_rank(rank, model)
    matrices = LowRankMatrices(model, adapter_parts(model, family), rank, options.seed)
    return AdaptedModel(Base(model, family, name, options.quantize), matrices)
