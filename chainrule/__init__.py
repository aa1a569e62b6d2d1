"""The whole life of an autoregressive language model. Each name is imported when it is asked for: torch is slow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainrule.generation.sampling import Sampling
    from chainrule.language_model import LanguageModel, load

    __version__: str

__all__ = ["LanguageModel", "Sampling", "__version__", "load"]

_HOMES = {
    "LanguageModel": "chainrule.language_model",
    "Sampling": "chainrule.generation.sampling",
    "load": "chainrule.language_model",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("chainrule")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'chainrule' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
