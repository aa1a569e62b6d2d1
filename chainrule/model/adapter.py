"""LoRA (Hu et al., 2021): linear layers with a trained product of two small matrices beside frozen weights.

Knows layers, neither their files nor what is learned. Shapes: I inputs, O outputs of a map, R rank.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.model.config import Config
from chainrule.model.linear import Linear
from chainrule.model.quantised import QuantisedEmbedding, QuantisedLinear
from chainrule.model.transformer import Transformer
from chainrule.model.versions import version


class LowRank(nn.Module):
    """The matrices A and B of one linear map, in float32: it gets scale · B A x more."""

    def __init__(self, A: Tensor, B: Tensor, scale: float) -> None:
        """`A` is (R, I) and `B` (O, R), both float32."""
        super().__init__()
        self.A, self.B, self.scale = nn.Parameter(A.contiguous()), nn.Parameter(B.contiguous()), scale

    @property
    def product(self) -> Tensor:
        """scale · B A (O, I): what it adds to the weights."""
        return self.scale * (self.B @ self.A).detach()


class AdaptedLinear(nn.Module):
    """A frozen linear layer and, for all or some of its maps, a `LowRank` that is added to their outputs.

    All is computed in the precision of the input. Frozen weights of a wider precision are converted into it once;
    narrower ones and those in blocks stay as they are in memory, and are widened for each product.
    """

    def __init__(self, base: Linear | QuantisedLinear, parts: Sequence[int], adapters: Mapping[int, LowRank]) -> None:
        """`parts` are the outputs of the maps, one after another; `adapters` has those of some, by their index."""
        super().__init__()
        assert sum(parts) == base.out_features, "the maps are all of the layer"
        self.base, self.parts = base, tuple(parts)
        self.adapters = nn.ModuleDict({str(index): adapters[index] for index in sorted(adapters)})
        # The frozen weight, its version, and that in another precision.
        self._converted: tuple[Tensor, int, Tensor] | None = None

    @property
    def converted(self) -> Tensor | None:
        """The frozen weights in another precision, where they were used in it."""
        return None if self._converted is None else self._converted[2]

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, sum of the parts)."""
        outputs = self._frozen(x).flatten(0, -2)
        adapters = self.by_map()
        A = torch.cat([adapter.A for adapter in adapters.values()])  # of all maps: (their number · R, I)
        B = torch.block_diag(
            *(
                adapters[index].scale * adapters[index].B if index in adapters else A.new_zeros(part, 0)
                for index, part in enumerate(self.parts)
            )
        )
        inner = F.linear(x.flatten(0, -2), A.to(x.dtype))
        return torch.addmm(outputs, inner, B.to(x.dtype).T).unflatten(0, x.shape[:-1])

    def by_map(self) -> dict[int, LowRank]:
        """The adapters by the index of their map."""
        return {int(index): cast(LowRank, adapter) for index, adapter in self.adapters.items()}

    def _frozen(self, x: Tensor) -> Tensor:
        """The layer without adapters."""
        if isinstance(self.base, QuantisedLinear):
            return cast(Tensor, self.base(x))
        weight = self.base.weight
        if weight.element_size() <= x.element_size() or weight.requires_grad:
            return cast(Tensor, self.base(x))
        converted = self._still_converted(weight, x)
        if converted is None:
            converted = weight.to(x.dtype)
            self._converted = weight, version(weight), converted
        return F.linear(x, converted, None if self.base.bias is None else self.base.bias.to(x.dtype))

    def _still_converted(self, weight: Tensor, x: Tensor) -> Tensor | None:
        """The frozen weight in the precision of x, where it was converted and has not been changed or moved since."""
        if self._converted is None:
            return None
        source, before, converted = self._converted
        same = source is weight and before == version(weight)
        return converted if same and (converted.dtype, converted.device) == (x.dtype, x.device) else None

    def merged(self) -> Linear:
        """One layer with the same outputs; its weights are summed in float32, in which they stay."""
        weight = self.base.weight.detach().to(torch.float32, copy=True)
        ends = list(accumulate(self.parts))
        for index, adapter in self.by_map().items():
            end = ends[index]
            weight[end - self.parts[index] : end] += adapter.product
        with torch.device("meta"):
            layer = Linear(self.base.in_features, *self.base.parts, bias=self.base.bias is not None)
        layer.weight = nn.Parameter(weight)
        if self.base.bias is not None:
            layer.bias = nn.Parameter(self.base.bias.detach())
        return layer


def random_adapter(inputs: int, outputs: int, rank: int, scale: float, generator: torch.Generator) -> LowRank:
    """One that changes nothing yet: B is 0, A drawn from Kaiming's uniform distribution with a = √5."""
    bound = inputs**-0.5
    return LowRank((2 * torch.rand(rank, inputs, generator=generator) - 1) * bound, torch.zeros(outputs, rank), scale)


def with_adapters(
    model: Transformer, parts: Mapping[str, Sequence[int]], adapters: Mapping[str, Mapping[int, LowRank]]
) -> Transformer:
    """The same Transformer with `adapters`, by layer and map: its own weights are frozen, and share the model's memory.
    Quantised layers stay quantised.

    `parts`: the maps of each layer, by its name.
    """
    adapted = _holding({name: parameter.detach() for name, parameter in model.named_parameters()}, model)
    adapted.requires_grad_(False)
    for name, layer in list(adapted.named_modules()):
        if isinstance(layer, Linear | QuantisedLinear) and adapters.get(name):
            adapted.set_submodule(name, AdaptedLinear(layer, parts[name], adapters[name]))
    return adapted


def untied(model: Transformer) -> Transformer:
    """The same Transformer with an output layer of its own, equal to the embedding; all weights are shared."""
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    state["output.weight"] = model.output_weight.detach()
    return _holding(state, model, config=dataclasses.replace(model.config, tied=False))


def is_adapted(model: nn.Module) -> bool:
    """Whether adapters stand beside its weights; one that was merged does not."""
    return any(isinstance(module, AdaptedLinear) for module in model.modules())


def merged(model: Transformer) -> Transformer:
    """A Transformer without adapters whose weights contain them, those that changed and those that were in blocks in
    float32; others are shared."""
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            state |= {f"{name}.{kind}": tensor.detach() for kind, tensor in module.merged().named_parameters()}
        elif isinstance(module, QuantisedLinear | QuantisedEmbedding) and not name.endswith(".base"):
            state[f"{name}.weight"] = module.weight
            if isinstance(module, QuantisedLinear) and module.bias is not None:
                state[f"{name}.bias"] = module.bias
    for name, parameter in model.named_parameters():
        if ".adapters." not in name:
            state.setdefault(name.replace(".base.", "."), parameter.detach())
    return _holding(state, model, quantised=False)


def with_copies(model: Transformer, adapted: Transformer, parts: Mapping[str, Sequence[int]]) -> Transformer:
    """`model` with copies of the adapters of `adapted`, which may then change."""
    copies = {
        name: {
            index: LowRank(adapter.A.detach().clone(), adapter.B.detach().clone(), adapter.scale)
            for index, adapter in by_map.items()
        }
        for name, by_map in adapters_of(adapted).items()
    }
    return with_adapters(model, parts, copies).requires_grad_(False)


def share_layers(model: Transformer, other: Transformer, renamed: Mapping[str, str] = MappingProxyType({})) -> None:
    """Put the layers of a model that have adapters, or weights in blocks, in the place of those of the same names in
    another, which may lack some; `renamed`: the names of those that have another name there."""
    replaced = {name for name, _ in other.named_modules()}
    for name, layer in model.named_modules():
        there = renamed.get(name, name)
        if isinstance(layer, AdaptedLinear | QuantisedLinear | QuantisedEmbedding) and there in replaced:
            other.set_submodule(there, layer)


def adapters_of(model: nn.Module) -> dict[str, dict[int, LowRank]]:
    """The adapters of a model, by layer and map."""
    found: dict[str, dict[int, LowRank]] = {}
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            found[name] = module.by_map()
    return found


def _holding(
    state: Mapping[str, Tensor], model: Transformer, quantised: bool = True, config: Config | None = None
) -> Transformer:
    """A Transformer of these parameters, otherwise like `model`, but for another `config`. It shares their memory and,
    if it is to be `quantised` as that is, its blocks; nothing else."""
    with torch.device("meta"):
        made = Transformer(config or model.config)
    if quantised:
        share_layers(model, made)
    made.load_state_dict(state, assign=True)
    made.compute_dtype, made.segment_separator = model.compute_dtype, model.segment_separator
    return made.train(model.training)
