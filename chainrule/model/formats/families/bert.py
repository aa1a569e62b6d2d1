"""BERT. Knows no weights."""

from chainrule.model.formats.families.gpt2 import LAYER_NORM, LEARNED_POSITIONS
from chainrule.model.formats.families.llama import SIZES
from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import LayerFields

BERT = Family(
    models="BERT; our own masked ones",
    architecture="BertForMaskedLM",
    classifier="BertForSequenceClassification",
    fields={**SIZES, "norm_epsilon": "layer_norm_eps", "segments": "type_vocab_size"},
    defaults={
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "tie_word_embeddings": True,
    },
    fixed={
        **LAYER_NORM,
        **LEARNED_POSITIONS,
        "causal": False,
        "residual": "post",
        "masked_head": True,
    },
    allowed={
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
    layers=LayerFields(rope=None),
    head_name="classifier",
    ignored=(
        "embeddings.position_ids",
        "cls.predictions.decoder.bias",  # cls.predictions.bias again
        *("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
    ),
    extra_fields={"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0},
)
