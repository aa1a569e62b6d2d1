"""GPT-2. Knows no weights."""

from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import LayerFields

LAYER_NORM = {"norm": "layer", "gated": False, "query_key_norm": None, "mlp_bias": True}
LEARNED_POSITIONS = {"learned_positions": True, "query_key_value_bias": True, "attention_output_bias": True}

GPT2 = Family(
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
    fixed={**LAYER_NORM, **LEARNED_POSITIONS},
    allowed={
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
    layers=LayerFields(rope=None),
    transposed=True,
    ignored=(".attn.bias", ".attn.masked_bias"),
    extra_fields={"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
)
