"""The whole life of an autoregressive language model. Each name is imported when it is asked for: torch is slow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainrule.comparison.run import compare
    from chainrule.errors import ChainruleError
    from chainrule.finetuning.classifier import Classifier
    from chainrule.finetuning.finetune import finetune
    from chainrule.finetuning.load import load_classifier
    from chainrule.generation.sampling import Sampling
    from chainrule.language_model import LanguageModel, load
    from chainrule.masked_language_model import MaskedLanguageModel
    from chainrule.prompting.in_context import in_context, zero_shot
    from chainrule.tasks.examples import Task

    __version__: str

_HOMES = {
    "ChainruleError": "chainrule.errors",
    "Classifier": "chainrule.finetuning.classifier",
    "LanguageModel": "chainrule.language_model",
    "MaskedLanguageModel": "chainrule.masked_language_model",
    "Sampling": "chainrule.generation.sampling",
    "Task": "chainrule.tasks.examples",
    "compare": "chainrule.comparison.run",
    "finetune": "chainrule.finetuning.finetune",
    "in_context": "chainrule.prompting.in_context",
    "load": "chainrule.language_model",
    "load_classifier": "chainrule.finetuning.load",
    "zero_shot": "chainrule.prompting.in_context",
}
__all__ = [
    "ChainruleError",
    "Classifier",
    "LanguageModel",
    "MaskedLanguageModel",
    "Sampling",
    "Task",
    "__version__",
    "compare",
    "finetune",
    "in_context",
    "load",
    "load_classifier",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("chainrule")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'chainrule' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
