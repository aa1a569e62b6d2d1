"""Models in 8 and 4 bits: what they compute, how much memory they take, and what is refused."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from chainrule.errors import ModelError, OptionError
from chainrule.exporting.export import export_gguf
from chainrule.finetuning.finetune import finetune
from chainrule.language_model import LanguageModel, load
from chainrule.model.blocks import dequantise
from chainrule.model.config import Config
from chainrule.model.prefixes import empty_cache
from chainrule.model.quantise import quantise_model
from chainrule.model.quantised import QuantisedEmbedding, QuantisedLinear, is_quantised
from chainrule.model.transformer import Transformer, initialise
from chainrule.scoring.features import Features
from chainrule.tasks.examples import Task
from chainrule.tokens.make import byte_tokenizer

KINDS = ("int8", "int4")
TOKENS = torch.randint(0, 257, (3, 20), generator=torch.Generator().manual_seed(4))
PROMPT = [256, *b"To be, or not to be"]


def model_of(tied: bool = True, width: int = 64, query_key_norm: Literal["head"] | None = "head") -> Transformer:
    config = Config(
        vocabulary_size=257, context=64, width=width, layers=2, heads=4, key_value_heads=2, head_width=16, hidden=96,
        tied=tied, query_key_norm=query_key_norm,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            parameter.add_(0.1 * noise)
    return model.eval()


def dequantised(model: Transformer) -> Transformer:
    """A plain model of the same values."""
    plain = model_of(model.config.tied)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, QuantisedLinear | QuantisedEmbedding):
                plain.get_submodule(name).get_parameter("weight").copy_(dequantise(module.blocks, module.kind))
    return plain


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("to", KINDS)
def test_it_computes_what_the_dequantised_model_does_with_and_without_a_cache(to: str, tied: bool) -> None:
    model = model_of(tied)
    whole = model.logits(model.features(TOKENS))
    quantise_model(model, to)
    plain = dequantised(model)
    with torch.inference_mode():
        wanted = plain.logits(plain.features(TOKENS))
        found = model.logits(model.features(TOKENS))
        cache = empty_cache(model, 20, len(TOKENS))
        steps = [model.next_logits(model.features(TOKENS[:, t : t + 1], cache)[:, 0]) for t in range(20)]
        alone = model.logits(model.features(TOKENS[:1]))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.stack(steps, 1), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(alone, wanted[:1], atol=1e-4, rtol=0)
    assert 0 < (wanted - whole).abs().mean() < (0.05 if to == "int8" else 0.5)


@pytest.mark.parametrize("to", KINDS)
def test_a_later_token_changes_no_earlier_logit(to: str) -> None:
    model, other = model_of(), TOKENS.clone()
    quantise_model(model, to)
    other[:, 12:] = 0
    with torch.inference_mode():
        one, two = (model.logits(model.features(tokens))[:, :12] for tokens in (TOKENS, other))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_its_memory_is_what_its_bits_are() -> None:
    def size(model: Transformer) -> int:
        return sum(each.numel() * each.element_size() for each in [*model.parameters(), *model.buffers()])

    plain, small, smaller = model_of(), model_of(), model_of()
    quantise_model(small, "int8")
    quantise_model(smaller, "int4")
    assert size(small) < 0.29 * size(plain) and size(smaller) < 0.75 * size(small)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_the_blocks_of_a_gguf_are_kept_as_they_are(kind: str, tmp_path: Path) -> None:
    lm = LanguageModel(model_of(query_key_norm=None), byte_tokenizer(), "llama")
    lm.save(tmp_path / "model")
    export_gguf(tmp_path / "model", tmp_path / "model.gguf", kind)
    plain = load(tmp_path / "model.gguf", device="cpu")
    assert not is_quantised(plain.model)
    tokens = torch.tensor([PROMPT])
    for to in ("int8", "int4"):
        kept = load(tmp_path / "model.gguf", device="cpu", quantize=to)
        found = {each.kind for each in kept.model.modules() if isinstance(each, QuantisedLinear)}
        assert found == {kind.upper()}
        with torch.inference_mode():
            one, two = (each.model.logits(each.model.features(tokens)) for each in (plain, kept))
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_a_file_in_bfloat16_is_kept_so_and_computes_as_float32(tmp_path: Path) -> None:
    model = model_of().to(torch.bfloat16)
    LanguageModel(model, byte_tokenizer(), "qwen3").save(tmp_path)
    kept, plain = (load(tmp_path, device="cpu", quantize=quantize) for quantize in ("auto", "none"))
    assert isinstance(kept, LanguageModel) and isinstance(plain, LanguageModel)
    assert kept.log_prob("To be") == pytest.approx(plain.log_prob("To be"), abs=1e-4)
    assert kept.generate("To be", temperature=0, max_tokens=8) == plain.generate("To be", temperature=0, max_tokens=8)


def test_what_cannot_be_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="multiple of 32, got 48"):
        quantise_model(model_of(width=48), "int8")
    model = model_of()
    quantise_model(model, "int8")
    lm = LanguageModel(model, byte_tokenizer(), "qwen3")
    with pytest.raises(ModelError, match="load the model without quantize"):
        lm.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    (tmp_path / "data.csv").write_text(
        "text,label\n" + "".join(f"text {row},{row % 2}\n" for row in range(20)), encoding="utf-8"
    )
    task = Task.load(str(tmp_path / "data.csv"), text=("text",), label="label")
    for train in ("full", "head"):
        with pytest.raises(ModelError, match="finetune: wanted weights in float32 or bfloat16, got quantised ones"):
            finetune(lm, task, train=train)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("to", KINDS)
def test_its_features_are_those_of_the_dequantised_model(to: str, tied: bool) -> None:
    model = model_of(tied)
    quantise_model(model, to)
    texts = ["To be", "or not to be, that is the question"]
    found, wanted = (Features(one, byte_tokenizer())(texts) for one in (model, dequantised(model)))
    np.testing.assert_allclose(found, wanted, atol=2e-5)
