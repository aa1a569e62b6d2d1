"""Adapters of PEFT: it loads ours and we load its own, with the same logits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MASKED, SHAPES, random_model

import chainrule
from chainrule.cli import main
from chainrule.finetuning.finetune import finetune
from chainrule.language_model import LanguageModel, make_language_model
from chainrule.model.formats.adapter import load_adapted_classifier
from chainrule.model.formats.adapter_files import read_adapter
from chainrule.scoring.features import Features
from chainrule.tokens.make import byte_tokenizer

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(2))
TEXTS = ["a red thing", "so blue"]
LABELS = ("black", "blue", "red")
CPU = torch.device("cpu")
# Where PEFT knows no target modules by default they are named.
TARGETS = {
    **{family: ["q_proj", "v_proj", "down_proj"] for family in ("olmo2", "smollm3", "granite")},
    "phi3": ["qkv_proj", "down_proj"],
    "distilbert": ["q_lin", "lin1"],
    "modernbert": ["Wqkv", "mlp.Wo"],
}
WHOLE = {"bert": ["pooler"], "distilbert": ["pre_classifier"], "modernbert": ["head"]}  # beside the head itself
CLASSIFIERS = [*(family for family in SHAPES if family != "granite"), *MASKED]  # transformers has none of Granite


def save_base(folder: Path, family: str) -> Path:
    tokenizer = byte_tokenizer(mask=family in MASKED)
    make_language_model(random_model(family, tokenizer.vocabulary_size, context=64), tokenizer, family).save(
        folder / "base"
    )
    return folder / "base"


def moved(model: Any) -> Any:
    """No matrix at its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def their_causal(base: Path, out: Path, **options: Any) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    made = moved(peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options)))
    made.save_pretrained(out)
    return made


@pytest.mark.parametrize("targets", ["default", "all-linear"])
@torch.no_grad()
def test_a_causal_adapter_of_theirs_gives_their_logits(family: str, targets: str, tmp_path: Path) -> None:
    named = "all-linear" if targets == "all-linear" else TARGETS.get(family)
    base = save_base(tmp_path, family)
    theirs = their_causal(base, tmp_path / "adapter", target_modules=named, r=3, lora_alpha=5)
    plain = chainrule.load(base, device="cpu")
    ours = chainrule.load(tmp_path / "adapter", device="cpu")
    logits = theirs(TOKENS).logits
    torch.testing.assert_close(ours.model(TOKENS), logits, atol=5e-4, rtol=1e-4)
    assert (logits - plain.model(TOKENS)).abs().max() > 0.05
    assert isinstance(ours, LanguageModel)
    assert ours.generate("a", max_tokens=4, temperature=0.0) is not None
    assert ours.stop_tokens == plain.stop_tokens and ours.path is None


@torch.no_grad()
def test_rank_and_alpha_by_patterns_and_rank_stabilised_scales(tmp_path: Path) -> None:
    base = save_base(tmp_path, "llama")
    options = {"rank_pattern": {"layers.1.mlp.up_proj": 5}, "alpha_pattern": {"v_proj": 9}, "use_rslora": True}
    theirs = their_causal(base, tmp_path / "adapter", target_modules="all-linear", r=4, lora_alpha=3, **options)
    ours = chainrule.load(tmp_path / "adapter", device="cpu")
    torch.testing.assert_close(ours.model(TOKENS), theirs(TOKENS).logits, atol=5e-4, rtol=1e-4)


@torch.no_grad()
def test_an_adapter_of_the_output_layer_too_where_it_is_not_tied(tmp_path: Path) -> None:
    base = save_base(tmp_path, "llama")
    theirs = their_causal(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    ours = chainrule.load(tmp_path / "adapter", device="cpu")
    torch.testing.assert_close(ours.model(TOKENS), theirs(TOKENS).logits, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
@torch.no_grad()
def test_an_adapter_of_a_tied_output_unties_it(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_tokenizer()
    model = random_model(family, tokenizer.vocabulary_size, context=64, tied=True)
    make_language_model(model, tokenizer, family).save("base")
    theirs = their_causal(Path("base"), tmp_path / "adapter", target_modules=["lm_head"])
    logits = theirs(TOKENS).logits
    ours = chainrule.load("adapter", device="cpu")
    torch.testing.assert_close(ours.model(TOKENS), logits, atol=5e-4, rtol=1e-4)
    assert torch.equal(ours.model.embedding.weight, model.embedding.weight)
    main(["export", "adapter", "--to", "huggingface", "--out", "merged", "--json"])
    assert json.loads(capsys.readouterr().out)["largest_change_of_a_logit"] < 1e-3
    merged = transformers.AutoModelForCausalLM.from_pretrained("merged")
    assert not merged.config.tie_word_embeddings
    torch.testing.assert_close(merged(TOKENS).logits, logits, atol=5e-4, rtol=1e-4)


def test_export_tells_by_how_much_a_logit_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base = save_base(tmp_path, "llama")
    their_causal(base, tmp_path / "adapter", target_modules="all-linear")
    main(["export", "adapter", "--to", "huggingface", "--out", "merged"])
    assert "largest change of a logit" in capsys.readouterr().out
    plain = chainrule.load(base, device="cpu").model  # as if the merged model were another one
    monkeypatch.setattr("chainrule.exporting.export.load_unmerged", lambda *given: plain)
    main(["export", "adapter", "--to", "huggingface", "--out", "again", "--json"])
    assert json.loads(capsys.readouterr().out)["largest_change_of_a_logit"] > 0.1
    main(["export", "merged", "--to", "huggingface", "--out", "copy", "--json"])
    assert "largest_change_of_a_logit" not in json.loads(capsys.readouterr().out)


def test_the_commands_take_an_adapter_and_export_merges_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    their_causal(save_base(tmp_path, "gpt2"), tmp_path / "adapter", r=3)
    (tmp_path / "text.txt").write_text("a red thing\n" * 9)
    main(["export", "adapter", "--to", "huggingface", "--out", "merged"])
    for command in ("generate MODEL a --max-tokens 5", "score MODEL a", "evaluate MODEL text.txt"):
        made = []
        for model in ("adapter", "merged"):
            capsys.readouterr()
            main(command.replace("MODEL", model).split())
            made.append(capsys.readouterr().out.replace(model, "MODEL"))
        assert made[0] == made[1] != ""
    main(["info", "adapter", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["family"], found["adapter_rank"], found["adapter_modules"]) == ("gpt2", 3, "c_attn")
    merged = transformers.AutoModelForCausalLM.from_pretrained("merged")
    with torch.no_grad():
        logits = chainrule.load("adapter", device="cpu").model(TOKENS)
        torch.testing.assert_close(merged(TOKENS).logits, logits, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["c_attn", "wte"]}, "got also base_model.model.transformer.wte.lora_embedding_A"),
        ({"target_modules": ["c_attn"], "modules_to_save": ["ln_f"]}, "got also base_model.model.transformer.ln_f"),
        ({"target_modules": ["c_attn"], "use_dora": True}, "wanted use_dora False, got True"),
        ({"target_modules": ["c_attn"], "bias": "all"}, "wanted bias 'none', got 'all'"),
    ],
)
def test_what_is_not_supported_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    their_causal(save_base(tmp_path, "gpt2"), tmp_path / "adapter", **options)
    with pytest.raises(chainrule.ChainruleError, match=message):
        chainrule.load(tmp_path / "adapter", device="cpu")


@pytest.mark.parametrize("family", CLASSIFIERS)
@torch.no_grad()
def test_a_classifier_of_theirs_gives_their_logits(family: str, tmp_path: Path) -> None:
    base = save_base(tmp_path, family)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    options = {"target_modules": TARGETS.get(family), "modules_to_save": WHOLE.get(family), "r": 3}
    theirs = moved(peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", **options)))
    theirs.save_pretrained(tmp_path / "adapter")
    adapter = read_adapter(tmp_path / "adapter")
    loaded = load_adapted_classifier(tmp_path / "adapter", adapter, CPU, torch.float32)
    assert loaded.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    features = Features(loaded.model, byte_tokenizer(mask=family in MASKED))
    (tokens,) = features.tokens(["a red thing"])
    found = features(["a red thing"]) @ loaded.w.numpy().T
    np.testing.assert_allclose(found, theirs(torch.from_numpy(tokens)[None]).logits.numpy(), atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_peft_loads_ours_with_the_same_logits(family: str, tmp_path: Path) -> None:
    base = save_base(tmp_path, family)
    rows = [{"text": f"{number} {LABELS[number % 3]}", "label": LABELS[number % 3]} for number in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = chainrule.Task.load(tmp_path / "rows.jsonl", text=["text"], label="label")
    lm = chainrule.load(base, device="cpu", dtype="float32")
    made = finetune(lm, task, train="lora", rank=4, epochs=3, dtype="float32", out=tmp_path / "out")
    expected = made.features(TEXTS) @ made.w.numpy().T
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "out").eval()
    assert theirs.peft_config["default"].base_model_name_or_path == str(base)
    for text, row in zip(TEXTS, expected, strict=True):
        (tokens,) = made.features.tokens([text])
        with torch.no_grad():
            logits = theirs(torch.from_numpy(tokens)[None]).logits[0]
        np.testing.assert_allclose(logits.numpy(), row, atol=5e-4, rtol=1e-4)
