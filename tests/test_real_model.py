"""SmolLM2-135M-Instruct from a GGUF is what transformers and llama.cpp say that it is.

It runs where models/ has the file (`make real` fetches it); CHAINRULE_REAL=1 makes its absence an error. Both peers are
optional: transformers reads GGUF files with the package gguf, llama.cpp is the extra llamacpp.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from chainrule.exporting.export import SAMPLE, export_gguf
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel, load
from chainrule.storage.files import sha256

FOLDER = Path(__file__).parents[1] / "models"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PROMPTS = ("The capital of France is", "def fibonacci(n):\n    ", "Once upon a time, 12345 owls", "日本語 🚀")
TEXTS = (
    *SAMPLE.splitlines(),
    SAMPLE,
    *PROMPTS,
    "<|im_start|>user",
    "I'll we'VE 's",
    " a  b\t\tc \n\n",
    "½ Ⅷ ² e\u0301",
)
TOKENS = 12

if not os.environ.get("CHAINRULE_REAL") and not (FOLDER / NAME).is_file():
    pytest.skip("the model is not in models/: make real fetches it", allow_module_level=True)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    assert sha256(FOLDER / NAME) == SHA256
    model = load(FOLDER / NAME, device="cpu", dtype="float32")
    assert isinstance(model, LanguageModel)
    return model


@pytest.fixture(scope="module")
def peer() -> Iterator[tuple[Any, Any]]:
    """transformers' tokenizer and model of the same file."""
    gguf = pytest.importorskip("gguf", reason="transformers needs the package gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", cache(gguf.GGUFReader))  # one for tokenizer, settings and weights
        tokenizer = AutoTokenizer.from_pretrained(FOLDER, gguf_file=NAME)
        model = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=NAME, dtype=torch.float32).eval()
    yield tokenizer, model


@cache
def llama_cpp(path: Path) -> Any:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra llamacpp)")
    from test_llama_cpp import LlamaCpp

    return LlamaCpp(path)


def logits(lm: LanguageModel, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return lm.model.logits(lm.model.features(torch.tensor([tokens])))[0].float()


def ids(lm: LanguageModel, prompt: str) -> list[int]:
    return [lm.tokenizer.bos_id, *lm.tokenizer.encode(prompt)]


def greedy(lm: LanguageModel, prompt: str) -> str:
    (completion,) = lm.completions([ids(lm, prompt)], Sampling(0.0), max_tokens=TOKENS)
    return completion.text


def test_it_knows_the_capital_of_france(lm: LanguageModel) -> None:
    assert greedy(lm, PROMPTS[0]).startswith(" Paris.")
    assert lm.log_prob(" Paris.", given=PROMPTS[0]) > lm.log_prob(" London.", given=PROMPTS[0]) + 3


def test_ids_are_llama_cpps(lm: LanguageModel) -> None:
    theirs = llama_cpp(FOLDER / NAME)
    for text in TEXTS:
        assert lm.tokenizer.encode(text) == theirs.encode(text), text


def test_ids_logits_and_greedy_text_are_transformers(lm: LanguageModel, peer: tuple[Any, Any]) -> None:
    tokenizer, model = peer
    for text in TEXTS:
        if "<|" not in text and not any(character.isnumeric() and character > "9" for character in text):
            # It takes what spells a special token for one, and splits no digits off.
            assert lm.tokenizer.encode(text) == tokenizer(text, add_special_tokens=False).input_ids, text
    for prompt in PROMPTS:
        tokens = torch.tensor([ids(lm, prompt)])
        with torch.no_grad():
            theirs = model(tokens).logits[0]
        assert (logits(lm, tokens[0].tolist()) - theirs).abs().max() < 1e-3
        made = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=TOKENS,
            eos_token_id=list(lm.stop_tokens), pad_token_id=2,
        )  # fmt: skip
        assert tokenizer.decode(made[0, tokens.shape[1] :], skip_special_tokens=True) == greedy(lm, prompt)


def test_a_chat_is_written_as_transformers_does(lm: LanguageModel, peer: tuple[Any, Any]) -> None:
    messages = [
        {"role": "user", "content": "Hi, you!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "?"},
    ]
    theirs = peer[0].apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert lm.chat.tokens(messages) == list(theirs)


def test_greedy_text_of_an_export_in_float32_is_llama_cpps(lm: LanguageModel, tmp_path: Path) -> None:
    export_gguf(FOLDER / NAME, tmp_path / "model.gguf", "f32")
    theirs = llama_cpp(tmp_path / "model.gguf")
    for prompt in PROMPTS:
        tokens = ids(lm, prompt)
        assert (logits(lm, tokens) - torch.from_numpy(theirs.logits(tokens))).abs().max() < 0.02
        assert lm.tokenizer.decode(theirs.greedy(tokens, TOKENS, lm.stop_tokens)) == greedy(lm, prompt)


def test_8_bits_change_little_and_llama_cpp_runs_them(lm: LanguageModel, tmp_path: Path) -> None:
    made = export_gguf(FOLDER / NAME, tmp_path / "model.gguf", "q8_0")
    assert made["bytes"] < 150e6 and made["change_of_log_probs"] < 0.02
    theirs = llama_cpp(tmp_path / "model.gguf")
    tokens = ids(lm, PROMPTS[0])
    assert lm.tokenizer.decode(theirs.greedy(tokens, 2, lm.stop_tokens)) == " Paris."
