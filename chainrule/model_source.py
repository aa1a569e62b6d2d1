"""A language model as commands name it, loaded here or by their workers."""

from dataclasses import dataclass, replace
from typing import Any

from chainrule.language_model import Pretrained, load
from chainrule.model.formats.load_quantised import Quantize
from chainrule.model.formats.same_model import model_fingerprint


@dataclass(frozen=True)
class ModelSource:
    """A language model as it is named on the command line."""

    directory: str
    device: str
    dtype: str
    bos: str | None
    quantize: Quantize = "none"

    def load(self) -> Pretrained:
        """The model; ModelError as `chainrule.load`."""
        return load(self.directory, device=self.device, dtype=self.dtype, bos=self.bos, quantize=self.quantize)

    def here(self, elsewhere: bool) -> Pretrained:
        """The model for this process: on the CPU where the work is done `elsewhere`."""
        return (replace(self, device="cpu") if elsewhere else self).load()

    @property
    def depends_on(self) -> dict[str, Any]:
        """What results depend on, for parts."""
        named = {"dtype": self.dtype, "bos": self.bos, "quantize": self.quantize}
        return {"model": model_fingerprint(self.directory), **named}
