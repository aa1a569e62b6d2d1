"""GPT-NeoX. Knows no weights."""

from chainrule.model.formats.families.gpt2 import LAYER_NORM
from chainrule.model.formats.families.llama import ATTENTION_BIAS, NO_DROPOUT, SIZES
from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import LayerFields, RopeFields

GPT_NEOX = Family(
    models="Pythia, GPT-NeoX",
    architecture="GPTNeoXForCausalLM",
    classifier="GPTNeoXForSequenceClassification",
    fields={
        **SIZES,
        **ATTENTION_BIAS,
        "norm_epsilon": "layer_norm_eps",
        "residual": "use_parallel_residual",
    },
    defaults={
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "rotary_pct": 0.25,
        "use_parallel_residual": True,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    fixed=LAYER_NORM,
    allowed={},
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
    layers=LayerFields(RopeFields("rotary_emb_base", share="rotary_pct")),
    values={"residual": {True: "parallel", False: "pre"}},
    interleaved=True,
    ignored=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
    extra_fields={**NO_DROPOUT, "hidden_dropout": 0.0},
)
