"""`pretrain --from`: a model of any family goes on with text of one's own, and stays what it was to transformers."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from conftest import SHAPES, random_model
from tokenizers import AddedToken

import chainrule
from chainrule.cli import main
from chainrule.language_model import make_language_model
from chainrule.model.formats.families import FAMILIES
from chainrule.tokens import bytepair
from chainrule.tokens.tokenizer import load_tokenizer

TEXT = "the cat sat on the mat, and the dog sat on the cat. " * 40


@pytest.fixture(params=[*SHAPES, "bert"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """As others lay it out: a tokenizer with its own special tokens, ⊥ another token than the end."""
    family, folder = request.param, tmp_path / "theirs"
    folder.mkdir()
    inner = bytepair.train([TEXT], 290)
    inner.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<mask>")])
    inner.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", **({"mask_token": "<mask>"} if family == "bert" else {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)
    end = tokenizer.special["</s>"].id
    make_language_model(random_model(family, vocabulary_size=300, context=32), tokenizer, family, [end]).save(folder)
    (tmp_path / "text.txt").write_text(TEXT)
    return folder


def test_each_family_goes_on_with_its_own_tokenizer_and_stays_itself(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, run = chainrule.load(model), tmp_path / "run"
    objective = ["--objective", "next" if before.model.config.causal else "masked"]
    main(
        [
            *("pretrain", str(tmp_path / "text.txt"), "--from", str(model), "--out", str(run), *objective),
            *("--steps", "4", "--batch-tokens", "128", "--compile", "off", "--json"),
        ]
    )
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == 4 and told["validation_loss"] > 0
    after = chainrule.load(run)
    assert after.family == before.family and after.model.config == before.model.config
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (run / name).read_bytes() == (model / name).read_bytes()
    moved = {
        name: float((one - other).detach().abs().max())
        for (name, one), other in zip(
            after.model.named_parameters(), dict(before.model.named_parameters()).values(), strict=True
        )
    }
    assert any(moved.values()) and max(moved.values()) < 0.01  # a pretrained model is changed, not forgotten
    peer = getattr(transformers, FAMILIES[after.family].architecture).from_pretrained(run)
    tokens = torch.tensor([[after.tokenizer.bos_id, *after.tokenizer.encode("the dog sat")]])
    with torch.no_grad():
        torch.testing.assert_close(after.model(tokens), peer(tokens).logits, atol=1e-4, rtol=0)
    if before.model.config.causal:
        ends = [after.tokenizer.bos_id, after.tokenizer.special["</s>"].id]
        assert list(after.stop_tokens) == ends == peer.generation_config.eos_token_id
