"""A file that we exported runs in llama.cpp: the same ids, the same logits, the same greedy text.

Skipped where llama-cpp-python is not installed: pip install 'chainrule[llamacpp]' compiles it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import exportable_model, random_model

from chainrule.exporting.export import SAMPLE, export_gguf
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel, load
from chainrule.model.config import LayerKind
from chainrule.model.rotary import LongRope, Rope
from chainrule.tokens.make import byte_tokenizer, character_tokenizer, train_bpe
from chainrule.tokens.tokenizer import Tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra llamacpp)")
CONTEXT = 64
_F32 = 0  # the type of its cache, else float16
TEXT = "Hello, it isn't 1234 à la carte.\n\n  No?"


class LlamaCpp:
    """One model in llama.cpp."""

    def __init__(self, path: Path, context: int = 256) -> None:
        self.inner = llama_cpp.Llama(
            str(path), n_ctx=context, n_threads=1, logits_all=True, type_k=_F32, type_v=_F32, verbose=False
        )

    def encode(self, text: str) -> list[int]:
        return list(self.inner.tokenize(text.encode(), add_bos=False, special=False))

    def logits(self, tokens: Sequence[int]) -> Any:
        self.inner.reset()
        self.inner.eval(list(tokens))
        return np.array(self.inner.scores[: len(tokens)])

    def greedy(self, tokens: Sequence[int], count: int, stops: Sequence[int]) -> list[int]:
        self.logits(tokens)
        made: list[int] = []
        for _ in range(count):
            token = int(self.inner.scores[self.inner.n_tokens - 1].argmax())
            if token in stops:
                break
            made.append(token)
            self.inner.eval([token])
        return made


def agree(lm: LanguageModel, theirs: LlamaCpp, tolerance: float) -> None:
    tokens = [lm.tokenizer.bos_id, *lm.tokenizer.encode(TEXT)][: lm.model.config.context - 1]
    with torch.no_grad():
        ours = lm.model.logits(lm.model.features(torch.tensor([tokens])))[0].float().numpy()
    difference = np.abs(theirs.logits(tokens) - ours).max()
    assert difference < tolerance, difference
    count = lm.model.config.context - len(tokens)
    (completion,) = lm.completions([tokens], Sampling(0.0), max_tokens=count)
    assert lm.tokenizer.decode(theirs.greedy(tokens, count, lm.stop_tokens)) == completion.text


def test_each_family_has_the_same_logits_and_greedy_text(gguf_family: str, tmp_path: Path) -> None:
    family = gguf_family
    lm = LanguageModel(exportable_model(family, 257, CONTEXT), byte_tokenizer(), family)
    lm.save(tmp_path / "model")
    export_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32")
    if family == "mistral":  # the context of its file is the window
        tokens = [256, *TEXT.encode()][:7]
        with torch.no_grad():
            ours = lm.model.logits(lm.model.features(torch.tensor([tokens])))[0].numpy()
        assert np.abs(LlamaCpp(tmp_path / "model.gguf").logits(tokens) - ours).max() < 1e-4
        return
    # llama.cpp looks GELU up in a table of float16
    table = ("gpt2", "gpt_neox", "gemma2", "gemma3_text")
    agree(lm, LlamaCpp(tmp_path / "model.gguf"), 0.02 if family in table else 1e-4)


def test_rotations_of_a_lengthened_phi_3_are_the_same_on_both_sides_of_its_original_context(tmp_path: Path) -> None:
    original = 256  # the least context that llama.cpp takes; with a longer one it takes the other factors for all texts
    slowed = LongRope((1.0, 1.1, 1.5), (1.0, 3.0, 9.0), 1.19, original, 4 * original)
    kinds = (LayerKind(rope=Rope(scaling=slowed, width=6)),)
    lm = LanguageModel(random_model("phi3", 257, 4 * original, layer_kinds=kinds), byte_tokenizer(), "phi3")
    lm.save(tmp_path / "model")
    export_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32")
    for length, context in ((60, original), (original + 20, 2 * original)):
        tokens = [lm.tokenizer.bos_id, *lm.tokenizer.encode(TEXT * 10)][:length]
        with torch.no_grad():
            ours = lm.model.logits(lm.model.features(torch.tensor([tokens])))[0].numpy()
        assert np.abs(LlamaCpp(tmp_path / "model.gguf", context).logits(tokens) - ours).max() < 1e-4
    back = load(tmp_path / "model.gguf", device="cpu")
    assert back.model.config == lm.model.config


TOKENIZERS: dict[str, Tokenizer] = {
    "bytes": byte_tokenizer(),
    "characters": character_tokenizer([SAMPLE, TEXT]),
    "byte pairs": train_bpe([SAMPLE * 3, TEXT], 400),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_run_of_ours_has_the_same_ids_and_greedy_text(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]
    lm = LanguageModel(random_model("qwen3", tokenizer.vocabulary_size, CONTEXT), tokenizer, "qwen3")
    lm.save(tmp_path / "model")
    export_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32")
    theirs = LlamaCpp(tmp_path / "model.gguf")
    for text in (SAMPLE, *SAMPLE.splitlines(), TEXT, " ", "\n", "<|bottom|>"):
        if name != "characters" or set(text) <= set(SAMPLE + TEXT):
            assert theirs.encode(text) == tokenizer.encode(text), text
    agree(lm, theirs, 1e-4)
    assert theirs.inner.token_bos() == tokenizer.bos_id and theirs.inner.token_eos() == tokenizer.bos_id
    begun = theirs.inner.tokenize(b"Hello", add_bos=True)
    assert begun == [tokenizer.bos_id, *tokenizer.encode("Hello")]
