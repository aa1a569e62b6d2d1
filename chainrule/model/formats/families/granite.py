"""Granite: Llama with factors of the embedding, the attention scores, the branches and the logits. Knows no weights."""

from dataclasses import replace

from chainrule.model.formats.families.llama import LLAMA
from chainrule.model.formats.layer_fields import LayerFields

FACTORS = {
    "embedding_factor": "embedding_multiplier",
    "attention_factor": "attention_multiplier",
    "residual_factor": "residual_multiplier",
    "logit_divisor": "logits_scaling",
}
GRANITE = replace(
    LLAMA,
    models="Granite 3 (dense)",
    architecture="GraniteForCausalLM",
    classifier="GraniteForSequenceClassification",
    fields={**LLAMA.fields, **FACTORS},
    defaults={**LLAMA.defaults, **dict.fromkeys(FACTORS.values(), 1.0)},
    allowed={},
    layers=LayerFields(),
)
