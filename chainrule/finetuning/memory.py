"""Whether a finetuning fits into memory, said before its first step. Knows options and sizes, no rows."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from chainrule.finetuning.options import FinetuneOptions
from chainrule.machine import require_memory
from chainrule.model.quantised import is_quantised
from chainrule.model.transformer import Transformer
from chainrule.training.footprint import of_weights, require_step
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.spans import Span, SpanBatch


@dataclass(frozen=True)
class Memory:
    """What is asked of memory by one finetuning; where several processes share one, nothing is checked."""

    options: FinetuneOptions
    model: Transformer  # what it starts from
    keeps_best: bool  # validation keeps a copy of the best state
    processes: Processes = ALONE

    def check_copies(self, trained: int) -> None:
        """OptionError where so many trained numbers cannot be copied, and trained; to be called before they are."""
        if self.processes.world == 1:
            sizes = of_weights(trained, copied=self.options.train == "full", best=self.keeps_best)
            require_memory(self._purpose, sizes, self.model.device, self._cure)

    def check_steps(
        self, transformer: Transformer, forward: Callable[[int], Tensor], tokens: int, longest: int
    ) -> None:
        """OptionError where a step cannot be made. `forward` as in `of_activations`; `tokens`: of a micro-batch."""
        if self.processes.world == 1:
            trained = sum(one.numel() for one in transformer.parameters() if one.requires_grad)
            weights, tokens = of_weights(trained, best=self.keeps_best), max(tokens, longest)
            require_step(self._purpose, weights, forward, transformer, tokens, longest, self._cure)

    @property
    def _purpose(self) -> str:
        return f"finetune --train {self.options.train}"

    @property
    def _cure(self) -> str:
        """What takes less."""
        if self.options.train == "full":
            head = " or head" if self.options.by == "head" else ""
            return f"take --train lora{head}, a smaller model or shorter texts"
        kept = "" if is_quantised(self.model) else "keep the model quantised (--quantize int8), or "
        return f"{kept}take a smaller model or shorter texts"


def packed_loss(transformer: Transformer, length: int) -> Tensor:
    """A loss of sequences of so many tokens together, whichever they are: two where the model is causal."""
    config = transformer.config
    half = length // 2 if config.causal else 0
    spans = [Span([token] * size, [size - 1], [0]) for token, size in ((0, half), (1, length - half)) if size]
    return SpanBatch(spans, config.causal, transformer.device, config.original_context).mean_loss(transformer)
