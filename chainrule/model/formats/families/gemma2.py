"""Gemma 2: as Gemma 3, with one rotation, caps of scores and logits, no norms of queries and keys. Knows no weights."""

from dataclasses import replace

from chainrule.model.formats.families.gemma3 import GEMMA3
from chainrule.model.formats.layer_fields import LayerFields

GEMMA2 = replace(
    GEMMA3,
    models="Gemma 2",
    architecture="Gemma2ForCausalLM",
    classifier="Gemma2ForSequenceClassification",
    fields={**GEMMA3.fields, "attention_cap": "attn_logit_softcapping", "logit_cap": "final_logit_softcapping"},
    defaults={**GEMMA3.defaults, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    fixed={**GEMMA3.fixed, "query_key_norm": None},
    allowed={"mlp_bias": (False,), "use_bidirectional_attention": (False, None)},
    layers=LayerFields(window="sliding_window", shared_rope=True, pattern=2),
)
