"""Adapters of language models that we trained: PEFT loads them, with the same logits."""

from pathlib import Path

import pytest
import torch
from conftest import MASKED, SHAPES, random_model

import chainrule
from chainrule.finetuning.finetune import finetune
from chainrule.language_model import make_language_model
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.prompt import Prompt
from chainrule.tokens.make import byte_tokenizer

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
EXAMPLES = Examples([{"text": f"{number} {'ab'[number % 2]}"} for number in range(8)], ["no", "yes"] * 4, [""] * 8)
TASK = Task("classification", ("text",), "label", EXAMPLES, EXAMPLES, ("no", "yes"), Prompt("{text}: {label}"))


@pytest.mark.parametrize("family", [*SHAPES, *MASKED])
def test_peft_gives_the_logits_of_an_adapter_that_learned_label_words(family: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(mask=family in MASKED)
    made = make_language_model(random_model(family, tokenizer.vocabulary_size, context=64), tokenizer, family)
    made.save(tmp_path / "base")
    lm = chainrule.load(tmp_path / "base", device="cpu", dtype="float32")
    finetune(lm, TASK, by="words", train="lora", epochs=1, learning_rate=0.03, out=tmp_path / "out", dtype="float32")
    ours = chainrule.load(tmp_path / "out", device="cpu", dtype="float32")
    auto = transformers.AutoModelForMaskedLM if family in MASKED else transformers.AutoModelForCausalLM
    theirs = peft.PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "base"), tmp_path / "out").eval()
    tokens = torch.tensor([[tokenizer.bos_id, *tokenizer.encode("a thing: yes"), *tokenizer.closing]])
    with torch.no_grad():
        found, before = ours.model(tokens), lm.model(tokens)
        torch.testing.assert_close(found, theirs(tokens).logits, atol=2e-4, rtol=1e-4)
    assert (found - before).abs().max() > 1e-3
