"""RoBERTa and XLM-RoBERTa: BERT with positions that count on from the padding's id. Knows no weights."""

from dataclasses import replace

from chainrule.model.formats.families.bert import BERT
from chainrule.model.formats.family import Family

ROBERTA = Family(
    models="RoBERTa, DistilRoBERTa",
    architecture="RobertaForMaskedLM",
    classifier="RobertaForSequenceClassification",
    fields=BERT.fields,
    defaults={**BERT.defaults, "pad_token_id": 1},
    fixed=BERT.fixed,
    allowed={**BERT.allowed, "hidden_act": ("gelu", "gelu_python")},  # its masked head has no other
    modules={
        **{ours: tuple(name.replace("bert.", "roberta.", 1) for name in names) for ours, names in BERT.modules.items()},
        "pooler": ("classifier.dense",),
        "head": ("lm_head",),
        "head.dense": ("lm_head.dense",),
        "head.norm": ("lm_head.layer_norm",),
        "output": ("lm_head.decoder",),
    },
    prefix="roberta.",
    layers=BERT.layers,
    head_name="classifier.out_proj",
    ignored=(
        "embeddings.position_ids",
        "lm_head.decoder.bias",  # lm_head.bias again
        # No class with a head reads it, and it was not pretrained.
        *("pooler.dense.weight", "pooler.dense.bias"),
    ),
    extra_fields=BERT.extra_fields,
    positions_after="pad_token_id",
)
XLM_ROBERTA = replace(
    ROBERTA,
    models="XLM-RoBERTa, multilingual E5",
    architecture="XLMRobertaForMaskedLM",
    classifier="XLMRobertaForSequenceClassification",
)
