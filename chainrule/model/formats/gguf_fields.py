"""A GGUF's hyperparameters as the fields of a config.json, and back. Knows no weights but the scaling of rotary
positions, which a GGUF keeps in a tensor."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import ModelError
from chainrule.model.formats.gguf_layout import ARCHITECTURES
from chainrule.storage.gguf import GGUFFile

Fields = Mapping[str, Any]  # a config.json
_NUMBER = (int, float)
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
_ROPE_TYPES = ("none", "linear")


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


def config_json(file: GGUFFile, frequency_factors: NDArray[np.float32] | None) -> dict[str, Any]:
    """The config.json that a GGUF's metadata and the names of its tensors amount to.

    `frequency_factors`: the tensor rope_freqs, by which each rotation is slowed, where there is one. Raises ModelError
    for a value of a wrong kind, one that is missing, and one that changes the mathematics and is not supported.
    """
    name = architecture_of(file)
    for key, values in _NEUTRAL.items():
        value = file.metadata.get(f"{name}.{key}", values[0])
        if value not in values:
            raise ModelError(f"{file.path}: wanted no {name}.{key}, got {value!r}, which is not supported")
    read = _Read(file, name)
    shared = {
        "architectures": [_CLASSES[name]],
        "model_type": ARCHITECTURES[name].model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **_special_ids(file),
    }
    return {**shared, **_FIELDS[name](read, frequency_factors)}


_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gptneox": "GPTNeoXForCausalLM",
}


def _special_ids(file: GGUFFile) -> dict[str, int]:
    """What a GGUF says of bos, eos and padding, as config.json names them."""
    keys = {"bos": "bos", "eos": "eos", "pad": "padding"}
    found = {ours: file.get(f"tokenizer.ggml.{theirs}_token_id", int) for ours, theirs in keys.items()}
    return {f"{ours}_token_id": id for ours, id in found.items() if id is not None}


class _Read:
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
        return _shortest(value)

    def has(self, tensor: str) -> bool:
        return f"blk.0.{tensor}" in self.file.tensors

    def rope(self, factors: NDArray[np.float32] | None, default: float = 10_000.0) -> dict[str, Any]:
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
        if factors is not None:
            parameters |= llama3_scaling(self.file, factors, theta)
        elif kind == "linear" and factor not in (0, 1):
            parameters |= {"rope_type": "linear", "factor": factor}
        return {"rope_theta": theta, "rope_parameters": parameters}


def _shortest(value: float) -> float:
    """A float32 as the shortest decimal that is read back as it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _gated(read: _Read, factors: NDArray[np.float32] | None) -> dict[str, Any]:
    """Llama and its like."""
    width, heads = read.size("embedding_length"), read.size("attention.head_count")
    head_width = read.size("attention.key_length", width // heads)
    if read.size("attention.value_length", head_width) != head_width:
        raise ModelError(f"{read.file.path}: wanted keys and values of one width, which the metadata gives two")
    rotated = read.size("rope.dimension_count", head_width)
    if rotated != head_width:
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


def _llama(read: _Read, factors: NDArray[np.float32] | None) -> dict[str, Any]:
    return {
        **_gated(read, factors),
        "attention_bias": read.has("attn_q.bias"),
        "mlp_bias": read.has("ffn_up.bias"),
    }


def _qwen3(read: _Read, factors: NDArray[np.float32] | None) -> dict[str, Any]:
    return {**_gated(read, factors), "attention_bias": read.has("attn_q.bias")}


_GEMMA_WINDOWS = 6  # every sixth layer has no window


def _gemma3(read: _Read, factors: NDArray[np.float32] | None) -> dict[str, Any]:
    fields = _gated(read, factors)
    pattern = read.size("attention.sliding_window_pattern", _GEMMA_WINDOWS)
    theta = read.number("rope.freq_base", 1e6)
    kinds = [
        "full_attention" if layer % pattern == pattern - 1 else "sliding_attention"
        for layer in range(fields["num_hidden_layers"])
    ]
    local = {"rope_type": "default", "rope_theta": read.number("rope.freq_base_swa", 10_000.0)}
    return {
        **{name: value for name, value in fields.items() if not name.startswith("rope_")},
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": fields["head_dim"],
        "sliding_window": read.size("attention.sliding_window"),
        "layer_types": kinds,
        "attention_bias": False,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "rope_theta": theta,
        "rope_local_base_freq": local["rope_theta"],
        "rope_parameters": {
            "full_attention": {**fields["rope_parameters"], "rope_theta": theta},
            "sliding_attention": local,
        },
    }


def _gpt2(read: _Read, factors: NDArray[np.float32] | None) -> dict[str, Any]:
    return {
        "n_positions": read.size("context_length"),
        "n_embd": read.size("embedding_length"),
        "n_layer": read.size("block_count"),
        "n_head": read.size("attention.head_count"),
        "n_inner": read.size("feed_forward_length"),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": read.number("attention.layer_norm_epsilon"),
    }


def _gpt_neox(read: _Read, factors: NDArray[np.float32] | None) -> dict[str, Any]:
    width, heads = read.size("embedding_length"), read.size("attention.head_count")
    rope = read.rope(factors)
    rotated, head_width = read.size("rope.dimension_count", width // heads), width // heads
    share = rotated / head_width
    share = share if int(head_width * share) == rotated else math.nextafter(share, 1)
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


_FIELDS: Mapping[str, Callable[[_Read, NDArray[np.float32] | None], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _gated,
    "qwen3": _qwen3,
    "olmo2": _gated,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "gptneox": _gpt_neox,
}


# Llama 3's scaling: a GGUF has the factors that come of it, config.json the numbers that they are made of. We write
# these too, under a key of our own: from a few factors alone they cannot always be told.
_SCALING_KEY = "chainrule.rope.scaling"
_SCALING_FIELDS = ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")


def frequency_factors(width: int, theta: float, scaling: Mapping[str, Any]) -> NDArray[np.float32]:
    """(K/2,): by how much each rotation is slowed. `scaling` has the names of a config.json's rope_parameters."""
    plain = theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    low, high, factor = (float(scaling[name]) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - kept) / factor + kept), np.float32)


def llama3_scaling(file: GGUFFile, factors: NDArray[np.float32], theta: float) -> dict[str, Any]:
    """The rope_parameters of which `factors` are made. ModelError where none of Llama 3's kind gives them.

    Between unchanged and slowed by the whole factor, 1 / factors rises linearly with the turns that a rotation makes
    in the original context: the line gives the other three numbers, of which one is free; `low_freq_factor` is 1.
    """
    width, factor = 2 * len(factors), _shortest(factors.max())
    told = file.get(_SCALING_KEY, list)
    plain = theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    candidates = [(8192, 1.0, 4.0)]
    if told is not None and [type(each) for each in told] == [float] * 3:
        candidates.insert(0, (round(told[0]), _shortest(told[1]), _shortest(told[2])))
    between = (factors > 1) & (factors < factors.max())
    if factor > 1 and between.sum() >= 2:
        kept = (1 / factors[between].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
        slope, start = np.polyfit(plain[between], kept, 1)
        if start < 0 < slope:
            span = -1 / start  # high - low, for low = 1
            candidates.append((round(slope * span * 2 * math.pi), 1.0, round(1 + span, 3)))
    for original, low, high in candidates:
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "original_max_position_embeddings": original,
            "low_freq_factor": low,
            "high_freq_factor": high,
        }
        if np.allclose(frequency_factors(width, theta, scaling), factors, rtol=1e-4):
            return scaling
    raise ModelError(
        f"{file.path}: wanted a tensor rope_freqs like that of Llama 3's models, got other numbers, which are not"
        " supported"
    )


def hyperparameters(name: str, fields: Fields, context: int) -> dict[str, Any]:
    """The metadata of architecture `name` for a config.json with `fields`: what `config_json` takes back."""
    if name == "gpt2":
        found = {
            "context_length": context,
            "embedding_length": fields["n_embd"],
            "block_count": fields["n_layer"],
            "feed_forward_length": fields["n_inner"] or 4 * fields["n_embd"],
            "attention.head_count": fields["n_head"],
            "attention.head_count_kv": fields["n_head"],
            "attention.layer_norm_epsilon": float(fields["layer_norm_epsilon"]),
        }
    else:
        found = _rotary_hyperparameters(name, fields, context)
    metadata = {f"{name}.{key}": value for key, value in found.items()}
    rope = fields.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        metadata[_SCALING_KEY] = [float(rope[field]) for field in _SCALING_FIELDS]
    return metadata


def _rotary_hyperparameters(name: str, fields: Fields, context: int) -> dict[str, Any]:
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    head_width = fields.get("head_dim") or width // heads
    rope = fields.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", 1.0)
    neox = name == "gptneox"
    found = {
        "context_length": context,
        "embedding_length": width,
        "block_count": fields["num_hidden_layers"],
        "feed_forward_length": fields["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": fields.get("num_key_value_heads") or heads,
        "rope.dimension_count": int(head_width * share),
        "rope.freq_base": float(rope.get("rope_theta") or fields.get("rope_theta") or 10_000.0),
    }
    if neox:
        found["use_parallel_residual"] = bool(fields["use_parallel_residual"])
        found["attention.layer_norm_epsilon"] = float(fields["layer_norm_eps"])
    else:
        found |= {"attention.key_length": head_width, "attention.value_length": head_width}
        found["attention.layer_norm_rms_epsilon"] = float(fields["rms_norm_eps"])
        found["vocab_size"] = fields["vocab_size"]
    if rope.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    return found
