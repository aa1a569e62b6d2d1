"""OPT: GPT-2's blocks with ReLU, and positions that have the rows from the third on. Knows no weights."""

from chainrule.errors import ModelError
from chainrule.model.config import Config
from chainrule.model.formats.families.gpt2 import LAYER_NORM, LEARNED_POSITIONS
from chainrule.model.formats.families.llama import NO_DROPOUT, SIZES
from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import Fields, LayerFields


class _Opt(Family):
    """Embeddings have the width of the layers, as in all sizes but 350M."""

    def read(self, fields: Fields) -> Config:
        """A config.json as ours; see `Family.read`."""
        config, width = super().read(fields), fields.get("word_embed_proj_dim")
        if width not in (None, config.width):
            raise ModelError(
                f"config.json: wanted word_embed_proj_dim to be {config.width}, as hidden_size is, got {width!r},"
                " which is not supported"
            )
        return config


OPT = _Opt(
    models="OPT, Galactica",
    architecture="OPTForCausalLM",
    classifier="OPTForSequenceClassification",
    fields={**SIZES, "hidden": "ffn_dim", "activation": "activation_function"},
    defaults={"activation_function": "relu", "tie_word_embeddings": True},
    fixed={**LAYER_NORM, **LEARNED_POSITIONS, "norm_epsilon": 1e-5, "position_offset": 2},
    allowed={
        "do_layer_norm_before": (True,),
        "_remove_final_layer_norm": (False,),
        "enable_bias": (True,),
        "layer_norm_elementwise_affine": (True,),
    },
    modules={
        "embedding": ("model.decoder.embed_tokens",),
        "position_embedding": ("model.decoder.embed_positions",),
        "blocks.{}.attention_norm": ("model.decoder.layers.{}.self_attn_layer_norm",),
        "blocks.{}.attention.query_key_value": (
            "model.decoder.layers.{}.self_attn.q_proj",
            "model.decoder.layers.{}.self_attn.k_proj",
            "model.decoder.layers.{}.self_attn.v_proj",
        ),
        "blocks.{}.attention.output": ("model.decoder.layers.{}.self_attn.out_proj",),
        "blocks.{}.mlp_norm": ("model.decoder.layers.{}.final_layer_norm",),
        "blocks.{}.mlp.up": ("model.decoder.layers.{}.fc1",),
        "blocks.{}.mlp.down": ("model.decoder.layers.{}.fc2",),
        "norm": ("model.decoder.final_layer_norm",),
        "output": ("lm_head",),
    },
    prefix="model.",
    layers=LayerFields(rope=None),
    values={"activation": {"relu": "relu"}},
    extra_fields={**NO_DROPOUT, "dropout": 0.0, "layerdrop": 0.0},
)
