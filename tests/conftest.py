"""How the tests run, and small random models of each family for what must hold whatever the weights are."""

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from chainrule import machine
from chainrule.model.config import Config, LayerKind
from chainrule.model.rotary import Rope, RopeScaling
from chainrule.model.transformer import Transformer, initialise

SIZE = {"width": 32, "layers": 2, "heads": 4, "head_width": 8, "hidden": 48}
GATED = {**SIZE, "key_value_heads": 2, "query_key_norm": None}
PLAIN = {
    **SIZE, "key_value_heads": 4, "norm": "layer", "norm_epsilon": 1e-5, "gated": False, "query_key_norm": None,
    "query_key_value_bias": True, "attention_output_bias": True, "mlp_bias": True,
}  # fmt: skip
LEARNED = {"learned_positions": True, "layer_kinds": (LayerKind(),)}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {**GATED, "query_key_norm": "head"},
    "llama": {**GATED, "layer_kinds": (LayerKind(rope=Rope(scaling=RopeScaling(4.0, original_context=16))),)},
    "mistral": {**GATED, "layer_kinds": (LayerKind(7, Rope()),)},
    "qwen2": {**GATED, "query_key_value_bias": True},
    "smollm3": {**GATED, "layer_kinds": (LayerKind(), LayerKind(rope=Rope(2e6)))},
    "granite": {
        **GATED, "embedding_factor": 3.0, "attention_factor": 0.7, "residual_factor": 0.22, "logit_divisor": 1.5,
    },
    "phi3": {**GATED, "layer_kinds": (LayerKind(7, Rope(width=6)),)},
    "olmo2": {**GATED, "residual": "reordered", "query_key_norm": "width"},
    "gemma2": {
        **GATED, "layer_kinds": (LayerKind(7, Rope()), LayerKind(rope=Rope())), "residual": "sandwich",
        "norm_offset": 1.0, "scaled_embedding": True, "query_scale_width": 6, "activation": "gelu_tanh", "tied": True,
        "attention_cap": 2.0, "logit_cap": 3.0,
    },
    "gemma3_text": {
        **GATED, "layer_kinds": (LayerKind(7, Rope()), LayerKind(rope=Rope(1e6, RopeScaling(2.0)))),
        "residual": "sandwich", "norm_offset": 1.0, "scaled_embedding": True, "query_key_norm": "head",
        "query_scale_width": 6, "activation": "gelu_tanh", "tied": True,
    },
    "gpt2": {**PLAIN, **LEARNED, "activation": "gelu_tanh", "tied": True},
    "opt": {**PLAIN, **LEARNED, "position_offset": 2, "activation": "relu", "tied": True},
    "gpt_neo": {
        **PLAIN, "activation": "gelu_tanh", "tied": True, "learned_positions": True, "query_key_value_bias": False,
        "layer_kinds": (LayerKind(), LayerKind(7)), "query_scale_width": 1,
    },
    "gpt_neox": {
        **PLAIN, "hidden": 64, "activation": "gelu", "layer_kinds": (LayerKind(rope=Rope(width=2)),),
        "residual": "parallel",
    },
}  # fmt: skip
BERT = {
    **PLAIN, **LEARNED, "activation": "gelu", "tied": True,
    "causal": False, "residual": "post", "segments": 2, "masked_head": True,
}  # fmt: skip
MASKED: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": {**BERT, "position_offset": 2},
    "xlm-roberta": {**BERT, "segments": 1, "position_offset": 4},
    "distilbert": {**BERT, "segments": 0, "norm_epsilon": 1e-12, "pooler_activation": "relu"},
    "modernbert": {
        **GATED, "key_value_heads": 4, "norm": "layer", "norm_epsilon": 1e-5, "norm_bias": False, "input_norm": True,
        "first_norm": False, "layer_kinds": (LayerKind(rope=Rope(160e3)), LayerKind(7, Rope())), "activation": "gelu",
        "tied": True, "causal": False, "masked_head": True, "head_bias": False, "pooler_like_head": True,
    },
}  # fmt: skip


def random_model(
    family: str, vocabulary_size: int = 61, context: int = 32, seed: int = 0, **changes: Any
) -> Transformer:
    """A model in which no weight, gain or bias is at its tame start; its logits are spread by about 2. `changes`: of
    the family's fields of `Config`."""
    shape = {**{**SHAPES, **MASKED}[family], **changes}
    model = Transformer(Config(vocabulary_size=vocabulary_size, context=context, **shape))
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


# Those that are written as GGUF files.
GGUF_FAMILIES = (
    *("qwen3", "llama", "mistral", "qwen2", "smollm3", "granite", "phi3", "olmo2", "gemma2", "gemma3_text", "gpt2"),
    "gpt_neox",
)


# What llama.cpp computes, where that is not what `SHAPES` has.
_IN_LLAMA_CPP: dict[str, dict[str, Any]] = {
    "smollm3": {"layers": 4, "layer_kinds": (*[LayerKind(rope=Rope(2e6))] * 3, LayerKind())},
    "phi3": {"layer_kinds": (LayerKind(rope=Rope(width=6)),)},
    "gemma2": {"query_scale_width": SIZE["head_width"]},
    "gemma3_text": {"query_scale_width": SIZE["head_width"]},
}


def exportable_model(family: str, vocabulary_size: int = 61, context: int = 32) -> Transformer:
    """`random_model`, but with what llama.cpp computes."""
    return random_model(family, vocabulary_size, context, **_IN_LLAMA_CPP.get(family, {}))


@pytest.fixture(params=SHAPES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=GGUF_FAMILIES)
def gguf_family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_model(family: str) -> Callable[..., Transformer]:
    """`random_model` of each family in turn: called with vocabulary_size, context, seed."""
    return lambda **shape: random_model(family, **shape)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests/test_device_laws.py computes: cpu, cuda, mps")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the laws of a device are tested; ChainruleError for one that this machine has not."""
    return machine.device(str(request.config.getoption("--device")))


def pytest_configure() -> None:
    """One thread each, for what the tests start too: they run beside each other, a process a core."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Modules and tests live to the end: the garbage collector need not look through them again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `--numprocesses auto` is: one for each core we may use, at most 8, each with its own torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8) if cores > 1 else 0


@pytest.fixture(scope="session", autouse=True)
def float32_wherever_it_is_measured() -> Iterator[None]:
    """No precision of a test depends on the machine's speed: all multiply equally fast, so "auto" is float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "matmul_rate", lambda device, dtype, seconds=0.05: 1e11)
        yield
