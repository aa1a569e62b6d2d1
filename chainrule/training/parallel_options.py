"""What a user may ask of several processes that train together, and of their memory. Imports nothing heavy, as --help
shows it."""

from dataclasses import dataclass
from typing import Literal

from chainrule.errors import OptionError


@dataclass(frozen=True)
class ParallelOptions:
    """How a training uses memory, and how processes that torchrun started share the work.

    Memory and processes (torchrun):
        shard: Each process holds a part of every layer; auto: if whole copies do not fit into memory.
        wait: Seconds that a process may keep the others waiting before the training ends.
        checkpoint_activations: Compute a block's activations twice instead of keeping them; auto: if memory is short.
    """

    shard: Literal["auto", "on", "off"] = "auto"
    wait: float = 600.0
    checkpoint_activations: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.wait < float("inf"):
            raise OptionError(f"--wait: wanted a number of seconds above 0, got {self.wait}")
