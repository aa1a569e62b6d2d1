"""LoRA (Hu et al., 2021): linear layers with a trained product of two small matrices beside frozen weights.

Knows layers, neither their files nor what is learned. Shapes: I inputs, O outputs of a map, R rank.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.model.linear import Linear, replace_linears
from chainrule.model.transformer import Transformer


class LowRank(nn.Module):
    """scale · B A x in float32, whatever the precision of the layer that it is added to."""

    def __init__(self, A: Tensor, B: Tensor, scale: float) -> None:
        """`A` is (R, I) and `B` (O, R), both float32."""
        super().__init__()
        self.A, self.B, self.scale = nn.Parameter(A.contiguous()), nn.Parameter(B.contiguous()), scale

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O), in the precision of A and B."""
        return self.scale * F.linear(F.linear(x.to(self.A.dtype), self.A), self.B)

    @property
    def product(self) -> Tensor:
        """scale · B A (O, I): what it adds to the weights."""
        return self.scale * (self.B @ self.A).detach()


class AdaptedLinear(nn.Module):
    """A linear layer and, for all or some of its maps, a `LowRank` that is added to their outputs."""

    def __init__(self, base: Linear, parts: Sequence[int], adapters: Mapping[int, LowRank]) -> None:
        """`parts` are the outputs of the maps, one after another; `adapters` has those of some, by their index."""
        super().__init__()
        assert sum(parts) == base.out_features, "the maps are all of the layer"
        self.base, self.parts = base, tuple(parts)
        self.adapters = nn.ModuleDict({str(index): adapters[index] for index in sorted(adapters)})

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, sum of the parts)."""
        outputs: Tensor = self.base(x)
        changes = [
            self.adapters[str(index)](x) if str(index) in self.adapters else outputs.new_zeros(*x.shape[:-1], part)
            for index, part in enumerate(self.parts)
        ]
        return (outputs + torch.cat(changes, dim=-1)).to(outputs.dtype)

    def merged(self) -> Linear:
        """One layer with the same outputs; its weights are summed in float32, in which they stay."""
        weight = self.base.weight.detach().to(torch.float32, copy=True)
        ends = list(accumulate(self.parts))
        for index, adapter in self.adapters.items():
            assert isinstance(adapter, LowRank)
            end = ends[int(index)]
            weight[end - self.parts[int(index)] : end] += adapter.product
        with torch.device("meta"):
            layer = Linear(self.base.in_features, *self.base.parts, bias=self.base.bias is not None)
        layer.weight = nn.Parameter(weight)
        layer.bias = self.base.bias
        return layer


def random_adapter(inputs: int, outputs: int, rank: int, scale: float, generator: torch.Generator) -> LowRank:
    """One that changes nothing yet: B is 0, A drawn from Kaiming's uniform distribution with a = √5."""
    bound = inputs**-0.5
    return LowRank((2 * torch.rand(rank, inputs, generator=generator) - 1) * bound, torch.zeros(outputs, rank), scale)


def with_adapters(
    model: Transformer, parts: Mapping[str, Sequence[int]], adapters: Mapping[str, Mapping[int, LowRank]]
) -> Transformer:
    """The same Transformer with `adapters`, by layer and map: its own weights are frozen, and share the model's memory.

    `parts`: the maps of each layer, by its name.
    """
    adapted = _holding({name: parameter.detach() for name, parameter in model.named_parameters()}, model)
    adapted.requires_grad_(False)
    replace_linears(
        adapted,
        lambda name, layer: AdaptedLinear(layer, parts[name], adapters[name]) if adapters.get(name) else layer,
    )
    return adapted


def merged(model: Transformer) -> Transformer:
    """A Transformer without adapters whose weights contain them, those that changed in float32; others are shared."""
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            state |= {f"{name}.{kind}": tensor.detach() for kind, tensor in module.merged().named_parameters()}
    for name, parameter in model.named_parameters():
        if ".adapters." not in name:
            state.setdefault(name.replace(".base.", "."), parameter.detach())
    return _holding(state, model)


def adapters_of(model: nn.Module) -> dict[str, dict[int, LowRank]]:
    """The adapters of a model, by layer and map."""
    found: dict[str, dict[int, LowRank]] = {}
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            found[name] = {
                int(index): adapter for index, adapter in module.adapters.items() if isinstance(adapter, LowRank)
            }
    return found


def _holding(state: Mapping[str, Tensor], model: Transformer) -> Transformer:
    """A Transformer of these parameters, otherwise like `model`. It shares their memory and nothing else."""
    with torch.device("meta"):
        made = Transformer(model.config)
    made.load_state_dict(state, assign=True)
    made.compute_dtype, made.segment_separator = model.compute_dtype, model.segment_separator
    return made.train(model.training)
