"""Which GGUF tensor is which Hugging Face tensor, and how the two differ in layout: a table per architecture.
Knows names and layouts, not files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

# How a Hugging Face tensor differs from the one in a GGUF:
# "query", "key": llama.cpp rotates neighbouring rows, Hugging Face a head's two halves; llama's rows are permuted.
# "transposed": GPT-2's Conv1D. "interleaved": GPT-NeoX keeps query, key and value of each head together.
# "offset": Gemma's norms multiply by 1 plus the weight; in a GGUF the 1 is added already.
Layout = Literal["same", "query", "key", "transposed", "interleaved", "offset"]


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp and Hugging Face name the modules of one kind of Transformer."""

    model_type: str  # Hugging Face's
    outside: Mapping[str, str]  # modules outside the layers: GGUF -> Hugging Face
    layer: str  # Hugging Face's layer; {} is its number
    inside: Mapping[str, str]  # modules of a layer: after blk.N. -> after `layer`
    layouts: Mapping[str, Layout] = field(default_factory=dict)  # GGUF module -> layout, where it is not "same"

    def huggingface_name(self, name: str) -> str | None:
        """The Hugging Face name of a GGUF tensor; None for one that is no weight there."""
        layer, module, kind = _parts(name)
        theirs = (self.outside if layer is None else self.inside).get(module)
        if theirs is None:
            return None
        return f"{theirs}.{kind}" if layer is None else f"{self.layer.format(layer)}.{theirs}.{kind}"

    def gguf_name(self, name: str) -> str | None:
        """The GGUF name of a Hugging Face tensor; None for one that a GGUF has no name for."""
        module, _, kind = name.rpartition(".")
        match = re.fullmatch(re.escape(self.layer).replace(r"\{\}", r"(\d+)") + r"\.(.+)", module)
        if match:
            found = _inverse(self.inside).get(match[2])
            return found and f"blk.{match[1]}.{found}.{kind}"
        found = _inverse(self.outside).get(module)
        return found and f"{found}.{kind}"

    def layout(self, name: str) -> Layout:
        """Of a GGUF tensor. A Conv1D's bias has one dimension, and nothing to transpose."""
        _, module, kind = _parts(name)
        layout = self.layouts.get(module, "same")
        return "same" if layout == "transposed" and kind == "bias" else layout


def _parts(name: str) -> tuple[str | None, str, str]:
    """The layer's number, the module and weight or bias."""
    module, _, kind = name.rpartition(".")
    match = re.fullmatch(r"blk\.(\d+)\.(.+)", module)
    return (match[1], match[2], kind) if match else (None, module, kind)


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}


def to_huggingface(tensor: Tensor, layout: Layout, heads: int, key_value_heads: int) -> Tensor:
    """A tensor as a GGUF holds it, in Hugging Face's layout."""
    match layout:
        case "query" | "key":
            count = heads if layout == "query" else key_value_heads
            return tensor.unflatten(0, (count, -1, 2)).transpose(1, 2).flatten(0, 2)
        case "transposed":
            return tensor.T
        case "interleaved":
            return tensor.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
        case "offset":
            return tensor - 1
    return tensor


def to_gguf(tensor: Tensor, layout: Layout, heads: int, key_value_heads: int) -> Tensor:
    """The other way round."""
    match layout:
        case "query" | "key":
            count = heads if layout == "query" else key_value_heads
            return tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2)
        case "transposed":
            return tensor.T
        case "interleaved":
            return tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        case "offset":
            return tensor.float() + 1  # bfloat16 would round the sum
    return tensor


_GATED_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_GATED_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTPUT_NORMS = {
    **{name: theirs for name, theirs in _GATED_INSIDE.items() if name not in ("attn_norm", "ffn_norm")},
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GEMMA_NORMS = ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm")


def _gated(model_type: str, **layouts: Layout) -> Architecture:
    return Architecture(model_type, _GATED_OUTSIDE, "model.layers.{}", _GATED_INSIDE, layouts)


def _gemma(model_type: str) -> Architecture:
    norms = {"attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm"}
    layouts: dict[str, Layout] = {"output_norm": "offset", **dict.fromkeys(_GEMMA_NORMS, "offset")}
    return Architecture(model_type, _GATED_OUTSIDE, "model.layers.{}", {**_OUTPUT_NORMS, **norms}, layouts)


# llama.cpp's name -> the architecture. Mistral's models are called llama there, with the same permuted rows.
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _gated("llama", attn_q="query", attn_k="key"),
    "qwen2": _gated("qwen2"),
    "qwen3": _gated("qwen3"),
    "smollm3": _gated("smollm3", attn_q="query", attn_k="key"),
    "granite": _gated("granite", attn_q="query", attn_k="key"),
    "phi3": Architecture(
        "phi3",
        _GATED_OUTSIDE,
        "model.layers.{}",
        {
            "attn_norm": "input_layernorm",
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
    ),
    "olmo2": Architecture("olmo2", _GATED_OUTSIDE, "model.layers.{}", _OUTPUT_NORMS),
    "gemma2": _gemma("gemma2"),
    "gemma3": _gemma("gemma3_text"),
    "gpt2": Architecture(
        "gpt2",
        {
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
            "output": "lm_head",
        },
        "transformer.h.{}",
        {
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), "transposed"),
    ),
    "gptneox": Architecture(
        "gpt_neox",
        {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
        "gpt_neox.layers.{}",
        {
            "attn_norm": "input_layernorm",
            "attn_qkv": "attention.query_key_value",
            "attn_output": "attention.dense",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.dense_h_to_4h",
            "ffn_down": "mlp.dense_4h_to_h",
        },
        {"attn_qkv": "interleaved"},
    ),
}
FACTORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")  # by which rotations are slowed
NOT_WEIGHTS = (*FACTORS, "attn_rot_embd")  # modules of tensors that are computed from the configuration


def is_weight(name: str) -> bool:
    """Whether a GGUF tensor is one of a model's weights."""
    return _parts(name)[1] not in NOT_WEIGHTS
