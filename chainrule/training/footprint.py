"""How much memory a training will take, and the refusal of one that cannot fit, before its first step. Knows tensors
and sizes, not what is learned.

Sizes are bytes. Shapes: T positions of a sequence.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from chainrule import machine
from chainrule.machine import require_memory
from chainrule.model.adapter import AdaptedLinear
from chainrule.model.transformer import Transformer
from chainrule.training.activations import activation_bytes

FLOAT = 4  # bytes: weights that are trained, their gradients and the optimizer's moments are float32
STEP = 16  # positions of the shortest of three sequences, from whose activations those of longer ones follow
TEMPORARY = 1.25  # a backward pass takes so many times the memory of the activations that wait for it


def of_weights(trained: int, *, moments: int = 2, copied: bool = False, best: bool = False) -> dict[str, float]:
    """What training so many numbers takes beside the model that is there: gradients and the optimizer's `moments`;
    `copied`: the trained weights too; `best`: the best state so far."""
    sizes = {"weights": int(copied) + int(best), "gradients": 1, "optimizer": moments}
    return {name: float(FLOAT * trained * copies) for name, copies in sizes.items() if copies}


def of_activations(forward: Callable[[int], Tensor], model: Transformer, tokens: int, longest: int) -> dict[str, float]:
    """What a forward pass keeps for the backward pass of a micro-batch of `tokens`, in sequences of at most `longest`.

    `forward` computes a loss, or what it is read from, on one sequence of T positions. Three short ones are computed:
    what is kept grows with T in linear layers and with T² in attention, beside what does not grow (weights that are
    converted into another precision). Of a model that checkpoints activations, the estimate by its shape.
    """
    longest = min(longest, model.config.context)
    if model.checkpoint_activations:
        dtype = model.compute_dtype or model.dtype
        return {"activations": activation_bytes(model.config, tokens, longest, dtype, model.device, True)}
    step = min(STEP, (model.config.context - 1) // 3)
    if step == 0:  # no room for three
        length = max(1, model.config.context - 1)
        return {"activations": TEMPORARY * tokens * kept_bytes(forward, model, length) / length}
    first, second, third = (kept_bytes(forward, model, step * times) for times in (1, 2, 3))
    square = max(0.0, (third - 2 * second + first) / (2 * step**2))
    linear = max(0.0, (second - first) / step - 3 * square * step)
    constant = max(0.0, first - linear * step - square * step**2)
    return {"activations": constant + TEMPORARY * tokens * (linear + square * longest)}


def kept_bytes(forward: Callable[[int], Tensor], model: nn.Module, length: int) -> int:
    """The bytes that wait for a backward pass after `forward(length)`, without the model's own tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    own |= {tensor.untyped_storage().data_ptr() for tensor in _converted(model)}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> None:
        """Nothing is given to the graph: an output that it kept would keep the graph, and neither were ever freed."""
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.detach())

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        result = forward(length)
    own |= {tensor.untyped_storage().data_ptr() for tensor in _converted(model)}
    del result
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


def _converted(model: nn.Module) -> Iterable[Tensor]:
    """The converted copies of frozen weights, which are made once."""
    return (
        module.converted
        for module in model.modules()
        if isinstance(module, AdaptedLinear) and module.converted is not None
    )


def require_step(
    purpose: str,
    weights: Mapping[str, float],
    forward: Callable[[int], Tensor],
    model: Transformer,
    tokens: int,
    longest: int,
    cure: str,
) -> None:
    """OptionError where a training step does not fit into memory; `weights` are its other sizes, the rest is as in
    `of_activations` and `require_memory`. Where it fits with its activations checkpointed alone, and that was left open
    (`checkpoint_activations` None), the model is made to checkpoint them."""
    sizes = {**weights, **of_activations(forward, model, tokens, longest)}
    if model.checkpoint_activations is None and sum(sizes.values()) > machine.free_memory(model.device):
        model.checkpoint_activations = True
        sizes = {**weights, **of_activations(forward, model, tokens, longest)}
    require_memory(purpose, sizes, model.device, cure)
