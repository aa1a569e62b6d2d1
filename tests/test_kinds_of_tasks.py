"""Several labels at once, and numbers: from a file of data to a classifier that transformers reads alike."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MASKED, random_model

import chainrule
from chainrule.cli import main
from chainrule.finetuning.classifier import load_classifier
from chainrule.finetuning.finetune import Finetuning
from chainrule.language_model import make_language_model
from chainrule.model.formats.classifier import head_has_bias
from chainrule.tokens.make import byte_tokenizer

TAGS = ("loud", "rude", "vile", "warm", "mild", "kind", "calm")
FAMILIES = ("llama", "qwen3", "gpt2", "bert", "roberta", "distilbert", "modernbert")
TEXTS = ["7 a loud and rude thing", "so mild", "x"]


def write_tags(path: Path, count: int, rows: int = 40) -> None:
    with path.open("w") as file:
        for number in range(rows):
            tags = [tag for index, tag in enumerate(TAGS[:count]) if number * (index + 3) % 7 < 2]
            file.write(json.dumps({"text": f"{number} a {' and '.join(tags)} thing", "tags": tags}) + "\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for count in (2, 3, 7):
        write_tags(tmp_path / f"tags{count}.jsonl", count)
        settings = f'kind = "multilabel"\ntrain = "tags{count}.jsonl"\ntext = "text"\nlabel = "tags"\n'
        (tmp_path / f"tags{count}.toml").write_text(settings)
    with (tmp_path / "stars.csv").open("w", newline="") as file:
        stars = [(number, number % 5, 1 + number % 5 + 0.5 * (number % 2)) for number in range(40)]
        rows = [(f"{number} is {'good ' * times}so", found) for number, times, found in stars]
        csv.writer(file).writerows([("text", "stars"), *rows])
    (tmp_path / "stars.toml").write_text('kind = "regression"\ntrain = "stars.csv"\ntext = "text"\nlabel = "stars"\n')
    return tmp_path


def save_base(folder: Path, family: str) -> None:
    tokenizer = byte_tokenizer(mask=family in MASKED)
    model = random_model(family, tokenizer.vocabulary_size, context=64)
    make_language_model(model, tokenizer, family).save(folder / family)


def run(capsys: pytest.CaptureFixture[str], command: str) -> Any:
    capsys.readouterr()
    main([*command.split(), "--json"])
    return json.loads(capsys.readouterr().out)


def of_transformers(directory: Path, texts: list[str]) -> torch.Tensor:
    """The outputs (N, C) that their pipeline of the directory gives, in the order of the classes."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        logits = model(**tokenizer(texts, return_tensors="pt", padding=True, truncation=True)).logits
    if model.config.problem_type == "regression":
        return logits
    assert model.config.problem_type == "multi_label_classification"
    assert len(model.config.id2label) == logits.shape[1]
    return logits.sigmoid()


CASES = [(family, 3, "head") for family in FAMILIES] + [
    ("qwen3", 2, "full"), ("qwen3", 7, "lora"), ("bert", 7, "full"), ("bert", 2, "lora"), ("gpt2", 3, "lora"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "count", "train"), CASES)
def test_several_labels_are_learned_saved_and_read_by_transformers_alike(
    family: str, count: int, train: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(folder, family)
    options = "" if train == "head" else "--epochs 3 --dtype float32"
    found = run(capsys, f"finetune {family} tags{count}.toml --train {train} {options} --out out")
    for name in ("micro_f1", "macro_f1", "lrap"):
        low, high = found[f"{name}_interval"]
        assert 0 <= low <= found[name] <= high <= 1
    classifier = load_classifier("out", device="cpu")
    assert classifier.labels == tuple(sorted(TAGS[:count]))
    probabilities = classifier.predict_proba(TEXTS)
    chosen = [tuple(label for label, p in zip(classifier.labels, row, strict=True) if p > 0.5) for row in probabilities]
    assert classifier.predict(TEXTS) == chosen
    predicted = run(capsys, "predict out x so")["predictions"]
    assert set(predicted[0]) == {"labels", "probabilities"} and set(predicted[0]["probabilities"]) == {*TAGS[:count]}
    classifier.save("again")
    np.testing.assert_array_equal(load_classifier("again", device="cpu").predict_proba(TEXTS), probabilities)
    if train != "lora":
        np.testing.assert_allclose(of_transformers(folder / "out", TEXTS), probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "train"), [*((each, "head") for each in FAMILIES), ("qwen3", "full"), ("bert", "lora")]
)
def test_a_number_is_learned_saved_and_read_by_transformers_alike(
    family: str, train: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(folder, family)
    options = "" if train == "head" else "--epochs 3 --dtype float32"
    found = run(capsys, f"finetune {family} stars.toml --train {train} {options} --out out")
    assert found["rmse_interval"][0] <= found["rmse"] <= found["rmse_interval"][1]
    assert found["r2"] <= 1 and -1 <= found["spearman"] <= 1
    classifier = load_classifier("out", device="cpu")
    values = classifier.predict(TEXTS)
    assert all(isinstance(value, float) for value in values) and classifier.labels == ()
    assert run(capsys, "predict out x")["predictions"] == [{"value": classifier.predict(["x"])[0]}]
    with pytest.raises(ValueError, match="wanted a classifier of labels, got one of a number: use predict"):
        classifier.predict_proba(TEXTS)
    assert classifier.bias is None or head_has_bias(family)
    if train != "lora":
        fields = json.loads((folder / "out/config.json").read_text())
        assert fields["id2label"] == {"0": "stars"}
        found = of_transformers(folder / "out", TEXTS)[:, 0]
        np.testing.assert_allclose(found, values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("task", ["tags7", "stars"])
@pytest.mark.parametrize("train", ["full", "lora"])
def test_stopped_and_continued_it_ends_with_the_same_bits(
    task: str, train: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_base(folder, "bert")
    command = f"finetune bert {task}.toml --train {train} --epochs 3 --dtype float32".split()
    main([*command, "--out", "whole"])
    advance = Finetuning.advance

    def stopped(self: Finetuning) -> Any:
        for progress in advance(self):
            if progress.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield progress

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "advance", stopped)
        with pytest.raises(SystemExit) as ended:
            main([*command, "--out", "parts"])
    assert ended.value.code == 143
    main([*command, "--out", "parts"])
    one, other = (list(load_classifier(out, device="cpu").stream(TEXTS)) for out in ("whole", "parts"))
    for (answer, outputs), (same, found) in zip(one, other, strict=True):
        assert answer == same
        np.testing.assert_array_equal(outputs, found)


def test_a_file_of_rows_gets_its_labels_and_numbers(folder: Path) -> None:
    save_base(folder, "qwen3")
    main("finetune qwen3 tags2.toml --train head --out out".split())
    main("finetune qwen3 stars.toml --train head --out numbers".split())
    main("predict out --input stars.csv --out tagged.csv".split())
    main("predict out --input stars.csv --out tagged.jsonl".split())
    main("predict numbers --input tags2.jsonl --out rated.csv".split())
    with Path("tagged.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in Path("tagged.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == ["|".join(line["prediction"]) for line in lines]
    assert set(rows[0]) == {"text", "stars", "prediction", "probability of loud", "probability of rude"}
    with Path("rated.csv").open(newline="") as file:
        rated = [float(row["prediction"]) for row in csv.DictReader(file)]
    assert len(rated) == 40 and np.isfinite(rated).all()


@pytest.mark.parametrize(("task", "measure"), [("tags3", "micro_f1"), ("stars", "r2")])
def test_the_methods_that_fit_are_compared_by_the_right_figure(
    task: str, measure: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(folder, "bert")
    asked = f"compare bert {task}.toml --sizes 8 16 --seeds 2 --out compared --methods majority bag-of-words head"
    results = run(capsys, asked)
    assert results["measure"] == measure and all("accuracy" not in row for row in results["rows"])
    assert {row["method"] for row in results["rows"]} == {"majority", "bag-of-words", "head"}
    assert all(row[measure] <= 1 for row in results["rows"])
    assert "micro-F1" in results["advice"] or "R²" in results["advice"]
    again = run(capsys, asked)
    assert again["rows"] == results["rows"] and again["cells"] == results["cells"]
    page = Path("compared/report.html").read_text()
    assert ("micro-F1" if measure == "micro_f1" else "R²") in page and Path("compared/curves.svg").is_file()
    with pytest.raises(SystemExit):
        main(f"compare bert {task}.toml --out other --methods zero-shot".split())
    told = capsys.readouterr().err
    assert "--methods: wanted some of head, " in told and told.endswith(", got zero-shot\n")


def test_python_finetunes_and_compares(folder: Path) -> None:
    save_base(folder, "gpt2")
    lm, task = chainrule.load("gpt2"), chainrule.Task.load("stars.toml")
    (value,) = chainrule.finetune(lm, task, train="head").predict(["good good good so"])
    assert isinstance(value, float)
    comparison = chainrule.compare(lm, chainrule.Task.load("tags2.toml"), sizes=[8], seeds=1, methods=["majority"])
    assert comparison.rows[0]["micro_f1"] >= 0
