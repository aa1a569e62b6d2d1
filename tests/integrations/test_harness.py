"""lm-evaluation-harness gets from our model the numbers that its own `hf` model gives, on a task of each kind."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import random_model

import chainrule
from chainrule.cli import main
from chainrule.language_model import LanguageModel
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.tokens.make import byte_tokenizer, train_bpe

ROWS = [
    {"text": "a charming film", "label": 1, "last": "great"},
    {"text": "a mess, too long", "label": 0, "last": "terrible"},
    {"text": "so good and so  warm", "label": 1, "last": "great"},
    {"text": "né, bad", "label": 0, "last": "terrible"},
]
LONG = "a charming film, and a mess that was too long. " * 8  # longer than the context
TASKS: dict[str, dict[str, Any]] = {
    "local_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Review: {{text}}\nSentiment:",
        "doc_to_choice": ["terrible", "very great"],
        "doc_to_target": "label",
        "num_fewshot": 2,
        "fewshot_split": "train",
    },
    "local_likelihood": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}} it was ",
        "doc_to_target": "{{last}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "local_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "local_generate": {
        "output_type": "generate_until",
        "doc_to_text": "Review: {{text}}\nSentiment:",
        "doc_to_target": "{{last}}",
        "num_fewshot": 1,
        "fewshot_split": "train",
        "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 9, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the tasks' YAML files (JSON is YAML), whose rows lie beside them."""
    import datasets
    from lm_eval.tasks import TaskManager

    from chainrule.integrations import harness

    folder = tmp_path_factory.mktemp("tasks")
    for split, rows in (("train", ROWS[::-1]), ("test", [*ROWS, {"text": LONG, "label": 0, "last": "terrible"}])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
    for name, task in TASKS.items():
        content = {"task": name, **common, "training_split": "train", "metadata": {"version": 1}, **task}
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        # Its own fourteen thousand tasks take the harness 10 seconds and more to list.
        patch.setattr(harness, "TaskManager", partial(TaskManager, include_defaults=False))
        yield folder


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    sample = [f"Review: {row['text']}\nSentiment: very {row['last']}" for row in ROWS]
    tokenizer = train_bpe(sample * 9, 320)
    model = random_model("llama", vocabulary_size=tokenizer.vocabulary_size, context=160)
    LanguageModel(model, tokenizer, "llama").save(tmp_path / "model")
    return tmp_path / "model"


def samples(results: dict[str, Any]) -> dict[tuple[str, int], Any]:
    return {
        (task, sample["doc_id"]): sample["filtered_resps"]
        for task, found in results["samples"].items()
        for sample in found
    }


def test_the_numbers_are_those_of_the_harness_own_model(directory: Path, tasks: Path) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from chainrule.integrations.harness import HarnessModel

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    models = (
        HarnessModel(chainrule.load(directory, dtype="float32")),
        HFLM(str(directory), device="cpu", dtype="float32", batch_size=2, add_bos_token=True),
    )
    ours, theirs = (
        lm_eval.simple_evaluate(model, tasks=list(TASKS), task_manager=manager, log_samples=True, bootstrap_iters=0)
        for model in models
    )
    for task, figures in theirs["results"].items():
        for name, value in figures.items():
            wanted = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert ours["results"][task][name] == wanted, (task, name)
    mine, wanted = samples(ours), samples(theirs)
    assert mine.keys() == wanted.keys() and len(mine) == 5 * len(TASKS)
    for place, answers in wanted.items():
        for one, other in zip(mine[place], answers, strict=True):
            if place[0] == "local_generate":
                assert one == other, place
            elif place[0] == "local_rolling":
                assert one == pytest.approx(other, abs=1e-3), place
            else:
                assert one[0] == pytest.approx(other[0], abs=1e-3) and one[1] == other[1], place


def test_the_verb_prints_a_line_a_metric(directory: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["evaluate", str(directory), "--tasks", "local_choice", "--include", str(tasks)]
    main([*asked, "--limit", "3", "--json"])
    found = json.loads(capsys.readouterr().out)["tasks"]
    assert {(one["task"], one["metric"]) for one in found} == {("local_choice", "acc"), ("local_choice", "acc_norm")}
    assert all(one["n"] == 3 for one in found)
    accuracy = next(one for one in found if one["metric"] == "acc")
    assert 0 <= accuracy["value"] <= 1 and accuracy["standard_error"] >= 0
    main([*asked, "--limit", "3"])
    assert "acc_norm" in capsys.readouterr().out


def test_the_tasks_are_the_harness_own_and_those_of_the_folder(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chainrule.integrations import harness

    class ListedError(Exception):
        pass

    def task_manager(*, include_path: str | None, include_defaults: bool = True) -> None:
        raise ListedError(include_path, include_defaults)

    monkeypatch.setattr(harness, "TaskManager", task_manager)
    for include, path in ((None, None), (tmp_path, str(tmp_path))):
        with pytest.raises(ListedError) as listed:
            harness.evaluate_tasks(chainrule.load(directory), ["local_choice"], include=include)
        assert listed.value.args == (path, True)


def test_what_cannot_be_evaluated_is_refused_in_one_line(
    directory: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masked = MaskedLanguageModel(
        random_model("bert", vocabulary_size=258, context=160), byte_tokenizer(mask=True), "bert"
    )
    masked.save(directory.parent / "masked")
    (directory.parent / "text.txt").write_text("text")
    for arguments, message in (
        ([str(directory), "--tasks", "no_such_task"], "got 'no_such_task'; see lm-eval ls tasks"),
        ([str(directory)], "wanted files of text, or --tasks"),
        ([str(directory), str(directory.parent / "text.txt"), "--tasks", "local_choice"], "got both or neither"),
        ([str(directory), str(directory.parent / "text.txt"), "--limit", "3"], "--limit: wanted --tasks beside it"),
        ([str(directory), "--tasks", "local_choice", "--stride", "3"], "--stride: wanted files of text beside it"),
        ([str(directory), "--tasks", "local_choice", "--limit", "0"], "--limit: wanted at least 1, got 0"),
        ([str(directory.parent / "masked"), "--tasks", "local_choice"], "wanted a causal language model"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", *arguments, *(["--include", str(tasks)] if "--tasks" in arguments else [])])
        assert message in capsys.readouterr().err


def test_without_the_harness_its_cure_is_said(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "chainrule.integrations.harness", None)
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(directory), "--tasks", "local_choice"])
    assert "pip install 'chainrule[eval]'" in capsys.readouterr().err
