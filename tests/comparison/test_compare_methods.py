"""The real methods in a comparison: a small random model of bytes on a task that a word decides."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparison_fakes import made_task
from conftest import random_model

from chainrule.comparison.grid import Key
from chainrule.comparison.methods import METHODS
from chainrule.comparison.methods.method import Method
from chainrule.comparison.printed_table import COLUMNS
from chainrule.comparison.run import compare
from chainrule.comparison.study import MOST_SHOTS, Study
from chainrule.language_model import LanguageModel
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.prompt import Prompt
from chainrule.tokens.make import byte_tokenizer


def examples(count: int, name: str) -> Examples:
    texts = [f"{('poor', 'fine')[number % 2]} {name}{number}" for number in range(count)]
    return Examples(
        [{"text": text} for text in texts], [("0", "1")[number % 2] for number in range(count)], [""] * count
    )


BY_NAME = {method.name: method for method in METHODS}
PROMPT = Prompt("{text}: {label}", words={"0": "bad", "1": "good"})
STORED = Path(__file__).parent / "stored"  # a comparison of lm on TASK, made before the methods were objects
STORED_METHODS = (
    "zero-shot", "in-context", "in-context-nearest", "head", "full", "majority", "bag-of-words", "random-weights",
)  # fmt: skip
TASK = Task("classification", ("text",), "label", examples(12, "a"), examples(10, "b"), ("0", "1"), PROMPT)


@pytest.fixture(scope="module")
def lm() -> Iterator[LanguageModel]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield LanguageModel(random_model("qwen3", vocabulary_size=257, context=128), byte_tokenizer(), "qwen3")
    torch.set_num_threads(threads)


def test_every_method_is_compared_and_the_model_is_left_as_it_is(lm: LanguageModel, tmp_path: Path) -> None:
    before = {name: weights.clone() for name, weights in lm.model.state_dict().items()}
    said: list[str] = []
    found = compare(lm, TASK, out=tmp_path, sizes=[4], seeds=2, log=said.append)
    of_classes = [method for method in METHODS if not method.name.startswith("answers")]
    assert [cell.method for cell in found.cells] == of_classes
    assert not found.table.left_out  # methods for tasks of another kind are none that are left out
    assert said[0].startswith(f"{2 * len(of_classes) - 1} rows: N = 0, 4 labels; about ")
    kept: dict[str, Any] = {cell.name: cell.megabytes_to_keep for cell in found.cells}
    assert kept["zero-shot"] == 0 and kept["bag-of-words"] is None and kept["head"] == 2 * 32 * 4 / 1e6
    assert kept["words"] == kept["full"] == sum(weights.numel() for weights in lm.model.parameters()) * 4 / 1e6
    assert kept["lora"] == kept["words-lora"] + kept["head"] and "MB to keep" in COLUMNS
    assert all(torch.equal(weights, before[name]) for name, weights in lm.model.state_dict().items())
    for outcome in found.table.outcomes:
        assert outcome.probabilities is not None
        assert outcome.probabilities.sum(1) == pytest.approx(1, abs=1e-3)
        assert outcome.milliseconds_per_text > 0 and outcome.seconds_to_adapt > 0
    assert compare(lm, TASK, out=tmp_path, sizes=[4], seeds=2).results() == found.results()
    assert (tmp_path / "report.html").is_file()
    made = {outcome.key: outcome for outcome in found.table.outcomes}
    for line in (STORED / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        outcome = made[Key(row["method"], row["labels"], row["seed"])]
        assert (list(outcome.predictions), outcome.shots) == (row["predictions"], row["shots"])
        np.testing.assert_allclose(outcome.probabilities, row["probabilities"], atol=1e-2)


ESTIMATED_OTHERWISE_SINCE = {
    "advice", "comparisons", "pairs", "interval", "macro_f1_interval_approximate", "p_value", "adjusted_p_value",
}  # fmt: skip


def without_tests(results: Any) -> Any:
    """What was measured, without what is inferred from it."""
    if isinstance(results, dict):
        return {key: without_tests(value) for key, value in results.items() if key not in ESTIMATED_OTHERWISE_SINCE}
    return [without_tests(one) for one in results] if isinstance(results, list) else results


def close(found: Any, stored: Any) -> bool:
    """The same but for the last digits of numbers."""
    if isinstance(stored, dict):
        return found.keys() == stored.keys() and all(close(found[key], value) for key, value in stored.items())
    if isinstance(stored, list):
        return len(found) == len(stored) and all(map(close, found, stored))
    return bool(found == pytest.approx(stored, rel=1e-9, abs=1e-12) if isinstance(stored, float) else found == stored)


def test_rows_stored_by_an_earlier_version_give_the_figures_that_it_gave(lm: LanguageModel, tmp_path: Path) -> None:
    compare(lm, TASK, out=tmp_path, methods=["majority"], sizes=[4], seeds=1)
    shutil.copy(STORED / "rows.jsonl", tmp_path)
    compare(lm, TASK, out=tmp_path, methods=STORED_METHODS, sizes=[4], seeds=2)
    assert (tmp_path / "rows.jsonl").read_bytes() == (STORED / "rows.jsonl").read_bytes()
    found, stored = (json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in (tmp_path, STORED))
    assert found.keys() == stored.keys() and found["cells"][0].keys() == stored["cells"][0].keys()
    assert found["rows"] and found["pairs"] and found["pairs"][0].keys() == stored["pairs"][0].keys()
    assert close(found["rows"], stored["rows"])  # of one predictor each: with the same intervals
    assert close(without_tests(found), without_tests(stored))


def test_every_head_is_charged_for_the_features_that_are_computed_once(lm: LanguageModel) -> None:
    study = Study(lm, TASK)
    first = study.share(4, 0, TASK.test.rows)
    again = study.share(4, 0, TASK.test.rows)
    assert first == again and min(first) > 0
    assert BY_NAME["head"].shares_features


def test_other_weights_are_another_model_and_the_same_ones_the_same(lm: LanguageModel) -> None:
    def identity(seed: int) -> dict[str, str | None]:
        model = random_model("qwen3", vocabulary_size=257, context=128, seed=seed)
        return Study(LanguageModel(model, lm.tokenizer, "qwen3"), TASK).identity

    assert identity(0) == Study(lm, TASK).identity
    assert identity(1)["model"] != identity(0)["model"]


def test_a_prompt_shows_as_many_demonstrations_as_fit(lm: LanguageModel) -> None:
    study, method = Study(lm, TASK), BY_NAME["in-context"]
    fitted = method.fit(study, 12, 0)
    fitted.predict(TASK.test.rows)
    assert 1 < study.most_shots < min(12, MOST_SHOTS) and method.notes(study, fitted, TASK.test.rows) == []
    study.most_shots += 3
    more = method.fit(study, 12, 0)
    more.predict(TASK.test.rows)
    assert "demonstrations fitted into the context" in method.notes(study, more, TASK.test.rows)[0]


def test_texts_that_lose_their_beginning_are_counted_once_and_alike(lm: LanguageModel) -> None:
    long = examples(10, "c" * 200)
    study = Study(lm, replace(TASK, test=long))
    for method in (BY_NAME["head"], BY_NAME["head"], BY_NAME["majority"]):
        predictor = method.fit(study, 4, 0)
        predictor.predict(long.rows)
        notes = method.notes(study, predictor, long.rows)
        cut = ["10 test texts longer than the context of 128 tokens lost their beginning"]
        assert notes == ([] if method.name == "majority" else cut)


def test_labels_that_mean_nothing_leave_prompting_out(lm: LanguageModel) -> None:
    said: list[str] = []
    task = replace(TASK, prompt=Prompt("{text}: {label}"))
    found = compare(lm, task, sizes=[4], seeds=1, minutes=1e-9, log=said.append)
    asking = {"zero-shot", "in-context", "in-context-nearest", "words", "words-lora"}
    assert set(found.table.left_out) == {*asking}
    assert found.cells == [] and found.advice.startswith("There is nothing to compare yet")
    with pytest.raises(ValueError, match="--sizes: wanted numbers of labels above 0"):
        compare(lm, task, sizes=[0])
    with pytest.raises(ValueError, match="prompting wants labels that are words"):
        compare(lm, task, methods=["zero-shot"])


def test_free_answers_are_prompted_for_and_learned_as_answers(lm: LanguageModel) -> None:
    task = replace(made_task(tests=4, trains=8, kind="free"), prompt=Prompt("{text}: {label}"))
    found = compare(lm, task, sizes=[4], seeds=1)
    assert {cell.name for cell in found.cells} == {
        "zero-shot", "in-context", "in-context-nearest", "majority", "answers", "answers-lora",
    }  # fmt: skip
    for name in ("head", "words"):
        with pytest.raises(ValueError, match=f"--methods: wanted some of zero-shot, .* of kind 'free', got {name}$"):
            compare(lm, task, methods=[name])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_row_has_an_estimate(lm: LanguageModel, method: Method) -> None:
    study = Study(lm, TASK if not method.name.startswith("answers") else replace(TASK, kind="free", labels=()))
    assert 0 < method.seconds(study, 12, 10) < method.seconds(study, 12, 10**7) + 1e-9


def test_no_two_methods_share_a_name_a_title_or_a_colour() -> None:
    for values in zip(*((method.name, method.title, *method.colour) for method in METHODS), strict=True):
        assert len(set(values)) == len(METHODS)
