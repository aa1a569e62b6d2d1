"""Linear layers and an embedding whose weights are blocks of whole numbers with a scale. Knows no file.

They compute from the blocks as they are; activations keep their precision. Nothing of them is trained.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from chainrule.errors import ModelError
from chainrule.model.blocks import BLOCK, KINDS, dequantise
from chainrule.model.native.products import multiply, widened


class QuantisedLinear(nn.Module):
    """A `Linear` whose matrix is in blocks, (out_features, bytes)."""

    blocks: Tensor
    bias: Tensor | None

    def __init__(self, blocks: Tensor, kind: str, parts: tuple[int, ...], bias: Tensor | None) -> None:
        """`parts` as in `Linear`."""
        super().__init__()
        assert sum(parts) == len(blocks), "the parts are all of the rows"
        self.kind, self.parts, self.out_features = kind, parts, len(blocks)
        self.in_features = blocks.shape[1] // KINDS[kind].size * BLOCK
        self.register_buffer("blocks", blocks, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The matrix in float32, made anew each time."""
        return widened(self.blocks, self.kind)

    def forward(self, input: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features)."""
        return multiply(input, self.blocks, self.bias, self.kind)


class QuantisedEmbedding(nn.Module):
    """An `Embedding` whose rows are in blocks."""

    blocks: Tensor

    def __init__(self, blocks: Tensor, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("blocks", blocks, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The matrix in float32, made anew each time."""
        return widened(self.blocks, self.kind)

    @property
    def device(self) -> torch.device:
        return self.blocks.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its rows as they are used."""
        return torch.float32

    def forward(self, tokens: Tensor) -> Tensor:
        """The rows of tokens (B, T), in float32."""
        rows = dequantise(self.blocks[tokens.flatten()], self.kind)
        return rows.view(*tokens.shape, -1)

    def logits(self, features: Tensor, bias: Tensor | None, few: bool = False) -> Tensor:
        """As a tied output matrix: (…, D) to (…, V)."""
        return multiply(features, self.blocks, bias, self.kind)


def is_quantised(model: nn.Module) -> bool:
    """Whether any of its weights are in blocks."""
    return any(isinstance(module, QuantisedLinear | QuantisedEmbedding) for module in model.modules())


def blocks_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The blocks of a model, by the names of their layers."""
    for name, module in model.named_modules():
        if isinstance(module, QuantisedLinear | QuantisedEmbedding):
            yield name, module.blocks


def count_weights(model: nn.Module) -> int:
    """How many weights a model has; those in blocks are counted by the values that they stand for."""
    total = sum(parameter.numel() for parameter in model.parameters())
    for module in model.modules():
        if isinstance(module, QuantisedLinear | QuantisedEmbedding):
            total += len(module.blocks) * (module.blocks.shape[1] // KINDS[module.kind].size * BLOCK)
            if isinstance(module, QuantisedLinear) and module.bias is not None:
                total += len(module.bias)
    return total


def weights_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all weights, in the order and under the names that `named_parameters` has where nothing is in
    blocks; of those in blocks the values, each made when its turn comes."""
    for name, module in model.named_modules():
        start = f"{name}." if name else ""
        if isinstance(module, QuantisedLinear | QuantisedEmbedding):
            yield f"{start}weight", module.weight
            if isinstance(module, QuantisedLinear) and module.bias is not None:
                yield f"{start}bias", module.bias
        yield from ((f"{start}{kind}", tensor) for kind, tensor in module.named_parameters(recurse=False))


def refuse_quantised(model: nn.Module, purpose: str) -> None:
    """ModelError for a quantised model, where its weights must be float ones."""
    if is_quantised(model):
        raise ModelError(
            f"{purpose}: wanted weights in float32 or bfloat16, got quantised ones, which are only read;"
            " load the model without quantize"
        )
