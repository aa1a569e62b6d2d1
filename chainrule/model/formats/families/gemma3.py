"""Gemma 3's text models: two kinds of layers, four norms a block, gains of 1 + weight. Knows no weights."""

from chainrule.model.formats.families.llama import ATTENTION_BIAS, DEFAULTS, FIELDS, MODULES, NO_DROPOUT
from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import LayerFields, RopeFields

GEMMA3 = Family(
    models="Gemma 3 (text)",
    architecture="Gemma3ForCausalLM",
    classifier="Gemma3TextForSequenceClassification",
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        "activation": "hidden_activation",
        "query_scale_width": "query_pre_attn_scalar",
    },
    defaults={
        **DEFAULTS,
        "hidden_activation": "gelu_pytorch_tanh",
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    fixed={"residual": "sandwich", "norm_offset": 1.0, "scaled_embedding": True, "query_key_norm": "head"},
    allowed={
        "mlp_bias": (False,),
        "final_logit_softcapping": (None,),
        "attn_logit_softcapping": (None,),
        "use_bidirectional_attention": (False, None),
    },
    modules={
        **MODULES,
        "blocks.{}.attention_output_norm": ("model.layers.{}.post_attention_layernorm",),
        "blocks.{}.mlp_norm": ("model.layers.{}.pre_feedforward_layernorm",),
        "blocks.{}.mlp_output_norm": ("model.layers.{}.post_feedforward_layernorm",),
    },
    prefix="model.",
    layers=LayerFields(
        RopeFields(default_theta=1e6),
        window="sliding_window",
        window_rope=RopeFields("rope_local_base_freq"),
        pattern=6,
    ),
    values={"activation": {"gelu_pytorch_tanh": "gelu_tanh"}},
    extra_fields=NO_DROPOUT,
)
