"""Hugging Face's names and config fields, and ours: a table per family. Knows no weights.

A field's default is that of its class in `transformers`.
"""

from collections.abc import Mapping

from chainrule.errors import ModelError
from chainrule.model.formats.family import Family, Fields

_SIZES = {
    "vocabulary_size": "vocab_size",
    "context": "max_position_embeddings",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "activation": "hidden_act",
    "tied": "tie_word_embeddings",
}
_GATED_FIELDS = {
    **_SIZES,
    "key_value_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",
}
_GATED_DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
_FULL_ATTENTION = {"use_sliding_window": (False,), "layer_types": ("full_attention", None)}
_GATED_MODULES = {
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
# Our models are trained without dropout, and go on so when others finetune them.
_NO_DROPOUT = {"attention_dropout": 0.0}
_LAYER_NORM = {"norm": "layer", "gated": False, "query_key_norm": False, "mlp_bias": True}
_ATTENTION_BIAS = {"query_key_value_bias": "attention_bias", "attention_output_bias": "attention_bias"}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        models="Llama 2 and 3, TinyLlama, SmolLM2",
        architecture="LlamaForCausalLM",
        classifier="LlamaForSequenceClassification",
        fields={**_GATED_FIELDS, **_ATTENTION_BIAS, "mlp_bias": "mlp_bias"},
        defaults=_GATED_DEFAULTS,
        fixed={"query_key_norm": False},
        only=_FULL_ATTENTION,
        modules=_GATED_MODULES,
        prefix="model.",
        ignored=("rotary_emb.inv_freq",),
        also=_NO_DROPOUT,
    ),
    "mistral": Family(
        models="Mistral",
        architecture="MistralForCausalLM",
        classifier="MistralForSequenceClassification",
        fields={**_GATED_FIELDS, "window": "sliding_window"},
        defaults={**_GATED_DEFAULTS, "num_key_value_heads": 8, "sliding_window": 4096},
        fixed={"query_key_norm": False},
        only={"attention_bias": (False,), "mlp_bias": (False,), "layer_types": ("sliding_attention", None)},
        modules=_GATED_MODULES,
        prefix="model.",
        ignored=("rotary_emb.inv_freq",),
        also=_NO_DROPOUT,
    ),
    "qwen2": Family(
        models="Qwen2, Qwen2.5",
        architecture="Qwen2ForCausalLM",
        classifier="Qwen2ForSequenceClassification",
        fields=_GATED_FIELDS,
        defaults={**_GATED_DEFAULTS, "num_key_value_heads": 32},
        fixed={"query_key_norm": False, "query_key_value_bias": True},
        only={**_FULL_ATTENTION, "attention_bias": (True,), "mlp_bias": (False,)},
        modules=_GATED_MODULES,
        prefix="model.",
        also={**_NO_DROPOUT, "use_sliding_window": False},
    ),
    "qwen3": Family(
        models="Qwen3; our own",
        architecture="Qwen3ForCausalLM",
        classifier="Qwen3ForSequenceClassification",
        fields={**_GATED_FIELDS, **_ATTENTION_BIAS},
        defaults={**_GATED_DEFAULTS, "num_key_value_heads": 32, "head_dim": 128},
        fixed={"query_key_norm": True},
        only={**_FULL_ATTENTION, "mlp_bias": (False,)},
        modules=_GATED_MODULES,
        prefix="model.",
        also={**_NO_DROPOUT, "use_sliding_window": False},
    ),
    "gpt2": Family(
        models="GPT-2, DistilGPT2; our own on request",
        architecture="GPT2LMHeadModel",
        classifier="GPT2ForSequenceClassification",
        fields={
            "vocabulary_size": "vocab_size",
            "context": "n_positions",
            "width": "n_embd",
            "layers": "n_layer",
            "heads": "n_head",
            "hidden": "n_inner",
            "activation": "activation_function",
            "norm_epsilon": "layer_norm_epsilon",
            "tied": "tie_word_embeddings",
        },
        defaults={
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        },
        fixed={
            **_LAYER_NORM,
            "positions": "learned",
            "query_key_value_bias": True,
            "attention_output_bias": True,
        },
        only={
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        modules={
            "embedding": ("transformer.wte",),
            "position_embedding": ("transformer.wpe",),
            "blocks.{}.attention_norm": ("transformer.h.{}.ln_1",),
            "blocks.{}.attention.query_key_value": ("transformer.h.{}.attn.c_attn",),
            "blocks.{}.attention.output": ("transformer.h.{}.attn.c_proj",),
            "blocks.{}.mlp_norm": ("transformer.h.{}.ln_2",),
            "blocks.{}.mlp.up": ("transformer.h.{}.mlp.c_fc",),
            "blocks.{}.mlp.down": ("transformer.h.{}.mlp.c_proj",),
            "norm": ("transformer.ln_f",),
            "output": ("lm_head",),
        },
        prefix="transformer.",
        transposed=True,
        ignored=(".attn.bias", ".attn.masked_bias"),
        also={"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    ),
    "gpt_neox": Family(
        models="Pythia, GPT-NeoX",
        architecture="GPTNeoXForCausalLM",
        classifier="GPTNeoXForSequenceClassification",
        fields={
            **_SIZES,
            **_ATTENTION_BIAS,
            "norm_epsilon": "layer_norm_eps",
            "rope_theta": "rotary_emb_base",
            "rotary_width": "rotary_pct",
            "parallel": "use_parallel_residual",
        },
        defaults={
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.25,
            "use_parallel_residual": True,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
        fixed=_LAYER_NORM,
        only={},
        modules={
            "embedding": ("gpt_neox.embed_in",),
            "blocks.{}.attention_norm": ("gpt_neox.layers.{}.input_layernorm",),
            "blocks.{}.attention.query_key_value": ("gpt_neox.layers.{}.attention.query_key_value",),
            "blocks.{}.attention.output": ("gpt_neox.layers.{}.attention.dense",),
            "blocks.{}.mlp_norm": ("gpt_neox.layers.{}.post_attention_layernorm",),
            "blocks.{}.mlp.up": ("gpt_neox.layers.{}.mlp.dense_h_to_4h",),
            "blocks.{}.mlp.down": ("gpt_neox.layers.{}.mlp.dense_4h_to_h",),
            "norm": ("gpt_neox.final_layer_norm",),
            "output": ("embed_out",),
        },
        prefix="gpt_neox.",
        interleaved=True,
        ignored=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
        also={**_NO_DROPOUT, "hidden_dropout": 0.0},
    ),
    "bert": Family(
        models="BERT; our own masked ones",
        architecture="BertForMaskedLM",
        classifier="BertForSequenceClassification",
        fields={**_SIZES, "norm_epsilon": "layer_norm_eps", "segments": "type_vocab_size"},
        defaults={
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "type_vocab_size": 2,
            "tie_word_embeddings": True,
        },
        fixed={
            **_LAYER_NORM,
            "positions": "learned",
            "query_key_value_bias": True,
            "attention_output_bias": True,
            "causal": False,
            "post_norm": True,
            "masked_head": True,
        },
        only={
            "position_embedding_type": ("absolute",),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "tie_word_embeddings": (True,),
        },
        modules={
            "embedding": ("bert.embeddings.word_embeddings",),
            "position_embedding": ("bert.embeddings.position_embeddings",),
            "segment_embedding": ("bert.embeddings.token_type_embeddings",),
            "input_norm": ("bert.embeddings.LayerNorm",),
            "blocks.{}.attention.query_key_value": (
                "bert.encoder.layer.{}.attention.self.query",
                "bert.encoder.layer.{}.attention.self.key",
                "bert.encoder.layer.{}.attention.self.value",
            ),
            "blocks.{}.attention.output": ("bert.encoder.layer.{}.attention.output.dense",),
            "blocks.{}.attention_norm": ("bert.encoder.layer.{}.attention.output.LayerNorm",),
            "blocks.{}.mlp.up": ("bert.encoder.layer.{}.intermediate.dense",),
            "blocks.{}.mlp.down": ("bert.encoder.layer.{}.output.dense",),
            "blocks.{}.mlp_norm": ("bert.encoder.layer.{}.output.LayerNorm",),
            "pooler": ("bert.pooler.dense",),
            "head": ("cls.predictions",),
            "head.dense": ("cls.predictions.transform.dense",),
            "head.norm": ("cls.predictions.transform.LayerNorm",),
            "output": ("cls.predictions.decoder",),
        },
        prefix="bert.",
        score="classifier",
        ignored=(
            "embeddings.position_ids",
            "cls.predictions.decoder.bias",  # cls.predictions.bias again
            *("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
        ),
        also={"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0},
    ),
}


def family_of(fields: Fields) -> str:
    """The `model_type` of a config.json, if it is one of ours."""
    name = fields.get("model_type")
    if name not in FAMILIES:
        raise ModelError(f"config.json: wanted a model_type of {', '.join(FAMILIES)}, got {name!r}")
    return str(name)
