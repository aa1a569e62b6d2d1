"""A run, killed anywhere and begun again, ends as if it had never stopped."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from chainrule.corpus.write import CorpusOptions
from chainrule.pretraining.options import PretrainOptions
from chainrule.pretraining.run import Run
from chainrule.pretraining.start import open_run

OPTIONS = PretrainOptions(
    depth=2, width=32, heads=2, context=32, batch_tokens=256, steps=60, validate_every=7, compile="off"
)
CORPUS = CorpusOptions(tokenizer="byte", workers=1)
# What a run imports, so that each process that is killed has it already; torch.optim imports torch._dynamo.
PRELOADED = ["torch._dynamo", "pytest", "chainrule.pretraining.start", "chainrule.pretraining.curve"]


def text(tmp_path: Path) -> str:
    words = ["the", "owl", "sees", "a", "mouse", "and", "night", "falls", "\n"]
    rng = random.Random(0)
    (tmp_path / "text.txt").write_text(" ".join(rng.choice(words) for _ in range(4000)))
    return str(tmp_path / "text.txt")


def run_to_the_end(data: str, out: Path, options: PretrainOptions = OPTIONS) -> Run:
    torch.set_num_threads(1)
    run = open_run([data], out, options, CORPUS, dtype="float32")
    for _ in run.advance():
        pass
    return run


def log_without_times(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    times = ("seconds", "tokens_per_second", "mfu")
    return [{key: value for key, value in line.items() if key not in times} for line in lines]


def test_killed_at_twenty_random_moments_a_run_ends_with_the_same_bits_and_the_same_log(tmp_path: Path) -> None:
    data = text(tmp_path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def process(out: Path) -> Any:
        return context.Process(target=run_to_the_end, args=(data, out))

    started = time.monotonic()
    whole = process(tmp_path / "whole")
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    lasted = time.monotonic() - started

    rng = random.Random(1)
    for number in range(20):
        out = tmp_path / "killed" if number < 10 else tmp_path / "killed again"  # two runs of ten kills each
        child = process(out)
        child.start()
        child.join(rng.uniform(0.02, 0.5) * lasted * (0.2 + number % 10 / 10))
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
    for out in (tmp_path / "killed", tmp_path / "killed again"):
        last = process(out)
        last.start()
        last.join()
        assert last.exitcode == 0
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
        assert log_without_times(out) == log_without_times(tmp_path / "whole")
        assert not list(out.glob(".*.partial")) + list((out / "training").glob(".*.partial"))


def test_stopped_at_every_step_and_saved_a_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    data = text(tmp_path)
    options = PretrainOptions(
        depth=1, width=16, heads=2, context=16, batch_tokens=64, steps=9, validate_every=4, compile="off"
    )
    whole = run_to_the_end(data, tmp_path / "whole", options)
    for _ in range(9):
        run = open_run([data], tmp_path / "stopped", options, CORPUS, dtype="float32")
        next(iter(run.advance()))
        run.save()
    assert run.finished
    run.publish()
    assert (tmp_path / "stopped/model.safetensors").read_bytes() == (whole.out / "model.safetensors").read_bytes()
    assert log_without_times(tmp_path / "stopped") == log_without_times(whole.out)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_transformers_loads_a_run_and_its_tokenizer_puts_bottom_in_front(tmp_path: Path, family: Any) -> None:
    import transformers

    options = PretrainOptions(
        depth=1, width=16, heads=2, context=16, batch_tokens=64, steps=3, compile="off", family=family
    )
    run = run_to_the_end(text(tmp_path), tmp_path / "run", options)
    peer = transformers.AutoModelForCausalLM.from_pretrained(run.out)
    tokens = transformers.AutoTokenizer.from_pretrained(run.out)("the owl", return_tensors="pt")["input_ids"]
    run.model.eval()
    run.model.compute_dtype = None
    assert tokens[0].tolist() == [run.language_model.tokenizer.bos_id, *run.language_model.tokenizer.encode("the owl")]
    with torch.no_grad():
        torch.testing.assert_close(run.model(tokens), peer(tokens).logits, atol=1e-4, rtol=0)


def test_the_loss_falls_and_the_log_and_the_curve_are_written(tmp_path: Path) -> None:
    run = run_to_the_end(text(tmp_path), tmp_path / "run")
    lines = run.log()
    assert lines[-1]["step"] == 60
    assert lines[-1]["validation_loss"] < 0.7 * lines[0]["loss"]
    assert (run.out / "loss.svg").read_text().count("<path") > 2
    assert sorted(path.name for path in (run.out / "training").iterdir()) == ["60"]


def test_where_the_disk_has_no_hard_links_the_model_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(source))

    monkeypatch.setattr(os, "link", refused)
    out = tmp_path / "run"
    run_to_the_end(text(tmp_path), out, dataclasses.replace(OPTIONS, steps=2))
    assert (out / "model.safetensors").read_bytes() == (out / "training/2/model.safetensors").read_bytes()
    assert not list(out.glob(".*"))


def test_minutes_fix_the_number_of_steps_once(tmp_path: Path) -> None:
    options = PretrainOptions(depth=1, width=16, heads=2, context=16, batch_tokens=64, minutes=0.5, compile="off")
    run = open_run([text(tmp_path)], tmp_path / "run", options, CORPUS)
    next(iter(run.advance()))
    run.save()
    again = open_run([str(tmp_path / "text.txt")], tmp_path / "run", options, CORPUS)
    assert again.decided == run.decided
    assert again.decided.steps > 1


def test_steps_and_minutes_together_are_the_fewer_steps(tmp_path: Path) -> None:
    shape = PretrainOptions(depth=1, width=16, heads=2, context=16, batch_tokens=64, compile="off")
    few = dataclasses.replace(shape, steps=3, minutes=5.0)
    assert open_run([text(tmp_path)], tmp_path / "few", few, CORPUS).decided.steps == 3
    short = dataclasses.replace(shape, steps=10**9, minutes=0.2)
    assert 1 <= open_run([text(tmp_path)], tmp_path / "short", short, CORPUS).decided.steps < 10**6


def test_ten_steps_in_a_row_that_are_not_finite_end_the_run_and_keep_the_last_good_state(tmp_path: Path) -> None:
    run = open_run([text(tmp_path)], tmp_path / "run", OPTIONS, CORPUS)
    steps = run.advance()
    for _ in range(7):
        next(steps)
    good = (run.out / "model.safetensors").read_bytes()
    with torch.no_grad():
        run.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="10 steps in a row"):
        for _ in steps:
            pass
    assert (run.out / "model.safetensors").read_bytes() == good
    assert run.trainer.skipped == 10
