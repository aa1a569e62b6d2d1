"""Our logits are those of transformers in every family, and each side loads what the other saved."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    BertConfig,
    DistilBertConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    SmolLM3Config,
    XLMRobertaConfig,
)

from chainrule.generation.engine import Engine, NewToken
from chainrule.generation.sampling import Sampling
from chainrule.model.formats.checkpoint import load_model, save_model
from chainrule.model.formats.families import FAMILIES
from chainrule.model.padding import padded
from chainrule.model.prefixes import empty_cache
from chainrule.model.transformer import Transformer, initialise

CPU = torch.device("cpu")
TOKENS = torch.randint(0, 61, (3, 23), generator=torch.Generator().manual_seed(1))
PROMPTS = [[5, 9, 3, 44, 17], [8], [60, 2, 2, 2, 17, 31, 8, 8, 1, 40, 12]]
GATED = {
    "vocab_size": 61,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "max_position_embeddings": 32,
}
PADDED = {**GATED, "pad_token_id": 0}  # by default it is beyond this vocabulary
GPT2 = {"vocab_size": 61, "n_embd": 36, "n_layer": 3, "n_positions": 24}
NEOX = {**GATED, "hidden_size": 28}
OPT = {
    "vocab_size": 61,
    "hidden_size": 28,
    "ffn_dim": 50,
    "num_hidden_layers": 3,
    "max_position_embeddings": 30,
}
GPT_NEO = {"vocab_size": 61, "hidden_size": 28, "num_layers": 3, "max_position_embeddings": 32}
DISTILBERT = {"vocab_size": 61, "dim": 28, "hidden_dim": 56, "n_layers": 3, "max_position_embeddings": 32}
ROBERTA = {**NEOX, "vocab_size": 63, "max_position_embeddings": 95}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS = {
    "llama grouped": LlamaConfig(**GATED, num_attention_heads=4, num_key_value_heads=2),
    "llama 3": LlamaConfig(**GATED, num_attention_heads=4, num_key_value_heads=1, rope_parameters=LLAMA3),
    "llama linear scaling, biases, tied": LlamaConfig(
        **GATED, num_attention_heads=5, head_dim=6, rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4},
        attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
    ),
    "mistral window of 5": MistralConfig(**GATED, num_attention_heads=4, num_key_value_heads=2, sliding_window=5),
    "mistral window of 2, wide heads": MistralConfig(
        **GATED, num_attention_heads=4, num_key_value_heads=4, head_dim=14, sliding_window=2
    ),
    "mistral no window": MistralConfig(**GATED, num_attention_heads=4, num_key_value_heads=1, sliding_window=None),
    "qwen2 grouped": Qwen2Config(**GATED, num_attention_heads=4, num_key_value_heads=2),
    "qwen2 tied, fast rope": Qwen2Config(
        **GATED, num_attention_heads=10, num_key_value_heads=5, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 10.0, "rope_type": "default"},
    ),
    "qwen3 grouped": Qwen3Config(**GATED, num_attention_heads=6, num_key_value_heads=2, head_dim=10),
    "qwen3 tied, biases": Qwen3Config(
        **GATED, num_attention_heads=4, num_key_value_heads=4, head_dim=14,
        tie_word_embeddings=True, attention_bias=True,
    ),
    "qwen3 one key, slow rope": Qwen3Config(
        **GATED, num_attention_heads=5, num_key_value_heads=1, head_dim=6,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
    ),
    "smollm3 last layer without rope": SmolLM3Config(
        **PADDED, num_attention_heads=4, num_key_value_heads=2, no_rope_layers=[1, 1, 0]
    ),
    "smollm3 every second layer without rope, biases, untied": SmolLM3Config(
        **PADDED, num_attention_heads=5, num_key_value_heads=1, no_rope_layer_interval=2, attention_bias=True,
        mlp_bias=True, tie_word_embeddings=False, rope_parameters={"rope_theta": 50.0, "rope_type": "default"},
    ),
    "smollm3 first layers without rope": SmolLM3Config(
        **PADDED, num_attention_heads=4, num_key_value_heads=4, no_rope_layers=[0, 0, 1], rope_parameters=LLAMA3
    ),
    "granite grouped": GraniteConfig(
        **GATED, num_attention_heads=4, num_key_value_heads=2, embedding_multiplier=12.0, attention_multiplier=0.015625,
        residual_multiplier=0.22, logits_scaling=8.0,
    ),
    "granite tied, biases, llama 3": GraniteConfig(
        **GATED, num_attention_heads=5, num_key_value_heads=1, embedding_multiplier=0.3, attention_multiplier=1,
        residual_multiplier=1.4, logits_scaling=0.7, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
        rope_parameters=LLAMA3,
    ),
    "phi3 grouped, window of 5": Phi3Config(
        **PADDED, num_attention_heads=4, num_key_value_heads=2, sliding_window=5,
    ),
    "phi3 partly rotated, tied": Phi3Config(
        **PADDED, num_attention_heads=5, num_key_value_heads=1, tie_word_embeddings=True, rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.75},
    ),
    "phi3 longrope, partly rotated": Phi3Config(
        **{**PADDED, "max_position_embeddings": 160}, original_max_position_embeddings=32, num_attention_heads=4,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.6,
            "short_factor": [1.0, 1.3, 2.5], "long_factor": [2.0, 4.0, 9.0],
        },
    ),
    "olmo2 grouped": Olmo2Config(**GATED, num_attention_heads=4, num_key_value_heads=2),
    "olmo2 tied, biases, slow rope": Olmo2Config(
        **GATED, num_attention_heads=5, rms_norm_eps=1e-3, attention_bias=True, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 5e5, "rope_type": "default"},
    ),
    "gemma2 window of 5 in every second layer": Gemma2Config(
        **GATED, num_attention_heads=4, num_key_value_heads=2, head_dim=10, query_pre_attn_scalar=7, sliding_window=5,
        attn_logit_softcapping=0.5, final_logit_softcapping=1.5,
    ),
    "gemma2 untied, biases, no caps": Gemma2Config(
        **GATED, num_attention_heads=5, num_key_value_heads=1, head_dim=6, query_pre_attn_scalar=6, sliding_window=3,
        layer_types=["full_attention", "full_attention", "sliding_attention"], tie_word_embeddings=False,
        attn_logit_softcapping=None, final_logit_softcapping=None, attention_bias=True, hidden_activation="gelu",
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e3},
    ),
    "gemma2 windows alone, cap of scores": Gemma2Config(
        **GATED, num_attention_heads=4, num_key_value_heads=4, head_dim=10, sliding_window=4,
        layer_types=["sliding_attention"] * 3, attn_logit_softcapping=0.3, final_logit_softcapping=None,
    ),
    "gemma3_text window of 5 in every second layer": Gemma3TextConfig(
        **GATED, num_attention_heads=4, num_key_value_heads=2, head_dim=10, query_pre_attn_scalar=7, sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e3},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
    ),
    "gemma3_text untied, biases, every third layer full": Gemma3TextConfig(  # type: ignore[call-arg]  # from its keyword arguments
        **GATED, num_attention_heads=5, num_key_value_heads=1, head_dim=6, query_pre_attn_scalar=6, sliding_window=3,
        sliding_window_pattern=3, tie_word_embeddings=False, attention_bias=True, rms_norm_eps=1e-3,
    ),
    "gemma3_text windows alone, exact gelu": Gemma3TextConfig(
        **GATED, num_attention_heads=4, num_key_value_heads=4, head_dim=10, sliding_window=4,
        hidden_activation="gelu",
    ),
    "gpt2": GPT2Config(**GPT2, n_head=4),
    "gpt2 untied, narrow mlp": GPT2Config(**GPT2, n_head=3, n_inner=50, tie_word_embeddings=False),
    "gpt2 exact gelu, one head": GPT2Config(**GPT2, n_head=1, activation_function="gelu", layer_norm_epsilon=1e-2),
    "opt odd heads": OPTConfig(**OPT, num_attention_heads=4),
    "opt untied, gelu, one head": OPTConfig(
        **OPT, num_attention_heads=1, activation_function="gelu", tie_word_embeddings=False
    ),
    "gpt_neo window of 5 in every second layer": GPTNeoConfig(
        **GPT_NEO, num_heads=4, window_size=5, attention_types=[[["local", "global"], 1], [["local"], 1]]
    ),
    "gpt_neo windows alone, untied, narrow mlp": GPTNeoConfig(
        **GPT_NEO, num_heads=2, window_size=3, attention_types=[[["local"], 3]], intermediate_size=50,
        tie_word_embeddings=False, layer_norm_epsilon=1e-3,
    ),
    "gpt_neo no window, exact gelu": GPTNeoConfig(
        **GPT_NEO, num_heads=7, attention_types=[[["global"], 3]], activation_function="gelu"
    ),
    "gpt_neox odd heads, partly rotated": GPTNeoXConfig(
        **NEOX, num_attention_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.6},
    ),
    "gpt_neox one after the other, tied": GPTNeoXConfig(
        **NEOX, num_attention_heads=2, use_parallel_residual=False, tie_word_embeddings=True, hidden_act="gelu_fast",
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 1.0},
    ),
    "gpt_neox no attention bias": GPTNeoXConfig(
        **NEOX, num_attention_heads=2, attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25 * 8 / 7},
    ),
}  # fmt: skip
MASKED = {
    "bert": BertConfig(**NEOX, num_attention_heads=2),
    "bert odd heads, one segment": BertConfig(
        **NEOX, num_attention_heads=4, type_vocab_size=1, layer_norm_eps=1e-3, hidden_act="gelu_new"
    ),
    # The padding is no token of the tests' texts: there it would have a position of its own.
    "roberta": RobertaConfig(**ROBERTA, num_attention_heads=2, pad_token_id=61),
    "roberta odd heads, one segment": RobertaConfig(
        **ROBERTA, num_attention_heads=4, pad_token_id=62, type_vocab_size=1, layer_norm_eps=1e-3
    ),
    "xlm-roberta": XLMRobertaConfig(**ROBERTA, num_attention_heads=7, pad_token_id=61),
    "modernbert window of 7 in the second and third layer": ModernBertConfig(
        **PADDED, num_attention_heads=4, local_attention=6
    ),
    "modernbert odd window, biases, mean": ModernBertConfig(
        **PADDED, num_attention_heads=10, local_attention=3, norm_bias=True, attention_bias=True, mlp_bias=True,
        classifier_bias=True, classifier_pooling="mean", norm_eps=1e-3,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e3},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
    ),
    "distilbert odd heads": DistilBertConfig(**DISTILBERT, n_heads=4),
    "distilbert one head, another gelu": DistilBertConfig(**DISTILBERT, n_heads=1, activation="gelu_new"),
}  # fmt: skip


def random_peer(config: PretrainedConfig) -> PreTrainedModel:
    """A model of transformers in which no weight, gain or bias is at its tame start."""
    model = getattr(transformers, FAMILIES[config.model_type].architecture)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@cache
def both(name: str) -> tuple[Transformer, PreTrainedModel]:
    """Our model, loaded from what theirs saved, and theirs."""
    peer = random_peer((CONFIGS | MASKED)[name])
    with TemporaryDirectory() as directory:
        peer.save_pretrained(directory)
        ours, family = load_model(Path(directory), CPU)
    assert family == peer.config.model_type
    return ours, peer


def generated(model: Transformer, tokens: int) -> list[list[NewToken]]:
    """So many greedy tokens after each of PROMPTS, in one batch."""
    engine = Engine(model)
    for prompt in PROMPTS:
        engine.add(prompt, Sampling(0), max_tokens=tokens)
    return list(map(list, zip(*(engine.step() for _ in range(tokens)), strict=True)))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS | MASKED)
@torch.no_grad()
def test_logits_equal_transformers_and_each_side_loads_what_the_other_saved(name: str, tmp_path: Path) -> None:
    ours, peer = both(name)
    close(ours(TOKENS), peer(TOKENS).logits)
    save_model(ours, peer.config.model_type, tmp_path, bos_id=0)
    loaded: Any = type(peer).from_pretrained(tmp_path, output_loading_info=True)
    again, wrong = loaded
    assert not any(wrong.values())
    torch.testing.assert_close(again(TOKENS).logits, peer(TOKENS).logits, atol=1e-6, rtol=0)
    reloaded, _ = load_model(tmp_path, CPU)
    assert reloaded.config == ours.config
    for (key, value), (_, other) in zip(ours.named_parameters(), reloaded.named_parameters(), strict=True):
        assert torch.equal(value, other), key


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chunks", [(1,) * 23, (9, 1, 6, 7)])
@torch.no_grad()
def test_logits_through_a_cache_equal_transformers(name: str, chunks: Sequence[int]) -> None:
    ours, peer = both(name)
    cache = empty_cache(ours, ours.config.context, len(TOKENS))
    close(torch.cat([ours(chunk, cache=cache) for chunk in TOKENS.split(chunks, dim=1)], dim=1), peer(TOKENS).logits)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_logits_of_unequal_prompts_in_a_batch_equal_those_transformers_gives_each_alone(name: str) -> None:
    ours, peer = both(name)
    for prompt, found in zip(PROMPTS, generated(ours, 3), strict=True):
        logits = peer(torch.tensor([[*prompt, *(new.token for new in found)]])).logits[0, len(prompt) - 1 : -1]
        log_probs = logits.log_softmax(-1).gather(1, torch.tensor([[new.token] for new in found]))[:, 0]
        close(torch.tensor([new.log_prob for new in found]), log_probs)


@pytest.mark.parametrize("name", MASKED)
@torch.no_grad()
def test_masked_logits_in_a_padded_batch_equal_those_transformers_gives_each_alone(name: str) -> None:
    ours, peer = both(name)
    tokens, last = padded(PROMPTS, CPU)
    for row, prompt in zip(ours(tokens, last=last), PROMPTS, strict=True):
        close(row[: len(prompt)], peer(torch.tensor([prompt])).logits[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_equal_those_of_transformers(name: str) -> None:
    ours, peer = both(name)
    generate: Any = peer.generate
    for prompt, found in zip(PROMPTS, generated(ours, 12), strict=True):
        tokens = torch.tensor([prompt])
        theirs = generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert [new.token for new in found] == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ["llama 3", "gpt_neox odd heads, partly rotated", "olmo2 grouped"])
@torch.no_grad()
def test_logits_at_late_positions_equal_transformers(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name].to_dict() | {"max_position_embeddings": 4000, "num_hidden_layers": 1}
    peer = random_peer(type(CONFIGS[name]).from_dict(config))
    peer.save_pretrained(tmp_path)
    ours, _ = load_model(tmp_path, CPU)
    tokens = torch.randint(0, 61, (1, 3000), generator=torch.Generator().manual_seed(2))
    close(ours(tokens), peer(tokens).logits)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_file_in_half_precision_keeps_it_or_is_widened(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    _, peer = both(name)
    type(peer)(peer.config).to(dtype).save_pretrained(tmp_path)
    kept, _ = load_model(tmp_path, CPU)
    assert {parameter.dtype for parameter in kept.parameters()} == {dtype}
    assert kept(TOKENS).isfinite().all()
    widened, _ = load_model(tmp_path, CPU, torch.float32)
    for value, other in zip(kept.parameters(), widened.parameters(), strict=True):
        assert torch.equal(value.float(), other)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_that_we_trained_gives_the_same_logits_there(name: str, tmp_path: Path) -> None:
    config = both(name)[0].config
    model = Transformer(config)
    initialise(model, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        logits = model(TOKENS[:, :-1]).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, TOKENS[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model, CONFIGS[name].model_type, tmp_path, bos_id=0)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        close(model(TOKENS), peer(TOKENS).logits)


@pytest.mark.parametrize("name", CONFIGS | MASKED)
def test_each_familys_classifier_is_a_class_that_loads_our_directory(name: str, tmp_path: Path) -> None:
    ours, peer = both(name)
    save_model(ours, peer.config.model_type, tmp_path, bos_id=0)
    if peer.config.model_type == "granite":
        assert not hasattr(transformers, FAMILIES[peer.config.model_type].classifier)
        return
    kind = getattr(transformers, FAMILIES[peer.config.model_type].classifier)
    _, wrong = kind.from_pretrained(tmp_path, output_loading_info=True)
    # What it lacks is the head alone: a linear map, and an encoder's pooler before it.
    pooler, head = (
        FAMILIES[peer.config.model_type].modules.get("pooler", ()),
        FAMILIES[peer.config.model_type].head_name,
    )
    assert {name.rsplit(".", 1)[0] for name in wrong["missing_keys"]} <= {head, *pooler}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_left_out_means_what_it_means_in_transformers(family: str) -> None:
    # A width at which no default is what would be derived without it.
    config = AutoConfig.for_model(family, hidden_size=1536).to_dict()
    whole, required = FAMILIES[family].read(config), 0
    for field in config:
        fields = {name: value for name, value in config.items() if name != field}
        try:
            assert FAMILIES[family].read(fields) == whole, field
        except ValueError as error:
            assert str(error) == f"config.json: wanted the field '{field}', which is missing"
            required += 1
    sizes = {"vocabulary", "context", "width", "layers", "heads"}
    assert required == len(sizes) + (family not in ("gpt2", "gpt_neo"))  # and hidden
