"""Hugging Face's names and config fields, and ours: a table per family. Knows no weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chainrule.model.transformer import Config

Fields = Mapping[str, Any]  # a config.json


@dataclass(frozen=True)
class Family:
    """How one `model_type` writes the Transformer down."""

    architecture: str  # the class that `transformers` loads it with
    classifier: str  # its class with a linear head on the last token
    read: Callable[[Fields], Config]
    write: Callable[[Config], dict[str, Any]]
    modules: Mapping[str, tuple[str, ...]]  # ours -> theirs; several are ours cut by rows; {} is the layer
    prefix: str  # stands before theirs in files of the causal model, not always in those of the bare one
    transposed: bool = False  # matrices inside the blocks lie the other way round


def _refuse(fields: Fields, wanted: Mapping[str, tuple[Any, ...]]) -> None:
    """A field that changes the mathematics and that we do not compute is an error, never ignored."""
    for name, values in wanted.items():
        if name in fields and fields[name] not in values:
            raise ValueError(
                f"config.json: wanted {name} to be {' or '.join(map(repr, values))}, got {fields[name]!r},"
                " which is not supported"
            )


def _read_qwen3(fields: Fields) -> Config:
    rope = fields.get("rope_parameters") or {}
    _refuse(fields, {"hidden_act": ("silu",), "rope_scaling": (None,), "use_sliding_window": (False,)})
    _refuse(rope, {"rope_type": ("default",)})
    return Config(
        vocabulary_size=fields["vocab_size"],
        context=fields["max_position_embeddings"],
        width=fields["hidden_size"],
        layers=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        key_value_heads=fields.get("num_key_value_heads") or fields["num_attention_heads"],
        head_width=fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"],
        hidden=fields["intermediate_size"],
        norm_epsilon=fields.get("rms_norm_eps", 1e-6),
        rope_theta=rope.get("rope_theta") or fields.get("rope_theta") or 10_000.0,
        query_key_value_bias=fields.get("attention_bias", False),
        attention_output_bias=fields.get("attention_bias", False),
        tied=fields.get("tie_word_embeddings", False),
    )


def _write_qwen3(config: Config) -> dict[str, Any]:
    return {
        "vocab_size": config.vocabulary_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        # transformers 5 reads rope_parameters, other readers rope_theta
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "rope_theta": config.rope_theta,
        "attention_bias": config.query_key_value_bias,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": config.tied,
    }


def _read_gpt2(fields: Fields) -> Config:
    _refuse(
        fields,
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
    )
    width, heads = fields["n_embd"], fields["n_head"]
    return Config(
        vocabulary_size=fields["vocab_size"],
        context=fields["n_positions"],
        width=width,
        layers=fields["n_layer"],
        heads=heads,
        key_value_heads=heads,
        head_width=width // heads,
        hidden=fields.get("n_inner") or 4 * width,
        norm="layer",
        norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
        positions="learned",
        activation="gelu_tanh",
        gated=False,
        query_key_norm=False,
        query_key_value_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        tied=fields.get("tie_word_embeddings", True),
    )


def _write_gpt2(config: Config) -> dict[str, Any]:
    return {
        "vocab_size": config.vocabulary_size,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.hidden,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        # our models are trained without dropout, and go on so when others finetune them
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


FAMILIES: Mapping[str, Family] = {
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        classifier="Qwen3ForSequenceClassification",
        read=_read_qwen3,
        write=_write_qwen3,
        prefix="model.",
        modules={
            "embedding": ("embed_tokens",),
            "blocks.{}.attention_norm": ("layers.{}.input_layernorm",),
            "blocks.{}.attention.query_key_value": (
                "layers.{}.self_attn.q_proj",
                "layers.{}.self_attn.k_proj",
                "layers.{}.self_attn.v_proj",
            ),
            "blocks.{}.attention.query_norm": ("layers.{}.self_attn.q_norm",),
            "blocks.{}.attention.key_norm": ("layers.{}.self_attn.k_norm",),
            "blocks.{}.attention.output": ("layers.{}.self_attn.o_proj",),
            "blocks.{}.mlp_norm": ("layers.{}.post_attention_layernorm",),
            "blocks.{}.mlp.up": ("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"),
            "blocks.{}.mlp.down": ("layers.{}.mlp.down_proj",),
            "norm": ("norm",),
            "output": ("lm_head",),
        },
    ),
    "gpt2": Family(
        architecture="GPT2LMHeadModel",
        classifier="GPT2ForSequenceClassification",
        read=_read_gpt2,
        write=_write_gpt2,
        prefix="transformer.",
        transposed=True,
        modules={
            "embedding": ("wte",),
            "position_embedding": ("wpe",),
            "blocks.{}.attention_norm": ("h.{}.ln_1",),
            "blocks.{}.attention.query_key_value": ("h.{}.attn.c_attn",),
            "blocks.{}.attention.output": ("h.{}.attn.c_proj",),
            "blocks.{}.mlp_norm": ("h.{}.ln_2",),
            "blocks.{}.mlp.up": ("h.{}.mlp.c_fc",),
            "blocks.{}.mlp.down": ("h.{}.mlp.c_proj",),
            "norm": ("ln_f",),
            "output": ("lm_head",),
        },
    ),
}


def family_of(fields: Fields) -> str:
    """The `model_type` of a config.json, if it is one of ours."""
    name = fields.get("model_type")
    if name not in FAMILIES:
        raise ValueError(f"config.json: wanted a model_type of {', '.join(FAMILIES)}, got {name!r}")
    return str(name)


@dataclass(frozen=True)
class Place:
    """Where one of our parameters lies in a file: in `names`, each with so many `rows` of it."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    transposed: bool


def places(family: Family, config: Config, parameters: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
    """Our parameters (name -> shape) to their places in the family's files."""
    found = {}
    for name, shape in parameters.items():
        module, kind = name.rsplit(".", 1)
        layer = module.split(".")[1] if module.startswith("blocks.") else ""
        theirs = family.modules[module.replace(f".{layer}.", ".{}.", 1) if layer else module]
        names = tuple(
            ("" if piece == "lm_head" else family.prefix) + f"{piece.format(layer)}.{kind}" for piece in theirs
        )
        heads, groups = config.heads * config.head_width, config.key_value_heads * config.head_width
        rows = {1: (shape[0],), 2: (shape[0] // 2,) * 2, 3: (heads, groups, groups)}[len(theirs)]
        found[name] = Place(names, rows, family.transposed and bool(layer) and len(shape) == 2)
    return found
