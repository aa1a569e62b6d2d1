"""ModernBERT: an encoder with rotary positions, gated MLPs and windows on most layers. Knows no weights."""

from dataclasses import dataclass
from typing import Any

from chainrule.model.config import Config, LayerKind
from chainrule.model.formats.families.llama import ATTENTION_BIAS, NO_DROPOUT, SIZES
from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import Fields, LayerFields, RopeFields

_SIZE = "local_attention"


@dataclass(frozen=True)
class _Windows(LayerFields):
    """`local_attention` counts the positions at both sides; the first of every three layers has no window."""

    def read(self, fields: Fields, layers: int, head_width: int) -> tuple[LayerKind, ...]:
        """The kinds of layers, for `Config.layer_kinds`; errors as `LayerFields.read`."""
        size, types, every = fields[_SIZE], fields.get("layer_types"), fields.get("global_attn_every_n_layers", 3)
        if types is None and isinstance(every, int) and every > 0:
            types = ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]
        window = size // 2 * 2 + 1 if isinstance(size, int) else size
        return super().read({**fields, _SIZE: window, "layer_types": types or []}, layers, head_width)

    def write(self, config: Config) -> dict[str, Any]:
        """The fields that `read` takes back."""
        fields = super().write(config)
        fields.pop("rope_scaling", None)  # it would be that of both kinds
        return {**fields, _SIZE: 128 if fields[_SIZE] is None else fields[_SIZE] - 1}


MODERNBERT = Family(
    models="ModernBERT",
    architecture="ModernBertForMaskedLM",
    classifier="ModernBertForSequenceClassification",
    fields={
        **SIZES,
        **ATTENTION_BIAS,
        "activation": "hidden_activation",
        "norm_epsilon": "norm_eps",
        "norm_bias": "norm_bias",
        "mlp_bias": "mlp_bias",
        "head_bias": "classifier_bias",
        "summary": "classifier_pooling",
    },
    defaults={
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "classifier_bias": False,
        "classifier_pooling": "cls",
        "local_attention": 128,
        "tie_word_embeddings": True,
    },
    fixed={
        "norm": "layer",
        "input_norm": True,
        "first_norm": False,
        "query_key_norm": None,
        "causal": False,
        "masked_head": True,
        "pooler_like_head": True,
    },
    allowed={
        "hidden_activation": ("gelu", "gelu_python"),
        "classifier_activation": ("gelu", "gelu_python"),
        "decoder_bias": (True,),
        "rope_scaling": (None,),
        "tie_word_embeddings": (True,),
    },
    modules={
        "embedding": ("model.embeddings.tok_embeddings",),
        "input_norm": ("model.embeddings.norm",),
        "blocks.{}.attention_norm": ("model.layers.{}.attn_norm",),
        "blocks.{}.attention.query_key_value": ("model.layers.{}.attn.Wqkv",),
        "blocks.{}.attention.output": ("model.layers.{}.attn.Wo",),
        "blocks.{}.mlp_norm": ("model.layers.{}.mlp_norm",),
        "blocks.{}.mlp.up": ("model.layers.{}.mlp.Wi",),
        "blocks.{}.mlp.down": ("model.layers.{}.mlp.Wo",),
        "norm": ("model.final_norm",),
        "pooler.dense": ("head.dense",),
        "pooler.norm": ("head.norm",),
        "head": ("decoder",),
        "head.dense": ("head.dense",),
        "head.norm": ("head.norm",),
        "output": ("decoder",),
    },
    prefix="model.",
    layers=_Windows(
        RopeFields("global_rope_theta", default_theta=160_000.0),
        window=_SIZE,
        window_rope=RopeFields("local_rope_theta"),
    ),
    values={"summary": {"cls": "first", "mean": "mean"}},
    head_name="classifier",
    extra_fields={**NO_DROPOUT, "embedding_dropout": 0.0, "mlp_dropout": 0.0, "classifier_dropout": 0.0},
)
