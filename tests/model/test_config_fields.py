"""A config.json that we do not compute is refused by the field's name; what we write is what we read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model
from transformers import AutoConfig

from chainrule.model.config import LayerKind
from chainrule.model.formats.checkpoint import load_model, save_config
from chainrule.model.formats.families import FAMILIES, family_of
from chainrule.model.formats.layer_fields import share_of
from chainrule.model.rotary import Rope, RopeScaling

SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def small(family: str) -> dict[str, Any]:
    if family == "gpt_neo":  # the layers that its default attention_types describe
        return AutoConfig.for_model(family, **{**SMALL, "num_hidden_layers": 24}).to_dict()
    return AutoConfig.for_model(family, **SMALL).to_dict()


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("llama", {"hidden_act": "relu"}, "wanted hidden_act to be 'silu' or .*, got 'relu', which is not supported"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "wanted a rope_type of .*, got 'yarn'"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "wanted a rope_type of .*, got 'dynamic'"),
        ("llama", {"rope_parameters": {"full_attention": {}}}, "wanted no full_attention with a rope_type of default"),
        ("llama", {"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "wanted no factor with a rope_type"),
        ("llama", {"rope_parameters": LLAMA3}, "wanted the field 'original_max_position_embeddings', which is missing"),
        ("llama", {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4}, "wanted one rope theta, got rope_theta"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "wanted partial_rotary_factor to be 1.0, got"),
        ("llama", {"rope_parameters": ["yarn"]}, "wanted rope_parameters to be an object, got"),
        ("llama", {"rope_parameters": {"rope_theta": "1e4"}}, "wanted numbers above 0 for rotary positions, got '1e4'"),
        ("llama", {"rms_norm_eps": "1e-6"}, "wanted norm_epsilon to be a number above 0, got '1e-6'"),
        ("llama", {"quantization_config": {"bits": 4}}, "wanted quantization_config to be None, got"),
        ("llama", {"hidden_size": "wide"}, "wanted hidden_size to be a whole number of at least 1, got 'wide'"),
        ("llama", {"num_attention_heads": 0}, "wanted num_attention_heads to be a whole number of at least 1, got 0"),
        ("llama", {"intermediate_size": -4}, "wanted intermediate_size to be a whole number of at least 1, got -4"),
        ("mistral", {"layer_types": ["sliding_attention", "full_attention"]}, "wanted layer_types .*'full_attention'"),
        ("mistral", {"attention_bias": True}, "wanted attention_bias to be False, got True"),
        ("mistral", {"sliding_window": 0}, "wanted window of at least 1, got 0"),
        ("qwen2", {"use_sliding_window": True}, "wanted use_sliding_window to be False, got True"),
        (
            "qwen2",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "wanted layer_types .*'sliding_attention'",
        ),
        ("qwen3", {"mlp_bias": True}, "wanted mlp_bias to be False, got True"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "wanted scale_attn_by_inverse_layer_idx to be False"),
        ("gpt2", {"activation_function": "relu"}, "wanted activation_function to be .*, got 'relu'"),
        ("gpt_neox", {"hidden_act": "quick_gelu"}, "wanted hidden_act to be .*, got 'quick_gelu'"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, "wanted attention_types to be .* for each of 24 layers"),
        ("gpt_neo", {"attention_types": [[["global", "sparse"], 12]]}, "wanted attention_types to be global or local"),
        ("opt", {"word_embed_proj_dim": 16}, "wanted word_embed_proj_dim to be 32, as hidden_size is, got 16"),
        ("opt", {"do_layer_norm_before": False}, "wanted do_layer_norm_before to be True, got False"),
        ("opt", {"enable_bias": False}, "wanted enable_bias to be True, got False"),
        ("gpt_neo", {"attention_types": 12}, "wanted attention_types to be .*, got 12"),
        ("gpt_neo", {"window_size": 0}, "wanted window of at least 1, got 0"),
        ("smollm3", {"no_rope_layers": [1]}, "wanted no_rope_layers to be 0 or 1 for each of 2 layers"),
        ("smollm3", {"no_rope_layers": [1, "x"]}, "wanted no_rope_layers to be 0 or 1 for each of 2 layers"),
        ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 0}, "no_rope_layer_interval of at least 1"),
        ("smollm3", {"use_sliding_window": True}, "wanted use_sliding_window to be False, got True"),
        ("granite", {"logits_scaling": 0}, "wanted logit_divisor to be a number above 0, got 0"),
        ("granite", {"attention_multiplier": "x"}, "wanted attention_factor to be a number above 0, got 'x'"),
        ("phi3", {"rope_parameters": {**LONGROPE, "short_factor": [1]}}, "wanted short_factor to be 4 numbers above 0"),
        ("phi3", {"rope_parameters": {**LONGROPE, "long_factor": [1, 1, 1, 0]}}, "wanted long_factor to be 4 numbers"),
        ("phi3", {"rope_parameters": {"rope_type": "longrope"}}, "wanted the field 'short_factor', which is missing"),
        (
            "phi3",
            {"rope_parameters": LONGROPE, "original_max_position_embeddings": "4"},
            "wanted original_max_position",
        ),
        ("phi3", {"rope_parameters": {"rope_type": "dynamic"}}, "wanted a rope_type of .*, longrope, got 'dynamic'"),
        ("olmo2", {"layer_types": ["sliding_attention"] * 2}, "wanted layer_types to be .*, got 'sliding_attention'"),
        ("gemma2", {"final_logit_softcapping": 0}, "wanted logit_cap to be a number above 0, got 0"),
        ("gemma2", {"attn_logit_softcapping": "5"}, "wanted attention_cap to be a number above 0, got '5'"),
        ("gemma2", {"layer_types": ["full_attention"]}, "wanted layer_types to be .* for each of 2 layers, got"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "wanted final_logit_softcapping to be None, got 30.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "wanted use_bidirectional_attention to be False"),
        ("gemma3_text", {"layer_types": ["full_attention"]}, "wanted layer_types to be .* for each of 2 layers, got"),
        ("gemma3_text", {"layer_types": [{}, []]}, "wanted layer_types to be full_attention or"),
        ("gemma3_text", {"query_pre_attn_scalar": -1}, "wanted query_scale_width to be a number above 0, got -1"),
        ("gemma3_text", {"layer_types": ["full_attention", "linear"]}, "wanted layer_types to be full_attention or"),
        ("gemma3_text", {"sliding_window": None}, "wanted sliding_window to be a number"),
        ("gemma3_text", {"layer_types": None, "sliding_window_pattern": "6"}, "wanted sliding_window_pattern of at"),
        ("gemma3_text", {"rope_parameters": ["default"]}, "wanted rope_parameters to be an object, got"),
        ("gemma3_text", {"rope_parameters": {"rope_type": "yarn"}}, "wanted rope_parameters to have full_attention"),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "wanted a rope_type of .*, got 'yarn'",
        ),
        ("bert", {"position_embedding_type": "relative_key"}, "wanted position_embedding_type to be 'absolute', got"),
        ("bert", {"is_decoder": True}, "wanted is_decoder to be False, got True"),
        ("bert", {"tie_word_embeddings": False}, "wanted tie_word_embeddings to be True, got False"),
        ("roberta", {"pad_token_id": None}, "wanted pad_token_id to leave positions of 512, got None"),
        ("roberta", {"pad_token_id": 511}, "wanted pad_token_id to leave positions of 512, got 511"),
        ("roberta", {"max_position_embeddings": "5"}, "wanted pad_token_id to leave positions of '5', got 1"),
        ("modernbert", {"classifier_pooling": "max"}, "wanted classifier_pooling to be 'cls' or 'mean', got 'max'"),
        ("modernbert", {"classifier_activation": "relu"}, "wanted classifier_activation to be 'gelu' or"),
        ("modernbert", {"decoder_bias": False}, "wanted decoder_bias to be True, got False"),
        ("modernbert", {"local_attention": None}, "wanted local_attention to be a number, as some layers have"),
        (
            "modernbert",
            {"layer_types": None, "global_attn_every_n_layers": 0},
            "wanted layer_types to be .*, got \\[\\]",
        ),
        ("xlm-roberta", {"hidden_act": "silu"}, "wanted hidden_act to be 'gelu' or 'gelu_python', got 'silu'"),
    ],
)
def test_a_field_that_changes_the_mathematics_is_refused_by_name(
    family: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        FAMILIES[family].read({**small(family), **changed})
    assert "\n" not in str(error.value)


def test_another_model_type_is_named_with_ours(tmp_path: Path) -> None:
    for fields, named in (({"model_type": "mamba"}, "'mamba'"), ({}, "None")):
        (tmp_path / "config.json").write_text(json.dumps(fields))
        message = f"^{tmp_path}/config.json: wanted a model_type of {', '.join(FAMILIES)}, got {named}$"
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("stablelm", "; the nearest is smollm3, which lacks layer_norm_eps$"),
        ("qwen3_moe", "; the nearest is qwen3, which lacks .*num_experts_per_tok and 2 more$"),
        ("cohere", "; the nearest is .*, which lacks .*logit_scale"),
        ("gemma", "; the nearest is gemma2, which has all fields of its config.json, not what else is new$"),
        ("electra", "; the nearest is .*, which lacks embedding_size"),
        ("mamba", "got 'mamba'$"),
        ("t5", "got 't5'$"),
    ],
)
def test_another_model_type_is_told_the_nearest_family_and_what_that_lacks(model_type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        family_of(AutoConfig.for_model(model_type).to_dict())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_we_write_is_what_we_read_here_and_in_transformers(family: str, tmp_path: Path) -> None:
    model = random_model(family)
    save_config(model, family, tmp_path, bos_id=0)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert family_of(fields) == family
    assert FAMILIES[family].read(fields) == model.config
    theirs = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert FAMILIES[family].read(theirs) == model.config


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}},
            {"rope_parameters": {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 64}},
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        ),
        ({"rope_theta": 1e6, "rope_scaling": None}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ],
)
def test_rotary_positions_are_read_as_old_configs_and_as_new_ones_tell_them(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    fields = {name: value for name, value in small("llama").items() if not name.startswith("rope")}
    read = FAMILIES["llama"].read({**fields, **old})
    assert read == FAMILIES["llama"].read({**fields, **new})
    assert read == FAMILIES["llama"].read(AutoConfig.for_model(**{**fields, **old}).to_dict())


def test_layers_of_two_kinds_are_read_as_old_configs_and_as_new_ones_describe_them() -> None:
    fields = {**small("gemma3_text"), "num_hidden_layers": 4, "sliding_window": 9}
    fields = {name: value for name, value in fields.items() if name not in ("layer_types", "rope_parameters")}
    old = {"sliding_window_pattern": 2, "rope_theta": 2e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    new = {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    read = FAMILIES["gemma3_text"].read({**fields, **old, "rope_local_base_freq": 1e4})
    assert read.layer_kinds == (LayerKind(9, Rope(1e4)), LayerKind(rope=Rope(2e6, RopeScaling(8.0))))
    assert read == FAMILIES["gemma3_text"].read({**fields, **new})
    assert read == FAMILIES["gemma3_text"].read(AutoConfig.for_model(**{**fields, **old}).to_dict())


def test_every_share_of_a_head_is_written_so_that_readers_cut_it_back_to_the_same_width() -> None:
    for width in range(1, 257):
        assert all(int(width * share_of(rotated, width)) == rotated for rotated in range(1, width + 1))
