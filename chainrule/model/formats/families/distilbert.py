"""DistilBERT: BERT without segments, with names of its own. Knows no weights."""

from chainrule.model.formats.families.bert import BERT
from chainrule.model.formats.family import Family

DISTILBERT = Family(
    models="DistilBERT",
    architecture="DistilBertForMaskedLM",
    classifier="DistilBertForSequenceClassification",
    fields={
        "vocabulary_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "hidden": "hidden_dim",
        "activation": "activation",
        "tied": "tie_word_embeddings",
    },
    defaults={"activation": "gelu", "tie_word_embeddings": True},
    fixed={**BERT.fixed, "norm_epsilon": 1e-12, "pooler_activation": "relu"},
    allowed={"tie_word_embeddings": (True,)},
    modules={
        "embedding": ("distilbert.embeddings.word_embeddings",),
        "position_embedding": ("distilbert.embeddings.position_embeddings",),
        "input_norm": ("distilbert.embeddings.LayerNorm",),
        "blocks.{}.attention.query_key_value": (
            "distilbert.transformer.layer.{}.attention.q_lin",
            "distilbert.transformer.layer.{}.attention.k_lin",
            "distilbert.transformer.layer.{}.attention.v_lin",
        ),
        "blocks.{}.attention.output": ("distilbert.transformer.layer.{}.attention.out_lin",),
        "blocks.{}.attention_norm": ("distilbert.transformer.layer.{}.sa_layer_norm",),
        "blocks.{}.mlp.up": ("distilbert.transformer.layer.{}.ffn.lin1",),
        "blocks.{}.mlp.down": ("distilbert.transformer.layer.{}.ffn.lin2",),
        "blocks.{}.mlp_norm": ("distilbert.transformer.layer.{}.output_layer_norm",),
        "pooler": ("pre_classifier",),
        "head": ("vocab_projector",),
        "head.dense": ("vocab_transform",),
        "head.norm": ("vocab_layer_norm",),
        "output": ("vocab_projector",),
    },
    prefix="distilbert.",
    layers=BERT.layers,
    head_name="classifier",
    ignored=("embeddings.position_ids",),
    extra_fields={"attention_dropout": 0.0, "dropout": 0.0, "seq_classif_dropout": 0.0},
)
