"""Finetuning: what is learned, what is left alone, and that a killed run ends as if it had never stopped."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chainrule.finetuning import recipes, trained
from chainrule.finetuning.centred import HeadWeights
from chainrule.finetuning.classifier import load_classifier
from chainrule.finetuning.finetune import FinetuneOptions, Finetuning, finetune
from chainrule.finetuning.head import solve_head
from chainrule.finetuning.problems import Computing, OneLabel
from chainrule.finetuning.recipes import recipe
from chainrule.finetuning.trained import AllWeights, ClassifierTraining
from chainrule.language_model import LanguageModel
from chainrule.model.config import Config
from chainrule.model.formats.classifier import without_output
from chainrule.model.padding import padded
from chainrule.model.transformer import Transformer, initialise
from chainrule.scoring.features import Features
from chainrule.tasks.examples import Task
from chainrule.tokens.make import byte_tokenizer
from chainrule.training import trainer
from chainrule.training.classes import Classes, LabelledTexts
from chainrule.training.optimizer import Schedule

WORDS = {"good": ["warm", "fine", "lovely"], "bad": ["dull", "sad", "poor"]}


def make_task(folder: Path, count: int = 80, longest: int = 6) -> Task:
    """Which kind of word a text ends with, after others that say nothing."""
    rng = random.Random(0)
    for name in ("train", "test"):
        lines = []
        for number in range(count):
            label = ("good", "bad")[number % 2]
            around = [rng.choice(["a", "so", "it", "is"]) for _ in range(rng.randint(1, longest))]
            text = f"{name} {number} {' '.join(around)} {rng.choice(WORDS[label])}"
            lines.append(json.dumps({"text": text, "label": label}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    columns = 'text = "text"\nlabel = "label"\n'
    (folder / "task.toml").write_text(f'train = "train.jsonl"\ntest = "test.jsonl"\n{columns}')
    return Task.load(folder / "task.toml")


def make_lm(seed: int = 0, family: str = "qwen3") -> LanguageModel:
    config = Config(257, 64, width=32, layers=2, heads=4, key_value_heads=2, head_width=8, hidden=48)
    model = Transformer(config)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return LanguageModel(model.eval(), byte_tokenizer(), family)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path)


def accuracy(predictions: list[str], task: Task) -> float:
    return float(np.mean([one == other for one, other in zip(predictions, task.test.labels, strict=True)]))


def test_head_leaves_theta_untouched_bit_for_bit_and_predicts_from_it(task: Task) -> None:
    lm = make_lm()
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    classifier = finetune(lm, task, train="head")
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert classifier.features.model.embedding.weight is lm.model.embedding.weight
    assert accuracy(classifier.predict(task.test.rows), task) > 0.6


def test_full_learns_and_leaves_the_language_model_as_it_was(task: Task) -> None:
    lm = make_lm()
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    classifier = finetune(lm, task, learning_rate=3e-3, dtype="float32")
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert accuracy(classifier.predict(task.test.rows), task) > 0.9


def test_the_head_tells_classes_apart_whatever_the_scale_and_shift_of_the_features() -> None:
    rng = np.random.default_rng(0)
    for count, C in ((40, 2), (200, 3)):
        classes = np.arange(count) % C
        features = (rng.normal(size=(count, 5)) + classes[:, None] * [3, 0, 0, 0, 0]) * [1e-2, 1, 100, 1, 0] + [
            0.02,
            2,
            200,
            2,
            2,
        ]
        w = solve_head(features.astype(np.float32), classes, balanced=False, seed=0)
        assert w.shape == (C, 5)
        assert w.sum(0).abs().max() < 1e-4 * w.abs().max()  # what all classes share changes nothing
        logits = torch.from_numpy(features).float() @ w.T
        assert (logits.argmax(1).numpy() == classes).mean() > 0.8


def test_the_same_call_gives_the_same_bits_and_another_seed_others(task: Task) -> None:
    made = [
        finetune(make_lm(), task, labels=16, epochs=5, seed=seed, dtype="float32").predict_proba(task.test.rows)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()


def plain_training(lm: LanguageModel, texts: LabelledTexts, steps: int) -> tuple[Transformer, torch.Tensor]:
    """Full finetuning without anything clever: all of the embedding, one padded batch a step, all positions."""
    made = recipe(len(texts), lm.model.config.width, learning_rate=1e-3)
    model = without_output(lm.model)
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    w = torch.nn.Parameter(torch.zeros(2, 32))
    groups = [{"params": list(model.parameters()), "rate": made.rate}, {"params": [w], "rate": made.head_rate}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
    schedule = Schedule(made.steps, warmup=made.steps // 10, decay=0.9)
    for step in range(steps):
        first = step * made.batch_size % len(texts)
        epoch = step * made.batch_size // len(texts)
        rows = np.random.default_rng([0, epoch]).permutation(len(texts))[first : first + made.batch_size]
        tokens, last = padded([texts.documents[row] for row in rows], torch.device("cpu"))
        features = model.features(tokens)[torch.arange(len(rows)), last]
        loss = torch.nn.functional.cross_entropy(
            features @ w.T, torch.from_numpy(texts.classes[rows]), label_smoothing=recipes.SMOOTHING
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), w], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * schedule(step)
        optimizer.step()
    return model, w.detach()


def test_training_equals_the_plain_way(task: Task) -> None:
    lm = make_lm()
    documents = Features(lm.model, lm.tokenizer).tokens([task.finetune_text(row) for row in task.train.rows[:64]])
    texts = LabelledTexts(documents, np.array([task.labels.index(label) for label in task.train.labels[:64]]))
    made = recipe(64, 32, learning_rate=1e-3)
    training = ClassifierTraining(
        AllWeights(without_output(lm.model), documents),
        HeadWeights(torch.zeros(2, 32)),
        OneLabel(task.labels, False, 0).objective(texts, made, Computing(100, torch.device("cpu"))),  # in several parts
        LabelledTexts([], np.empty(0, np.int64)),
        made,
        torch.float32,
    )
    steps = training.trainer.steps()
    for _ in range(6):
        next(steps)
    model, (w, _) = training.result()
    plain, plain_w = plain_training(lm, texts, 6)
    torch.testing.assert_close(w, plain_w, atol=1e-5, rtol=1e-4)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3, msg=name)


def test_class_weights_make_a_rare_class_count_as_much(tmp_path: Path) -> None:
    rows = [
        {"text": f"{'ab'[number % 2]} {number}", "label": "rare" if number < 6 else "common"} for number in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = Task.load(tmp_path / "rows.jsonl", text=["text"], label="label")
    for train in ("head", "full"):
        asked = [
            finetune(make_lm(), task, train=train, class_weights=weighted, epochs=3, dtype="float32")  # type: ignore[arg-type]
            for weighted in (False, True)
        ]
        plain, weighted = (one.predict_proba(task.train.rows)[:, task.labels.index("rare")].mean() for one in asked)
        assert plain < 0.3 < weighted


def test_from_64_labels_on_a_fifth_validates_and_the_best_state_is_kept(task: Task) -> None:
    few = Finetuning(make_lm(), task, FinetuneOptions(labels=63, epochs=1, dtype="float32"))
    assert all(progress.validation_loss is None for progress in few.advance())
    many = Finetuning(make_lm(), task, FinetuneOptions(labels=64, learning_rate=0.1, dtype="float32"))
    progress = list(many.advance())
    assert sum(one.validation_loss is not None for one in progress) == trained.VALIDATIONS
    training = many._training
    assert training is not None
    objective, validating = training.trainer.objective, training.trainer.validating
    assert isinstance(objective, Classes) and validating is not None
    assert len(objective.texts) == 51
    with torch.no_grad():
        training.model.load_state_dict(training.trainer.result())
        again = validating.measure()
    assert again == training.trainer.best  # the kept state is the one that was judged the best


def test_texts_longer_than_the_context_are_cut_and_counted_or_refused(tmp_path: Path) -> None:
    task = make_task(tmp_path, longest=40)
    classifier = finetune(make_lm(), task, epochs=0.1, dtype="float32")
    assert classifier.cut > 0
    showing = Finetuning(make_lm(), task, FinetuneOptions("head"))
    assert len(showing.shown(8)) == 8
    assert showing.predictor().notes == finetune(make_lm(), task, train="head").notes
    assert "lost their beginning" in classifier.notes[0]
    for train in ("head", "full"):
        with pytest.raises(ValueError, match="wanted at most 63 tokens"):
            finetune(make_lm(), task, train=train, longer="refuse")  # type: ignore[arg-type]


@pytest.mark.parametrize("train", ["head", "full"])
def test_out_holds_the_classifier_and_the_same_call_finds_it(task: Task, tmp_path: Path, train: Any) -> None:
    out = tmp_path / "classifier"
    made = finetune(make_lm(), task, train=train, labels=16, epochs=2, dtype="float32", out=out)
    expected = made.predict_proba(task.test.rows)
    assert not (out / "training").exists()
    before = (out / "model.safetensors").stat().st_mtime_ns
    again = finetune(make_lm(), task, train=train, labels=16, epochs=2, dtype="float32", out=out)
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    for found in (again, load_classifier(out, device="cpu")):
        np.testing.assert_array_equal(found.predict_proba(task.test.rows), expected)


def test_out_of_another_finetuning_is_refused_and_what_differs_is_named(task: Task, tmp_path: Path) -> None:
    finetune(make_lm(), task, train="head", labels=16, out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"--labels: wanted 16, as when .* was begun, got 20"):
        finetune(make_lm(), task, train="head", labels=20, out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"the model: wanted \w+…, as when .* was begun"):
        finetune(make_lm(seed=1), task, train="head", labels=16, out=tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("Dear")
    with pytest.raises(
        ValueError, match=r"a new folder or a finetuning, got one that holds something else \(letter\.txt"
    ):
        finetune(make_lm(), task, train="head", out=tmp_path / "other")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.toml").write_text("[options]\n")
    with pytest.raises(ValueError, match="wanted the record of a finetuning, got one without finetune"):
        finetune(make_lm(), task, train="head", out=tmp_path / "broken")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "half"}, "train: wanted full or lora or head, got 'half'"),
        ({"longer": "drop"}, "longer: wanted cut or refuse, got 'drop'"),
        ({"epochs": 0}, "epochs: wanted a positive number, got 0"),
        ({"learning_rate": -1.0}, "--learning-rate: wanted a positive number, got -1.0"),
        ({"dtype": "int8"}, "wanted auto, float32 or bfloat16, got int8"),
        ({"labels": 1}, "labels: wanted from 2"),
    ],
)
def test_options_out_of_range_are_refused(task: Task, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(make_lm(), task, **options)


def test_a_task_of_free_answers_without_a_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"q": f"{n} + 1", "a": str(n + 1)}) for n in range(10)))
    (tmp_path / "task.toml").write_text('kind = "free"\ntrain = "rows.jsonl"\ntext = "q"\nlabel = "a"\n')
    free = Task.load(tmp_path / "task.toml")
    with pytest.raises(ValueError, match=r"prompting wants \[prompt\] and its template"):
        finetune(make_lm(), free)
    with pytest.raises(ValueError, match="by: wanted head, as a task of kind 'free' has no label words, got words"):
        finetune(make_lm(), free, by="words")


def test_losses_that_are_not_finite_end_it() -> None:
    lm = make_lm()
    with torch.no_grad():
        lm.model.norm.weight.fill_(float("inf"))
    made = recipe(4, 32)
    texts = LabelledTexts([np.array([1, 2])] * 4, np.array([0, 1, 0, 1]))
    finetuning = ClassifierTraining(
        AllWeights(without_output(lm.model), [np.array([1, 2])]),
        HeadWeights(torch.ones(2, 32)),
        OneLabel(("a", "b"), False, 0).objective(texts, made, Computing(100, torch.device("cpu"))),
        LabelledTexts([], np.empty(0, np.int64)),
        made,
        torch.float32,
    )
    with pytest.raises(
        ValueError, match="10 steps in a row without one, at step 10; start again with a lower learning rate"
    ):
        for _ in finetuning.trainer.steps():
            pass


def test_the_recipe_takes_100_steps_for_few_labels_and_3_epochs_of_many() -> None:
    assert recipe(16, 768).steps == 100
    assert recipe(16, 768).batch_size == 16
    assert recipe(6400, 768).steps == 600
    assert recipe(6400, 768, epochs=0.5).steps == 100
    assert recipe(4, 768, epochs=0.1).steps == 1


def finetune_with_saves(folder: Path, out: Path) -> None:
    """In a process of its own: every step is saved, so that a kill may come at any."""
    torch.set_num_threads(1)
    trainer.SAVE_SECONDS = 0.0
    finetune(make_lm(), Task.load(folder / "task.toml"), epochs=8, dtype="float32", out=out)


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    make_task(tmp_path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "pytest", "sklearn.linear_model", "chainrule.finetuning.finetune"])

    def process(out: Path) -> Any:
        child = context.Process(target=finetune_with_saves, args=(tmp_path, out))
        child.start()
        return child

    started = time.monotonic()
    whole = process(tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0
    lasted = time.monotonic() - started
    rng, out = random.Random(0), tmp_path / "killed"
    for number in range(5):
        child = process(out)
        child.join(lasted * rng.uniform(0.1, 0.4 + number / 8))
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
    last = process(out)
    last.join()
    assert last.exitcode == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_stopped_and_saved_at_every_step_it_ends_with_the_same_bits(task: Task, tmp_path: Path) -> None:
    options = FinetuneOptions(epochs=4, dtype="float32")
    expected = finetune(make_lm(), task, epochs=4, dtype="float32").predict_proba(task.test.rows)
    for _ in range(8):
        stopped = Finetuning(make_lm(), task, options, tmp_path / "stopped")
        for _ in stopped.advance():
            stopped.save()
            break
    np.testing.assert_array_equal(stopped.predictor().predict_proba(task.test.rows), expected)


def test_features_given_are_used_and_shared(task: Task) -> None:
    lm = make_lm()
    features = Features(lm.model, lm.tokenizer, remember=True)
    shared = finetune(lm, task, train="head", labels=16, features=features)
    assert shared.features is features
    plain = finetune(lm, task, train="head", labels=16)
    np.testing.assert_allclose(shared.predict_proba(task.test.rows), plain.predict_proba(task.test.rows), atol=1e-4)
