"""Whether a pretraining fits into memory, said before its first step. Knows options and a model's size, no text."""

import torch
from torch import Tensor

from chainrule.machine import require_memory
from chainrule.model.transformer import Transformer
from chainrule.pretraining.decide import make_config
from chainrule.pretraining.options import PretrainOptions
from chainrule.pretraining.run import Decided
from chainrule.training.footprint import of_weights, require_step


def require_memory_of_weights(vocabulary_size: int, options: PretrainOptions, device: torch.device) -> None:
    """OptionError where a model of random weights cannot be made and trained; to be called before it is made."""
    with torch.device("meta"):
        model = Transformer(make_config(vocabulary_size, options))
    sizes = of_weights(_trained(model), moments=_moments(options), copied=True)
    require_memory("pretrain", sizes, device, _takes_less(options))


def require_memory_of_steps(model: Transformer, options: PretrainOptions, decided: Decided) -> None:
    """OptionError where a step cannot be made with the memory that is free."""

    def loss(length: int) -> Tensor:
        tokens = torch.zeros(1, length, dtype=torch.long, device=model.device)
        features = model(tokens, output="features", last=torch.tensor([length - 1], device=model.device))
        return model(features=features, targets=tokens)

    weights, context = of_weights(_trained(model), moments=_moments(options)), model.config.context
    require_step("pretrain", weights, loss, model, decided.micro_rows * context, context, _takes_less(options))


def _trained(model: Transformer) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _moments(options: PretrainOptions) -> int:
    """That the optimizer keeps of most weights."""
    return 1 if options.train == "full" and options.optimizer_name == "muon" else 2


def _takes_less(options: PretrainOptions) -> str:
    """What takes less memory."""
    if options.start is None:
        return "take a smaller --depth or --width, or a shorter --context"
    if options.train == "full":
        return "add --train lora, or start from a smaller model"
    kept = "keep the model quantised (--quantize int8), or " if options.quantize == "none" else ""
    return f"{kept}start from a smaller model"
