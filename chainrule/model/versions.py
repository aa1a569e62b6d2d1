"""How often a tensor was changed in place: whether what was made of it is still what its values give."""

import torch
from torch import Tensor


def version(tensor: Tensor) -> int:
    """0 of those made in inference mode, which do not count, and within torch.compile, which cannot ask."""
    return 0 if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version
