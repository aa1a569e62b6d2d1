"""GPT-Neo: layers with and without a window, attention scores that are not scaled. Knows no weights."""

from dataclasses import dataclass
from typing import Any

from chainrule.errors import ModelError
from chainrule.model.config import Config, LayerKind
from chainrule.model.formats.families.gpt2 import GPT2, LAYER_NORM
from chainrule.model.formats.families.llama import NO_DROPOUT
from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import Fields, LayerFields

_GLOBAL, _LOCAL = "global", "local"


@dataclass(frozen=True)
class _AttentionTypes(LayerFields):
    """`attention_types` lists layers as [[kinds, how often these are repeated], …]."""

    def read(self, fields: Fields, layers: int, head_width: int) -> tuple[LayerKind, ...]:
        """The kinds of layers, for `Config.layer_kinds`. Raises ModelError for others than global and local."""
        types = fields["attention_types"]
        try:
            names = [name for kinds, times in types for name in list(kinds) * min(times, layers + 1)]
        except (TypeError, ValueError):
            names = []
        if len(names) != layers or any(name not in (_GLOBAL, _LOCAL) for name in names):
            raise ModelError(
                f"config.json: wanted attention_types to be {_GLOBAL} or {_LOCAL} for each of {layers} layers,"
                f" got {types!r}"
            )
        return tuple(LayerKind(fields["window_size"] if name == _LOCAL else None) for name in names)

    def write(self, config: Config) -> dict[str, Any]:
        """The fields that `read` takes back."""
        windows = [config.kind_of(layer).window for layer in range(config.layers)]
        size = next((window for window in windows if window is not None), 256)
        names = [_GLOBAL if window is None else _LOCAL for window in windows]
        return {"window_size": size, "attention_types": [[names, 1]]}


GPT_NEO = Family(
    models="GPT-Neo, TinyStories",
    architecture="GPTNeoForCausalLM",
    classifier="GPTNeoForSequenceClassification",
    fields={
        "vocabulary_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "layers": "num_layers",
        "heads": "num_heads",
        "hidden": "intermediate_size",
        "activation": "activation_function",
        "norm_epsilon": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    defaults={
        "intermediate_size": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "window_size": 256,
        "attention_types": [[[_GLOBAL, _LOCAL], 12]],
        "tie_word_embeddings": True,
    },
    fixed={**LAYER_NORM, "learned_positions": True, "attention_output_bias": True, "query_scale_width": 1},
    allowed={},
    modules={
        **GPT2.modules,
        "blocks.{}.attention.query_key_value": (
            "transformer.h.{}.attn.attention.q_proj",
            "transformer.h.{}.attn.attention.k_proj",
            "transformer.h.{}.attn.attention.v_proj",
        ),
        "blocks.{}.attention.output": ("transformer.h.{}.attn.attention.out_proj",),
    },
    prefix="transformer.",
    layers=_AttentionTypes(rope=None, window="window_size"),
    ignored=(".attn.attention.bias", ".attn.attention.masked_bias"),
    extra_fields={**NO_DROPOUT, "resid_dropout": 0.0, "embed_dropout": 0.0, "classifier_dropout": 0.0},
)
