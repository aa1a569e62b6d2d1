"""Llama and the families that are written as it is. Knows no weights."""

from dataclasses import replace

from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import LayerFields

SIZES = {
    "vocabulary_size": "vocab_size",
    "context": "max_position_embeddings",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "activation": "hidden_act",
    "tied": "tie_word_embeddings",
}
FIELDS = {
    **SIZES,
    "key_value_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "norm_epsilon": "rms_norm_eps",
}
DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
ATTENTION_BIAS = {"query_key_value_bias": "attention_bias", "attention_output_bias": "attention_bias"}
# Our models are trained without dropout, and others should finetune them without it.
NO_DROPOUT = {"attention_dropout": 0.0}
MODULES = {
    "embedding": ("model.embed_tokens",),
    "blocks.{}.attention_norm": ("model.layers.{}.input_layernorm",),
    "blocks.{}.attention.query_key_value": (
        "model.layers.{}.self_attn.q_proj",
        "model.layers.{}.self_attn.k_proj",
        "model.layers.{}.self_attn.v_proj",
    ),
    "blocks.{}.attention.query_norm": ("model.layers.{}.self_attn.q_norm",),
    "blocks.{}.attention.key_norm": ("model.layers.{}.self_attn.k_norm",),
    "blocks.{}.attention.output": ("model.layers.{}.self_attn.o_proj",),
    "blocks.{}.mlp_norm": ("model.layers.{}.post_attention_layernorm",),
    "blocks.{}.mlp.up": ("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"),
    "blocks.{}.mlp.down": ("model.layers.{}.mlp.down_proj",),
    "norm": ("model.norm",),
    "output": ("lm_head",),
}
_FULL_ATTENTION = {"use_sliding_window": (False,), "layer_types": ("full_attention", None)}

LLAMA = Family(
    models="Llama 2 and 3, TinyLlama, SmolLM2",
    architecture="LlamaForCausalLM",
    classifier="LlamaForSequenceClassification",
    fields={**FIELDS, **ATTENTION_BIAS, "mlp_bias": "mlp_bias"},
    defaults=DEFAULTS,
    fixed={"query_key_norm": None},
    allowed=_FULL_ATTENTION,
    modules=MODULES,
    prefix="model.",
    ignored=("rotary_emb.inv_freq",),
    extra_fields=NO_DROPOUT,
)
MISTRAL = replace(
    LLAMA,
    models="Mistral",
    architecture="MistralForCausalLM",
    classifier="MistralForSequenceClassification",
    fields=FIELDS,
    defaults={**DEFAULTS, "num_key_value_heads": 8, "sliding_window": 4096},
    allowed={"attention_bias": (False,), "mlp_bias": (False,), "layer_types": ("sliding_attention", None)},
    layers=LayerFields(window="sliding_window"),
)
QWEN2 = replace(
    LLAMA,
    models="Qwen2, Qwen2.5",
    architecture="Qwen2ForCausalLM",
    classifier="Qwen2ForSequenceClassification",
    fields=FIELDS,
    defaults={**DEFAULTS, "num_key_value_heads": 32},
    fixed={"query_key_norm": None, "query_key_value_bias": True},
    allowed={**_FULL_ATTENTION, "attention_bias": (True,), "mlp_bias": (False,)},
    ignored=(),
    extra_fields={**NO_DROPOUT, "use_sliding_window": False},
)
QWEN3 = replace(
    QWEN2,
    models="Qwen3; our own",
    architecture="Qwen3ForCausalLM",
    classifier="Qwen3ForSequenceClassification",
    fields={**FIELDS, **ATTENTION_BIAS},
    defaults={**DEFAULTS, "num_key_value_heads": 32, "head_dim": 128},
    fixed={"query_key_norm": "head"},
    allowed={**_FULL_ATTENTION, "mlp_bias": (False,)},
)
