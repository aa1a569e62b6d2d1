"""A GGUF's hyperparameters as the fields of a config.json. Knows no weights but the scaling of rotary positions,
which a GGUF keeps in a tensor."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import ModelError
from chainrule.model.formats.gguf_layout import ARCHITECTURES
from chainrule.model.formats.gguf_rope import llama3_scaling, shortest
from chainrule.model.formats.layer_fields import share_of
from chainrule.storage.gguf import GGUFFile

_NUMBER = (int, float)
FULL, SLIDING = "full_attention", "sliding_attention"  # of layer_types
# What changes the mathematics, and the values at which it does not.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "attention.causal": (True,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
}
# Those of them that an architecture of ours has.
_READ: Mapping[str, tuple[str, ...]] = {
    "granite": ("embedding_scale", "residual_scale", "logit_scale"),
    "gemma2": ("attn_logit_softcapping", "final_logit_softcapping"),
}
_ROPE_TYPES = ("none", "linear")
Factors = Mapping[str, NDArray[np.float32]]


def architecture_of(file: GGUFFile) -> str:
    """llama.cpp's name of the architecture. ModelError for one that is not ours."""
    name: str = file.want("general.architecture", str)
    if name not in ARCHITECTURES:
        raise ModelError(
            f"{file.path}: wanted a GGUF of the architecture {', '.join(ARCHITECTURES)}, got {name!r}, which is not"
            " supported"
        )
    if file.get("split.count", int, 1) > 1:
        raise ModelError(
            f"{file.path}: wanted a GGUF in one file, got one of {file.metadata['split.count']};"
            " join them with llama.cpp's llama-gguf-split --merge"
        )
    if "token_embd.weight" not in file.tensors:
        raise ModelError(
            f"{file.path}: wanted the tensor token_embd.weight, which the file lacks: it holds no language model"
            f" (its general.type is {file.metadata.get('general.type', 'model')!r}); take the model's own file"
        )
    return name


def config_json(file: GGUFFile, factors: Factors) -> dict[str, Any]:
    """The config.json that a GGUF's metadata and the names of its tensors amount to.

    `factors`: the tensors by which each rotation is slowed, by their names. Raises ModelError for a value of a wrong
    kind, one that is missing, and one that changes the mathematics and is not supported.
    """
    name = architecture_of(file)
    for key, values in _NEUTRAL.items():
        if key in _READ.get(name, ()):
            continue
        value = file.metadata.get(f"{name}.{key}", values[0])
        if value not in values:
            raise ModelError(f"{file.path}: wanted no {name}.{key}, got {value!r}, which is not supported")
    read = Hyperparameters(file, name)
    shared = {
        "architectures": [_CLASSES[name]],
        "model_type": ARCHITECTURES[name].model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    return {**shared, **_FIELDS[name](read, factors)}


_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gptneox": "GPTNeoXForCausalLM",
}


class Hyperparameters:
    """The hyperparameters of one architecture."""

    def __init__(self, file: GGUFFile, name: str) -> None:
        self.file, self.name = file, name

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number; a list of equal ones, one for each layer, is one."""
        key = f"{self.name}.{key}"
        value = self.file.want(key, (int, list)) if default is None else self.file.get(key, (int, list), default)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise ModelError(
                    f"{self.file.path}: wanted one {key} for all layers, got {value[:4]}…, which is not supported"
                )
            value = value[0]
        if type(value) is not int or value < 1:
            raise ModelError(f"{self.file.path}: wanted {key} of at least 1, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        key = f"{self.name}.{key}"
        value = self.file.want(key, _NUMBER) if default is None else self.file.get(key, _NUMBER, default)
        return shortest(value)

    def has(self, tensor: str) -> bool:
        return f"blk.0.{tensor}" in self.file.tensors

    def rope(self, factors: Factors, default: float = 10_000.0) -> dict[str, Any]:
        """rope_theta and rope_parameters."""
        theta = self.number("rope.freq_base", default)
        parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
        # Files of before 2024 name the factor alone.
        old = self.file.get(f"{self.name}.rope.scale_linear", _NUMBER, 1.0)
        kind = self.file.get(f"{self.name}.rope.scaling.type", str, "linear" if old != 1 else "none")
        factor = self.number("rope.scaling.factor", old)
        if kind not in _ROPE_TYPES:
            raise ModelError(
                f"{self.file.path}: wanted {self.name}.rope.scaling.type to be {' or '.join(_ROPE_TYPES)}, got"
                f" {kind!r}, which is not supported"
            )
        if "rope_freqs" in factors:
            parameters |= llama3_scaling(self.file, factors["rope_freqs"], theta)
        elif kind == "linear" and factor not in (0, 1):
            parameters |= {"rope_type": "linear", "factor": factor}
        return {"rope_theta": theta, "rope_parameters": parameters}


def _gated(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    """Llama and its like."""
    width, heads = read.size("embedding_length"), read.size("attention.head_count")
    head_width = read.size("attention.key_length", width // heads)
    if read.size("attention.value_length", head_width) != head_width:
        raise ModelError(f"{read.file.path}: wanted keys and values of one width, which the metadata gives two")
    rotated = read.size("rope.dimension_count", head_width)
    if rotated != head_width and read.name != "phi3":
        raise ModelError(
            f"{read.file.path}: wanted {read.name}.rope.dimension_count to be a head's width, {head_width}, got"
            f" {rotated}, which is not supported"
        )
    return {
        "hidden_size": width,
        "intermediate_size": read.size("feed_forward_length"),
        "num_hidden_layers": read.size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": read.size("attention.head_count_kv", heads),
        "head_dim": head_width,
        "max_position_embeddings": read.size("context_length"),
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        **read.rope(factors),
    }


def _llama(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    return {
        **_gated(read, factors),
        "attention_bias": read.has("attn_q.bias"),
        "mlp_bias": read.has("ffn_up.bias"),
    }


def _qwen3(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    return {**_gated(read, factors), "attention_bias": read.has("attn_q.bias")}


WINDOWS = "attention.sliding_window_pattern"  # every so many layers one has no window; or of each whether it has
GEMMA2_27B = 46  # layers, by which llama.cpp knows the one Gemma 2 that scales attention by another width


def _smollm3(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    """llama.cpp has every fourth layer without rotary positions, whatever the metadata says."""
    return {**_llama(read, factors), "no_rope_layer_interval": 4}


def _granite(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    fields = _llama(read, factors)

    def factor(key: str, without: float) -> float:
        return read.number(key, without) or without  # 0 stands for none

    return {
        **fields,
        "embedding_multiplier": factor("embedding_scale", 1.0),
        "attention_multiplier": factor("attention.scale", fields["head_dim"] ** -0.5),
        "residual_multiplier": factor("residual_scale", 1.0),
        "logits_scaling": factor("logit_scale", 1.0),
    }


def _phi3(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    fields = _gated(read, factors)
    parameters: dict[str, Any] = fields["rope_parameters"]
    if read.size("rope.dimension_count", fields["head_dim"]) != fields["head_dim"]:
        share = share_of(read.size("rope.dimension_count"), fields["head_dim"])
        fields["partial_rotary_factor"] = parameters["partial_rotary_factor"] = share
    if {"rope_factors_long", "rope_factors_short"} <= factors.keys():
        original = read.size("rope.scaling.original_context_length", 4096)
        fields["original_max_position_embeddings"] = original
        parameters |= {
            "rope_type": "longrope",
            "long_factor": [shortest(each) for each in factors["rope_factors_long"]],
            "short_factor": [shortest(each) for each in factors["rope_factors_short"]],
            "attention_factor": read.number("rope.scaling.attn_factor", 1.0),
            "original_max_position_embeddings": original,
        }
    return fields


def _windows(read: Hyperparameters, layers: int, every: int, default: int) -> dict[str, Any]:
    """sliding_window and layer_types; one of so many layers has no window where the metadata does not say which."""
    window = read.file.get(f"{read.name}.attention.sliding_window", int, default)
    pattern = read.file.get(f"{read.name}.{WINDOWS}", (int, list), every)
    if not window:
        sliding = [False] * layers
    elif isinstance(pattern, list):
        sliding = [bool(each) for each in pattern]
    else:
        sliding = [(layer + 1) % max(pattern, 1) != 0 for layer in range(layers)]
    return {"sliding_window": window or None, "layer_types": [SLIDING if each else FULL for each in sliding]}


def _gemma(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common."""
    fields = _gated(read, factors)
    return {
        **fields,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": fields["head_dim"],
        "attention_bias": False,
    }


def _gemma2(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    fields = _gemma(read, factors)
    if fields["num_hidden_layers"] == GEMMA2_27B:
        fields["query_pre_attn_scalar"] = fields["hidden_size"] // fields["num_attention_heads"]
    return {
        **fields,
        **_windows(read, fields["num_hidden_layers"], every=2, default=4096),
        "attn_logit_softcapping": read.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": read.number("final_logit_softcapping", 30.0),
    }


def _gemma3(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    fields = _gemma(read, factors)
    theta, local = fields.pop("rope_theta"), read.number("rope.freq_base_swa", 10_000.0)
    return {
        **fields,
        **_windows(read, fields["num_hidden_layers"], every=6, default=0),
        "rope_theta": theta,
        "rope_local_base_freq": local,
        "rope_parameters": {
            FULL: fields["rope_parameters"],
            SLIDING: {"rope_type": "default", "rope_theta": local},
        },
    }


def _gpt2(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    return {
        "n_positions": read.size("context_length"),
        "n_embd": read.size("embedding_length"),
        "n_layer": read.size("block_count"),
        "n_head": read.size("attention.head_count"),
        "n_inner": read.size("feed_forward_length"),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": read.number("attention.layer_norm_epsilon"),
    }


def _gpt_neox(read: Hyperparameters, factors: Factors) -> dict[str, Any]:
    width, heads = read.size("embedding_length"), read.size("attention.head_count")
    if width % heads:
        raise ModelError(f"{read.file.path}: wanted heads that divide the width {width}, got {heads}")
    rope = read.rope(factors)
    rotated, head_width = read.size("rope.dimension_count", width // heads), width // heads
    share = share_of(rotated, head_width)
    return {
        "hidden_size": width,
        "intermediate_size": read.size("feed_forward_length"),
        "num_hidden_layers": read.size("block_count"),
        "num_attention_heads": heads,
        "max_position_embeddings": read.size("context_length"),
        "layer_norm_eps": read.number("attention.layer_norm_epsilon"),
        "hidden_act": "gelu",
        "use_parallel_residual": read.file.get(f"{read.name}.use_parallel_residual", bool, True),
        "attention_bias": read.has("attn_qkv.bias"),
        "rotary_pct": share,
        "rotary_emb_base": rope["rope_theta"],
        "rope_parameters": {**rope["rope_parameters"], "partial_rotary_factor": share},
    }


_FIELDS: Mapping[str, Callable[[Hyperparameters, Factors], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _gated,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
    "granite": _granite,
    "phi3": _phi3,
    "olmo2": _gated,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "gptneox": _gpt_neox,
}
