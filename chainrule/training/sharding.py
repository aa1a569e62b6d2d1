"""Weights cut by rows over processes (torch's FSDP2, fully_shard), and the rows that each process has. Knows blocks,
not what they compute.

Each parameter's first dimension is cut into parts of equal size, the last ones smaller or empty. While a block runs,
its parameters are whole; the parameters themselves, their gradients and the optimizer's state stay in parts.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chainrule import machine
from chainrule.errors import OptionError
from chainrule.training.parallel import Processes

STATE = 16  # bytes a weight while training: it, its gradient and two moments, float32
WHOLE_COPIES = 0.6  # share of the free memory that whole copies may take
WHOLE_GRADIENTS = 0.125  # and gradients that are summed over micro-batches before they are cut


def decide_sharding(
    shard: Literal["auto", "on", "off"], model: nn.Module, width: int, device: torch.device, processes: Processes
) -> bool:
    """Whether to cut the model, which is to be trained on `device`, as the first process finds. OptionError for one
    that cannot be cut."""
    if processes.world == 1:
        if shard == "on":
            raise OptionError(
                "--shard on: wanted several processes, got one; start them: torchrun --standalone --nproc_per_node N -m"
                " chainrule ..."
            )
        return False
    if shard == "on" and processes.world > width:
        raise OptionError(
            f"--shard on: wanted at most {width} processes, as matrices of {width} rows are cut, got {processes.world};"
            " start fewer, or take --shard off"
        )
    if shard != "auto":
        return shard == "on"
    return processes.from_first(not whole_copies_fit(model, device, processes)) and processes.world <= width


def whole_copies_fit(model: nn.Module, device: torch.device, processes: Processes) -> bool:
    """Whether this process has memory for all weights, gradients and moments."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return STATE * size <= WHOLE_COPIES * free_memory(device, processes)


def shard_by_block(
    model: nn.Module, blocks: Iterable[nn.Module], processes: Processes, device: torch.device, dtype: torch.dtype
) -> None:
    """Cut the parameters and move the parts to `device`: those of each block together, all others with the model.

    `dtype`: that in which a block is put together; that of the activations halves what is sent. The parts that are kept
    stay float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (processes.world,))
    narrow = None if dtype == torch.float32 else dtype
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


def sharded(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")


def gradients_fit(model: nn.Module, processes: Processes) -> bool:
    """Whether whole gradients may be summed over micro-batches: they are then sent once a step, not once for each. As
    the first process finds."""
    size = 4 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    device = next(model.parameters()).device
    return processes.from_first(size < WHOLE_GRADIENTS * free_memory(device, processes))


def free_memory(device: torch.device, processes: Processes) -> float:
    """Bytes that this process may still take on a device."""
    free = machine.free_memory(device)
    return free if device.type == "cuda" else free / processes.local


def least_free_memory(device: torch.device, processes: Processes) -> float:
    """The least of what each process may still take: all of them decide alike by it. Every process calls it."""
    return min(processes.gather(free_memory(device, processes)))


def release(model: Any) -> None:
    """After a use without a backward pass: nothing of a sharded model stays whole, which training would go on with."""
    if sharded(model):
        model.reshard()


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor; it shares its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def rows_of(rows: int, rank: int, world: int) -> tuple[int, int]:
    """The first row that process `rank` has of `rows`, and the one after its last."""
    each = -(-rows // world)
    return min(rows, rank * each), min(rows, (rank + 1) * each)


def own_rows(tensor: Tensor) -> tuple[int, int]:
    """The rows of a parameter that this process has; all, where it is not cut."""
    if not hasattr(tensor, "to_local"):
        return 0, tensor.shape[0] if tensor.ndim else 1
    return rows_of(tensor.shape[0], torch.distributed.get_rank(), torch.distributed.get_world_size())


def load_own(tensors: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy into each tensor, by name, what this process has of the saved one."""
    for name, whole in saved.items():
        mine = tensors[name]
        part = whole if not hasattr(mine, "to_local") else whole[slice(*own_rows(mine))]
        local(mine).copy_(part)


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from all processes, each of which must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
