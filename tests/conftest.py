"""Small random models of each family, for tests of what must hold whatever the weights are."""

from collections.abc import Callable

import pytest
import torch

from chainrule.model.config import Config
from chainrule.model.rotary import RopeScaling
from chainrule.model.transformer import Transformer, initialise

SIZE = {"width": 32, "layers": 2, "heads": 4, "head_width": 8, "hidden": 48}
GATED = {**SIZE, "key_value_heads": 2, "query_key_norm": False}
PLAIN = {
    **SIZE, "key_value_heads": 4, "norm": "layer", "norm_epsilon": 1e-5, "gated": False, "query_key_norm": False,
    "query_key_value_bias": True, "attention_output_bias": True, "mlp_bias": True,
}  # fmt: skip
SHAPES = {
    "qwen3": {**GATED, "query_key_norm": True},
    "llama": {**GATED, "rope_scaling": RopeScaling(4.0, original_context=16)},
    "mistral": {**GATED, "window": 7},
    "qwen2": {**GATED, "query_key_value_bias": True},
    "gpt2": {**PLAIN, "positions": "learned", "activation": "gelu_tanh", "tied": True},
    "gpt_neox": {**PLAIN, "hidden": 64, "activation": "gelu", "rotary_width": 2, "parallel": True},
}
MASKED = {
    **PLAIN, "positions": "learned", "activation": "gelu", "tied": True,
    "causal": False, "post_norm": True, "segments": 2, "masked_head": True,
}  # fmt: skip


def random_model(family: str, vocabulary_size: int = 61, context: int = 32, seed: int = 0) -> Transformer:
    """A model in which no weight, gain or bias is at its tame start; its logits are spread by about 2."""
    model = Transformer(Config(vocabulary_size=vocabulary_size, context=context, **{**SHAPES, "bert": MASKED}[family]))
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@pytest.fixture(params=SHAPES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_model(family: str) -> Callable[..., Transformer]:
    """`random_model` of each family in turn: called with vocabulary_size, context, seed."""
    return lambda **shape: random_model(family, **shape)
