"""A model's weights and configuration as a GGUF's tensors and metadata. Knows no tokenizer.

Its input is what a Hugging Face directory of the model holds: the fields of config.json, and tensors by their names.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from chainrule.errors import ModelError
from chainrule.model.formats.gguf_fields import GEMMA2_27B
from chainrule.model.formats.gguf_hyperparameters import hyperparameters
from chainrule.model.formats.gguf_layout import ARCHITECTURES, to_gguf
from chainrule.model.formats.gguf_rope import frequency_factors
from chainrule.model.formats.gguf_tensors import quantisation
from chainrule.model.formats.layer_fields import Fields
from chainrule.storage.gguf_types import tensor_type
from chainrule.storage.gguf_writer import TensorToWrite

Type = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}  # general.file_type
# model_type -> llama.cpp's architecture, of what is written
EXPORTED = {**{each.model_type: name for name, each in ARCHITECTURES.items()}, "mistral": "llama"}
# What llama.cpp computes, whatever a config.json says.
_COMPUTED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "llama": {"hidden_act": ("silu",)},
    "qwen2": {"hidden_act": ("silu",)},
    "qwen3": {"hidden_act": ("silu",), "attention_bias": (False,)},
    "smollm3": {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)},
    "granite": {"hidden_act": ("silu",)},
    "phi3": {"hidden_act": ("silu",)},
    "olmo2": {"hidden_act": ("silu",), "attention_bias": (False,)},
    "gemma2": {"hidden_activation": ("gelu_pytorch_tanh", "gelu_new"), "attention_bias": (False,)},
    "gemma3": {
        "hidden_activation": ("gelu_pytorch_tanh", "gelu_new"),
        "attention_bias": (False,),
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
    },
    "gpt2": {"activation_function": ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh")},
    "gptneox": {
        "hidden_act": ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
        "attention_bias": (True,),
    },
}
_LARGEST_IN_Q4 = "Q8_0"  # the embedding and output matrices, which quantising hurts most


def architecture_for(fields: Fields) -> str:
    """llama.cpp's architecture for a config.json. ModelError where it has none, or computes something else."""
    model_type = fields["model_type"]
    name = EXPORTED.get(model_type)
    if name is None:
        raise ModelError(
            f"export: wanted a model of a family that can be written as GGUF ({', '.join(EXPORTED)}), got {model_type};"
            " export --to huggingface"
        )
    for field, values in _COMPUTED[name].items():
        value = fields.get(field, values[0])
        if value not in values:
            raise ModelError(
                f"export: wanted {field} {values[0]!r}, which is what llama.cpp computes for {name}, got {value!r};"
                " export --to huggingface"
            )
    wanted, got = _particular(name, fields)
    if wanted != got:
        raise ModelError(
            f"export: wanted {wanted}, which is what llama.cpp computes for {name}, got {got}; export --to huggingface"
        )
    if _rope(fields).get("rope_type") == "llama3" and name != "llama":
        raise ModelError(
            f"export: wanted rotary positions that llama.cpp has for {name}, got Llama 3's scaling; export --to"
            " huggingface"
        )
    return name


def _particular(name: str, fields: Fields) -> tuple[str, str]:
    """What llama.cpp computes for an architecture, of what is no single field's value, and what the model has."""
    if name in ("gemma2", "gemma3"):
        width = fields["head_dim"]
        if name == "gemma2" and fields["num_hidden_layers"] == GEMMA2_27B:
            width = fields["hidden_size"] // fields["num_attention_heads"]
        scale, caps = f"query_pre_attn_scalar {width}", ""
        if name == "gemma2" and None in (fields["attn_logit_softcapping"], fields["final_logit_softcapping"]):
            caps = " and no cap of its logits"
        return scale, f"query_pre_attn_scalar {fields['query_pre_attn_scalar']}{caps}"
    if name == "smollm3":
        layers = range(fields["num_hidden_layers"])
        every = [int((layer + 1) % 4 != 0) for layer in layers]
        return f"no_rope_layers {every}", f"no_rope_layers {fields['no_rope_layers']}"
    if name == "phi3":
        whole = fields["hidden_size"] // fields["num_attention_heads"]
        return f"heads of width {whole}", f"heads of width {fields.get('head_dim') or whole}"
    return "", ""


def _rope(fields: Fields) -> Mapping[str, Any]:
    return fields.get("rope_parameters") or {}


def context_of(fields: Fields) -> int:
    """The context that a GGUF may promise: where llama.cpp attends to everything and the model to a window, no more
    than the window."""
    context = fields.get("max_position_embeddings") or fields["n_positions"]
    if fields["model_type"] in ("mistral", "phi3") and fields.get("sliding_window"):
        return int(min(context, fields["sliding_window"]))
    return int(context)


def model_metadata(fields: Fields, name: str, kind: Type) -> dict[str, Any]:
    """The metadata that does not concern the tokenizer. `name`: how people call the model."""
    architecture = architecture_for(fields)
    return {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": name,
        "general.file_type": _FILE_TYPES[kind],
        "general.quantization_version": 2,
        **hyperparameters(architecture, fields, context_of(fields)),
    }


def tensors_to_write(tensors: Mapping[str, Tensor], fields: Fields, kind: Type) -> list[TensorToWrite]:
    """A directory's tensors as a GGUF has them; each is converted when its turn comes, and raises ModelError where
    float16 has no number for a weight.

    Vectors are float32, whatever the kind; a matrix whose rows no block divides is float16.
    """
    name = architecture_for(fields)
    architecture = ARCHITECTURES[name]
    heads = fields.get("num_attention_heads") or fields["n_head"]
    groups = fields.get("num_key_value_heads") or heads
    found = []
    for theirs, tensor in tensors.items():
        ours = architecture.gguf_name(theirs)
        assert ours is not None, f"{theirs}: no name in a GGUF"
        layout = architecture.layout(ours)
        shape = tuple(tensor.shape[::-1] if layout == "transposed" else tensor.shape)
        convert = partial(to_gguf, tensor.detach(), layout, heads, groups)
        found.append(_to_write(ours, shape, convert, kind))
    rope = _rope(fields)
    if rope.get("rope_type") == "llama3":
        width = fields.get("head_dim") or fields["hidden_size"] // heads
        factors = frequency_factors(width, float(rope["rope_theta"]), rope)
        found.append(_to_write("rope_freqs.weight", factors.shape, partial(torch.from_numpy, factors), kind))
    if rope.get("rope_type") == "longrope":
        for length in ("long", "short"):
            numbers = torch.tensor(rope[f"{length}_factor"])
            found.append(_to_write(f"rope_factors_{length}.weight", numbers.shape, partial(torch.clone, numbers), kind))
    return found


def _to_write(name: str, shape: tuple[int, ...], convert: Callable[[], Tensor], kind: Type) -> TensorToWrite:
    stored = _stored_as(name, shape, kind)
    return TensorToWrite(name, shape, stored, lambda: _content(name, convert(), stored))


def _stored_as(name: str, shape: tuple[int, ...], kind: Type) -> str:
    if len(shape) == 1 or name == "position_embd.weight":
        return "F32"
    wanted = kind.upper()
    if wanted == "Q4_0" and name in ("token_embd.weight", "output.weight"):
        wanted = _LARGEST_IN_Q4
    return "F16" if shape[-1] % tensor_type(wanted).block else wanted


def _content(name: str, tensor: Tensor, stored: str) -> Any:
    """A tensor's bytes."""
    tensor = tensor.cpu().contiguous()
    if stored == "BF16":
        return tensor.bfloat16().view(torch.uint16).numpy().astype("<u2", copy=False).data.cast("B")
    if stored == "F16":
        half = tensor.half()
        if not torch.isfinite(half).all():
            raise ModelError(
                f"export: wanted weights of at most {torch.finfo(torch.float16).max:.0f}, which float16 can hold, got"
                f" more in {name}; use --type bf16"
            )
        return half.numpy().astype("<f2", copy=False).data.cast("B")
    values = tensor.float().numpy()
    if stored == "F32":
        return values.astype("<f4", copy=False).data.cast("B")
    return np.ascontiguousarray(_quantised(values, stored)).data.cast("B")


def _quantised(values: Any, stored: str) -> Any:
    quants = quantisation()
    from gguf import GGMLQuantizationType

    return quants.quantize(values, GGMLQuantizationType[stored])
