"""Our logits are those of transformers, and each side loads what the other saved."""

from pathlib import Path

import pytest
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from chainrule.model.checkpoint import load_model, save_model

CPU = torch.device("cpu")
TOKENS = torch.randint(0, 61, (3, 23), generator=torch.Generator().manual_seed(1))
QWEN3 = {
    "vocab_size": 61,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "max_position_embeddings": 32,
}
GPT2 = {"vocab_size": 61, "n_embd": 36, "n_layer": 3, "n_positions": 24}
CONFIGS = {
    "qwen3 grouped": Qwen3Config(**QWEN3, num_attention_heads=6, num_key_value_heads=2, head_dim=10),
    "qwen3 tied, biases": Qwen3Config(
        **QWEN3, num_attention_heads=4, num_key_value_heads=4, head_dim=14,
        tie_word_embeddings=True, attention_bias=True,
    ),
    "qwen3 one key, slow rope": Qwen3Config(
        **QWEN3, num_attention_heads=5, num_key_value_heads=1, head_dim=6,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
    ),
    "gpt2": GPT2Config(**GPT2, n_head=4),
    "gpt2 untied, narrow mlp": GPT2Config(**GPT2, n_head=3, n_inner=50, tie_word_embeddings=False),
}  # fmt: skip


def random_peer(config: transformers.PretrainedConfig) -> PreTrainedModel:
    """A model of transformers in which no weight, gain or bias is at its tame start."""
    model = (Qwen3ForCausalLM if config.model_type == "qwen3" else GPT2LMHeadModel)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_logits_equal_transformers_and_each_side_loads_what_the_other_saved(name: str, tmp_path: Path) -> None:
    peer = random_peer(CONFIGS[name])
    peer.save_pretrained(tmp_path / "theirs")
    ours, family = load_model(tmp_path / "theirs", CPU)
    torch.testing.assert_close(ours(TOKENS), peer(TOKENS).logits, atol=1e-4, rtol=0)

    (tmp_path / "ours").mkdir()
    save_model(ours, family, tmp_path / "ours", bottom=0)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(again(TOKENS).logits, peer(TOKENS).logits, atol=1e-6, rtol=0)
    reloaded, _ = load_model(tmp_path / "ours", CPU)
    for (key, value), (_, other) in zip(ours.named_parameters(), reloaded.named_parameters(), strict=True):
        assert torch.equal(value, other), key
