"""Processes that share one sharded model (FSDP2) give a pass up together, where one of them runs out of memory in it.

Weights that are cut are put together by all: a process that stopped alone would leave the others waiting in a
collective. So before each collective of a pass all tell each other whether they have given up; one that has does so at
once, in place of its next collective, and all others stop there too. Knows FSDP's collectives, no model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from chainrule import machine
from chainrule.training.parallel import Processes


class StoppedElsewhereError(RuntimeError):
    """Another process has given this pass up."""


class Passes:
    """The forward and backward passes of a model that is cut over the processes."""

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        self.model, self.processes = model, processes
        self._watched = False
        self.can_be_repeated = hasattr(model, "reset_iter_state")  # not before torch 2.13
        if self.can_be_repeated:
            for module in _parts(model):
                module.set_custom_all_gather(_AllGather(self))
                module.set_custom_reduce_scatter(_ReduceScatter(self))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within, the processes make a pass alike. Raises what a process's own pass raises; where that is a lack of
        memory, StoppedElsewhereError in the others."""
        if not self.can_be_repeated:
            yield
            return
        self._watched = True
        try:
            yield
            self.check()
        except StoppedElsewhereError:
            raise
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if machine.is_out_of_memory(error):
                self.processes.largest(1)
            raise
        finally:
            self._watched = False

    def check(self) -> None:
        """Called by all before a collective of a pass: StoppedElsewhereError where one of them has given up."""
        if self._watched and self.processes.largest(0):
            raise StoppedElsewhereError("another process has run out of memory")

    def forget(self) -> None:
        """After a pass that was given up: nothing of it stays, and the next one can begin."""
        model: Any = self.model
        model.reset_iter_state()
        for module in _parts(model):
            for group in module._get_fsdp_state()._fsdp_param_groups:
                for parameter in group.fsdp_params:
                    # Of micro-batches whose gradients were not yet sent: torch keeps these (2.13).
                    parameter.unsharded_accumulated_grad = None
                    if hasattr(parameter, "_unsharded_param"):
                        parameter._unsharded_param.grad = None


def _parts(model: nn.Module) -> list[Any]:
    """The modules whose parameters are put together by themselves."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


class _Collective:
    def __init__(self, made_in: Passes) -> None:
        self.made_in = made_in

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _AllGather(_Collective):
    """torch's own, after a check."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        self.made_in.check()
        return torch.distributed.all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)


class _ReduceScatter(_Collective):
    """torch's own, after a check."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        self.made_in.check()
        return torch.distributed.reduce_scatter_single(
            output_tensor, input_tensor, op=op, group=group, async_op=async_op
        )
