"""The fields of a config.json as a GGUF's hyperparameters: what `gguf_fields` reads back. Knows no weights."""

from collections.abc import Mapping
from typing import Any

from chainrule.errors import ModelError
from chainrule.model.formats.gguf_fields import FULL, SLIDING, WINDOWS
from chainrule.model.formats.gguf_rope import SCALING_FIELDS, SCALING_KEY
from chainrule.model.formats.layer_fields import Fields


def hyperparameters(name: str, fields: Fields, context: int) -> dict[str, Any]:
    """The metadata of architecture `name` for a config.json with `fields`: what `config_json` takes back."""
    if name == "gpt2":
        found = {
            "context_length": context,
            "embedding_length": fields["n_embd"],
            "block_count": fields["n_layer"],
            "feed_forward_length": fields["n_inner"] or 4 * fields["n_embd"],
            "attention.head_count": fields["n_head"],
            "attention.head_count_kv": fields["n_head"],
            "attention.layer_norm_epsilon": float(fields["layer_norm_epsilon"]),
        }
    else:
        found = _rotary_hyperparameters(name, fields, context)
    metadata = {f"{name}.{key}": value for key, value in found.items()}
    rope = fields.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        metadata[SCALING_KEY] = [float(rope[field]) for field in SCALING_FIELDS]
    return metadata


def _rotary_hyperparameters(name: str, fields: Fields, context: int) -> dict[str, Any]:
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    head_width = fields.get("head_dim") or width // heads
    parameters: Mapping[str, Any] = fields.get("rope_parameters") or {}
    rope = parameters.get(FULL, parameters)
    share = rope.get("partial_rotary_factor", 1.0)
    neox = name == "gptneox"
    found = {
        "context_length": context,
        "embedding_length": width,
        "block_count": fields["num_hidden_layers"],
        "feed_forward_length": fields["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": fields.get("num_key_value_heads") or heads,
        "rope.dimension_count": int(head_width * share),
        "rope.freq_base": float(rope.get("rope_theta") or fields.get("rope_theta") or 10_000.0),
    }
    if neox:
        found["use_parallel_residual"] = bool(fields["use_parallel_residual"])
        found["attention.layer_norm_epsilon"] = float(fields["layer_norm_eps"])
    else:
        found |= {"attention.key_length": head_width, "attention.value_length": head_width}
        found["attention.layer_norm_rms_epsilon"] = float(fields["rms_norm_eps"])
        found["vocab_size"] = fields["vocab_size"]
    if rope.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if name == "phi3" and rope.get("rope_type") == "longrope":
        found |= {
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.attn_factor": float(rope["attention_factor"]),
        }
    if name == "granite":
        found |= {key: float(fields[field]) for key, field in _GRANITE.items()}
    if name == "gemma2":
        found |= {f"{key}_softcapping": float(fields[f"{key}_softcapping"]) for key in ("attn_logit", "final_logit")}
    if name in ("gemma2", "gemma3") and SLIDING in fields["layer_types"]:
        found |= {
            "attention.sliding_window": fields["sliding_window"],
            WINDOWS: _period(fields["layer_types"]),
            "rope.freq_base_swa": float(parameters.get(SLIDING, rope)["rope_theta"]),
        }
    return found


_GRANITE = {
    "embedding_scale": "embedding_multiplier",
    "attention.scale": "attention_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _period(types: list[str]) -> int:
    """Every so many layers one has no window. ModelError where they are not so regular."""
    full = types.index(FULL) + 1 if FULL in types else len(types) + 1
    if types != [SLIDING if (layer + 1) % full else FULL for layer in range(len(types))]:
        raise ModelError(
            "export: wanted layer_types in which every so many layers one has no window, got others, which llama.cpp"
            " does not have; export --to huggingface"
        )
    return full
