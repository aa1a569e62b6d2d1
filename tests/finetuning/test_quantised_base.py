"""LoRA beside a base that stays quantised (QLoRA's idea): what it computes, its gradients, its files, and refusals."""

import csv
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import SHAPES, random_model

import chainrule
from chainrule.cli import main
from chainrule.exporting.export import export_gguf
from chainrule.finetuning.finetune import FinetuneOptions, Finetuning, open_finetuning
from chainrule.language_model import LanguageModel, make_language_model
from chainrule.model.adapter import adapters_of, merged, with_adapters
from chainrule.model.formats.adapter import adapter_parts
from chainrule.model.formats.adapter_files import weights_hash
from chainrule.model.native.products import multiply, widened
from chainrule.model.quantise import quantise_model
from chainrule.model.quantised import QuantisedLinear, is_quantised
from chainrule.model.transformer import Transformer
from chainrule.tokens.make import byte_tokenizer
from chainrule.training.low_rank import LowRankMatrices

WIDE = {"width": 64, "hidden": 96, "head_width": 16}  # blocks have 32 columns
COLOURS = ("red", "green", "blue", "white", "black", "pink", "brown")
TOKENS = torch.randint(0, 61, (2, 24), generator=torch.Generator().manual_seed(1))
FAMILIES = ("qwen3", "gpt2", "gemma3_text")


def quantised(family: str, to: Any = "int8") -> Transformer:
    model = random_model(family, **WIDE)
    quantise_model(model, to)
    return model


def save_base(folder: Path, family: str = "qwen3", seed: int = 0) -> None:
    tokenizer = byte_tokenizer()
    model = random_model(family, tokenizer.vocabulary_size, context=64, seed=seed, **WIDE)
    make_language_model(model, tokenizer, family).save(folder / family)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for count in (2, 3, 7):
        rows = [(f"{i} a {COLOURS[i % count]} thing", COLOURS[i % count]) for i in range(6 * count)]
        with (tmp_path / f"rows{count}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "colour"), *rows])
        words = "".join(f'{colour} = "{colour}"\n' for colour in COLOURS[:count])
        (tmp_path / f"rows{count}.toml").write_text(
            f'train = "rows{count}.csv"\ntext = "text"\nlabel = "colour"\n\n[prompt]\n'
            f'template = "{{text}} is {{label}}"\n\n[prompt.words]\n{words}'
        )
    monkeypatch.chdir(tmp_path)
    save_base(tmp_path)
    return tmp_path


def command(task: str, out: str, more: str = "") -> list[str]:
    asked = f"finetune qwen3 {task} --train lora --rank 4 --quantize int8 --epochs 2 --dtype float32 --out {out} {more}"
    return asked.split()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("to", ["int8", "int4"])
def test_with_b_of_zeros_it_is_the_quantised_base_to_the_bit(family: str, to: str) -> None:
    model = quantised(family, to)
    matrices = LowRankMatrices(model, adapter_parts(model, family), 4, seed=0)
    assert is_quantised(matrices.transformer) and len(adapters_of(matrices.transformer)) == 4 * model.config.layers
    with torch.no_grad():
        assert torch.equal(matrices.transformer(TOKENS), model(TOKENS))
    torch.testing.assert_close(matrices.transformer(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-4)  # as it is trained
    for layer in model.modules():
        if isinstance(layer, QuantisedLinear):
            assert any(layer is other for other in matrices.transformer.modules()), "the blocks are in memory once"


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
@pytest.mark.parametrize("rows", [1, 50])
def test_the_gradient_goes_through_the_blocks_as_through_the_values_they_stand_for(kind: str, rows: int) -> None:
    from chainrule.model.blocks import quantise

    generator = torch.Generator().manual_seed(rows)
    blocks = quantise(torch.randn(5000, 64, generator=generator), kind)  # more outputs than are widened at once
    x, other = (torch.randn(2, rows, 64, generator=torch.Generator().manual_seed(9)).requires_grad_() for _ in range(2))
    weight = widened(blocks, kind)
    gradient = torch.randn(2, rows, 5000, generator=generator)
    (ours,) = torch.autograd.grad(multiply(x, blocks, None, kind), x, gradient)
    (theirs,) = torch.autograd.grad(other @ weight.T, other, gradient)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_no_wide_weights_are_kept_for_the_backward_pass() -> None:
    shapes: list[tuple[int, ...]] = []

    def saved(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    matrices = LowRankMatrices(quantised("qwen3"), adapter_parts(quantised("qwen3"), "qwen3"), 4, seed=0)
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        matrices.transformer(TOKENS, output="features")
    wide = {
        (one.out_features, one.in_features)
        for one in matrices.transformer.modules()
        if isinstance(one, QuantisedLinear)
    }
    assert shapes and not wide & {*shapes, *(shape[::-1] for shape in shapes)}


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_it_computes_the_same_within_rounding(family: str) -> None:
    model = quantised(family)
    matrices = LowRankMatrices(model, adapter_parts(model, family), 4, seed=0)
    state = {
        name: torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1
        for name, parameter in matrices.transformer.named_parameters()
        if parameter.requires_grad
    }
    beside = matrices.result(state)
    whole = merged(beside)
    assert is_quantised(beside) and not is_quantised(whole)
    with torch.no_grad():
        found, wanted = whole(TOKENS), beside(TOKENS)
        assert not torch.equal(found, model(TOKENS))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_classifier_is_saved_as_pefts_files_and_loads_beside_the_same_blocks(
    count: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "--text text --label colour"
    main([*command(f"rows{count}.csv", "out", more), "--json"])
    assert json.loads(capsys.readouterr().out)["n"] > 0
    assert json.loads((folder / "out/adapter_config.json").read_text())["peft_type"] == "LORA"
    assert json.loads((folder / "out/chainrule_adapter.json").read_text())["quantized"] == "int8"
    lm = chainrule.load("qwen3", device="cpu", dtype="float32", quantize="int8")
    task = chainrule.Task.load(f"rows{count}.csv", text="text", label="colour")
    options = FinetuneOptions("lora", epochs=2, rank=4, dtype="float32")
    finetuning = Finetuning(lm, task, options)
    for _ in finetuning.advance():
        pass
    made, loaded = finetuning.predictor(), chainrule.load_classifier("out", device="cpu", dtype="float32")
    rows = ["a red thing", "so blue"]
    assert (made.predict_proba(rows) == loaded.predict_proba(rows)).all()
    assert is_quantised(made.features.model) and is_quantised(loaded.features.model)
    main(["export", "out", "--to", "huggingface", "--out", "merged"])
    whole = chainrule.load_classifier("merged", device="cpu", dtype="float32")
    assert not is_quantised(whole.features.model)
    assert whole.predict_proba(rows) == pytest.approx(loaded.predict_proba(rows), abs=1e-4)
    for start in ("out", "merged"):
        main(f"finetune {start} rows{count}.csv {more} --epochs 1 --out {start}-further".split())
    further = [chainrule.load_classifier(f"{start}-further").predict_proba(rows) for start in ("out", "merged")]
    assert further[0] == pytest.approx(further[1], abs=1e-3)


def test_stopped_and_gone_on_with_ends_as_if_it_had_never_stopped(folder: Path) -> None:
    def opened(out: str) -> Finetuning:
        lm = chainrule.load("qwen3", device="cpu", dtype="float32", quantize="int8")
        task = chainrule.Task.load("rows3.csv", text="text", label="colour")
        return Finetuning(lm, task, FinetuneOptions("lora", epochs=4, rank=4, dtype="float32"), out)

    straight, first = opened("straight"), opened("again")
    for _ in straight.advance():
        pass
    for progress in first.advance():
        if progress.step == 1:
            first.save()
            break
    second = opened("again")
    steps = [progress.step for progress in second.advance()]
    assert steps[0] == 2
    for finetuning in (straight, second):
        finetuning.predictor()
    assert (folder / "straight/adapter_model.safetensors").read_bytes() == (
        folder / "again/adapter_model.safetensors"
    ).read_bytes()


def test_on_label_words_and_on_a_corpus_the_base_stays_quantised_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in (folder / "qwen3").iterdir()}
    main(command("rows2.toml", "words", "--by words"))
    words = chainrule.load_classifier("words", device="cpu", dtype="float32")
    (folder / "text.txt").write_text("the cat sat on the mat. " * 60)
    main(
        "pretrain text.txt --from qwen3 --train lora --rank 4 --quantize int8 --out run --steps 3 --batch-tokens 128"
        " --dtype float32".split()
    )
    kept = chainrule.load("run", device="cpu", dtype="float32", quantize="auto")
    whole = chainrule.load("run", device="cpu", dtype="float32")
    base = chainrule.load("qwen3", device="cpu", dtype="float32", quantize="int8")
    assert is_quantised(words.lm.model) and is_quantised(kept.model) and not is_quantised(whole.model)  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(kept.model(TOKENS), whole.model(TOKENS), rtol=1e-4, atol=1e-3)
        assert not torch.equal(kept.model(TOKENS), base.model(TOKENS))
    assert {path.name: path.read_bytes() for path in (folder / "qwen3").iterdir()} == before
    capsys.readouterr()
    main(["export", "run", "--to", "huggingface", "--out", "merged"])
    exported = chainrule.load("merged", device="cpu", dtype="float32")
    with torch.no_grad():
        torch.testing.assert_close(exported.model(TOKENS), whole.model(TOKENS))
    main(["info", "run"])
    main("generate run the --max-tokens 3 --json".split())


@pytest.mark.parametrize("by", ["head", "words"])
def test_a_base_of_16_bits_stays_in_them_and_in_the_same_memory(by: Literal["head", "words"], folder: Path) -> None:
    tokenizer = byte_tokenizer()
    model = random_model("qwen3", tokenizer.vocabulary_size, context=64).to(torch.bfloat16)
    make_language_model(model, tokenizer, "qwen3").save("half")
    lm = chainrule.load("half", device="cpu", dtype="float32", quantize="auto")
    task = chainrule.Task.load("rows2.toml")
    made = chainrule.finetune(lm, task, train="lora", by=by, epochs=1, dtype="float32", out="out")
    own = {one.data_ptr() for one in lm.model.parameters()}
    assert all(one.dtype == torch.bfloat16 for one in lm.model.parameters())
    trained: Any = open_finetuning(lm, task, FinetuneOptions("lora", by=by, epochs=1, dtype="float32"))
    model = trained._trained.transformer if by == "words" else trained._training.trained.transformer
    assert {one.data_ptr() for one in model.parameters() if not one.requires_grad} <= own
    back = chainrule.load_classifier("out", device="cpu", dtype="float32")
    np.testing.assert_allclose(back.predict_proba(["1 a"]), made.predict_proba(["1 a"]), atol=1e-5)


def test_a_ggufs_own_blocks_stay_and_are_one_base_with_the_values_they_stand_for(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    model = random_model("llama", tokenizer.vocabulary_size, context=64, **WIDE)
    make_language_model(model, tokenizer, "llama").save(folder / "llama")
    export_gguf(folder / "llama", folder / "base.gguf", "q4_0")
    for quantize in ("auto", "none"):
        asked = "finetune base.gguf rows2.toml --by words --train lora --rank 4 --epochs 1 --dtype float32"
        main([*asked.split(), "--quantize", quantize, "--out", quantize])
    hashes = {
        quantize: json.loads((folder / quantize / "chainrule_adapter.json").read_text())["base_sha256"]
        for quantize in ("auto", "none")
    }
    assert hashes["auto"] == hashes["none"]
    kept, whole = (chainrule.load(name, device="cpu", dtype="float32", quantize="auto") for name in ("auto", "none"))
    assert is_quantised(kept.model) and not is_quantised(whole.model)
    with torch.no_grad():  # trained on the same values, by products that round differently
        torch.testing.assert_close(kept.model(TOKENS), whole.model(TOKENS), rtol=1e-2, atol=2e-2)


def test_another_base_is_refused_whether_quantised_or_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(command("rows2.csv", "out", "--text text --label colour"))
    save_base(folder, seed=1)
    with pytest.raises(SystemExit) as ended:
        main(["predict", "out", "a red thing"])
    assert ended.value.code == 2
    assert "wanted the base model that the adapter was trained on" in capsys.readouterr().err


def test_blocks_and_the_values_they_stand_for_have_one_hash() -> None:
    model = quantised("qwen3")
    matrices = with_adapters(model, adapter_parts(model, "qwen3"), {})
    assert weights_hash(model) == weights_hash(merged(matrices)) != weights_hash(random_model("qwen3", **WIDE))


@pytest.mark.parametrize("train", ["full", "head"])
def test_what_moves_the_weights_themselves_is_refused(
    train: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked in (
        f"finetune qwen3 rows2.csv --text text --label colour --train {train} --quantize int8 --out no",
        "pretrain rows2.csv --from qwen3 --quantize int8 --out no --steps 1",
    ):
        with pytest.raises(SystemExit) as ended:
            main(asked.split())
        error = capsys.readouterr().err.strip()
        assert ended.value.code == 2 and "--train lora beside it" in error and "\n" not in error
        assert not (folder / "no").exists()


def test_peft_loads_the_adapter_onto_the_whole_base(folder: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    main(command("rows2.toml", "words", "--by words"))
    base = transformers.AutoModelForCausalLM.from_pretrained("qwen3", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, "words").eval()
    ours = chainrule.load("words", device="cpu", dtype="float32")
    assert isinstance(ours, LanguageModel)
    with torch.no_grad():  # the base's matrices differ by the rounding to 8 bits alone
        found, wanted = theirs(TOKENS).logits, ours.model(TOKENS)
    assert (found - wanted).std() < 0.05 * wanted.std()


assert set(FAMILIES) <= set(SHAPES)
