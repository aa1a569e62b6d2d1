"""The flat table: kinds of layers, and how it is written on one line."""

from dataclasses import replace

import pytest
from conftest import random_model

from chainrule.model.config import LayerKind
from chainrule.model.rotary import Rope

LOCAL, GLOBAL = LayerKind(8, Rope(1e4)), LayerKind(rope=Rope(1e6))
# Written by the version before layers had kinds: comparisons that it began know their model by a hash of this.
WRITTEN = {
    "llama": "layers=2, heads=4, key_value_heads=2, head_width=8, hidden=48, norm='rms', norm_epsilon=1e-06,"
    " positions='rotary', rope_theta=10000.0, rope_scaling=RopeScaling(factor=4.0, original_context=16, low=1.0,"
    " high=4.0), rotary_width=None, window=None, activation='silu', gated=True, query_key_norm=False,"
    " query_key_value_bias=False, attention_output_bias=False, mlp_bias=False, parallel=False, tied=False, causal=True,"
    " post_norm=False, segments=0, masked_head=False, pooler=False)",
    "mistral": "layers=2, heads=4, key_value_heads=2, head_width=8, hidden=48, norm='rms', norm_epsilon=1e-06,"
    " positions='rotary', rope_theta=10000.0, rope_scaling=None, rotary_width=None, window=7, activation='silu',"
    " gated=True, query_key_norm=False, query_key_value_bias=False, attention_output_bias=False, mlp_bias=False,"
    " parallel=False, tied=False, causal=True, post_norm=False, segments=0, masked_head=False, pooler=False)",
    "gpt_neox": "layers=2, heads=4, key_value_heads=4, head_width=8, hidden=64, norm='layer', norm_epsilon=1e-05,"
    " positions='rotary', rope_theta=10000.0, rope_scaling=None, rotary_width=2, window=None, activation='gelu',"
    " gated=False, query_key_norm=False, query_key_value_bias=True, attention_output_bias=True, mlp_bias=True,"
    " parallel=True, tied=False, causal=True, post_norm=False, segments=0, masked_head=False, pooler=False)",
    "bert": "layers=2, heads=4, key_value_heads=4, head_width=8, hidden=48, norm='layer', norm_epsilon=1e-05,"
    " positions='learned', rope_theta=10000.0, rope_scaling=None, rotary_width=None, window=None, activation='gelu',"
    " gated=False, query_key_norm=False, query_key_value_bias=True, attention_output_bias=True, mlp_bias=True,"
    " parallel=False, tied=True, causal=False, post_norm=True, segments=2, masked_head=True, pooler=False)",
}


@pytest.mark.parametrize("family", WRITTEN)
def test_a_config_is_written_as_earlier_versions_wrote_it(family: str) -> None:
    assert repr(random_model(family).config) == f"Config(vocabulary_size=61, context=32, width=32, {WRITTEN[family]}"


def test_what_earlier_versions_did_not_know_is_written_where_it_is_used() -> None:
    config = random_model("qwen3").config
    assert repr(replace(config, layer_kinds=(LOCAL, GLOBAL))).endswith(f"layer_kinds=({LOCAL!r}, {GLOBAL!r}))")
    changed = [
        replace(config, **{name: value})
        for name, value in (
            ("residual", "reordered"),
            ("residual", "sandwich"),
            ("query_key_norm", "width"),
            ("norm_offset", 1.0),
            ("scaled_embedding", True),
            ("query_scale_width", 4.0),
            ("attention_factor", 0.5),
            ("embedding_factor", 12.0),
            ("residual_factor", 0.2),
            ("logit_divisor", 8.0),
            ("attention_cap", 50.0),
            ("logit_cap", 30.0),
            ("position_offset", 2),
            ("pooler_activation", "relu"),
            ("norm_bias", False),
            ("input_norm", True),
            ("first_norm", False),
            ("head_bias", False),
            ("summary", "mean"),
            ("pooler_like_head", True),
        )
    ]
    assert len({repr(each) for each in (config, *changed)}) == len(changed) + 1


def test_kinds_are_repeated_over_the_layers_and_equal_where_they_give_the_same_layers() -> None:
    config = replace(random_model("qwen3").config, layers=6)
    pattern = replace(config, layer_kinds=(LOCAL, LOCAL, GLOBAL))
    assert [pattern.kind_of(layer) for layer in range(6)] == [LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL]
    assert pattern == replace(config, layer_kinds=(LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL))
    assert replace(config, layer_kinds=(LOCAL,) * 6).layer_kinds == (LOCAL,)
    assert replace(config, layers=4, layer_kinds=(LOCAL,) * 3 + (GLOBAL,)).layer_kinds == (LOCAL,) * 3 + (GLOBAL,)
