"""OLMo 2: norms after each branch, and of all queries and keys together. Knows no weights."""

from chainrule.model.formats.families.llama import ATTENTION_BIAS, DEFAULTS, FIELDS, MODULES, NO_DROPOUT
from chainrule.model.formats.family import Family

OLMO2 = Family(
    models="OLMo 2",
    architecture="Olmo2ForCausalLM",
    classifier="Olmo2ForSequenceClassification",
    fields={**FIELDS, **ATTENTION_BIAS},
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5},
    fixed={"residual": "reordered", "query_key_norm": "width"},
    allowed={"mlp_bias": (False,), "layer_types": ("full_attention", None)},
    modules={
        **MODULES,
        "blocks.{}.attention_norm": ("model.layers.{}.post_attention_layernorm",),
        "blocks.{}.mlp_norm": ("model.layers.{}.post_feedforward_layernorm",),
    },
    prefix="model.",
    extra_fields=NO_DROPOUT,
)
