"""What the page's tests serve: a small model one of whose tokens is HTML, a chat template, tasks, runs and a report."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from conftest import random_model

from chainrule.language_model import LanguageModel
from chainrule.serving.load import serve_model
from chainrule.serving.served import Served
from chainrule.tasks.examples import Task
from chainrule.tokens.make import byte_tokenizer
from chainrule.tokens.tokenizer import Tokenizer

HOSTILE = "<img src=x onerror=\"document.title='hostile'\">"
PROMPT = "The cat"
TEMPLATE = (
    "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' + message['content'] }}{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


def chatting_model(context: int = 256) -> LanguageModel:
    """Bytes, and three more tokens: two marks of turns, and HOSTILE, which is the most probable after PROMPT; the first
    byte of a character comes second."""
    files = dict(byte_tokenizer()._files)
    settings = json.loads(files["tokenizer_config.json"]) | {"chat_template": TEMPLATE}
    spec = json.loads(files["tokenizer.json"])
    added = spec["added_tokens"][0]
    spec["added_tokens"] += [
        {**added, "id": 257, "content": "<|turn|>"},
        {**added, "id": 258, "content": "<|end|>"},
        {**added, "id": 259, "content": HOSTILE, "special": False},
    ]
    files |= {"tokenizer.json": json.dumps(spec).encode(), "tokenizer_config.json": json.dumps(settings).encode()}
    tokenizer = Tokenizer(files, 256)
    lm = LanguageModel(random_model("qwen3", 260, context), tokenizer, "qwen3", stop_tokens=(258, 256))
    (first,) = (byte for byte in tokenizer.encode("é")[:1])
    with torch.no_grad():
        direction = lm.features(PROMPT)[-1] / lm.features(PROMPT)[-1].norm()
        spread = lm.model.logits(lm.features(PROMPT)[-1]).abs().max()
        for token, times in ((259, 2.0), (first, 1.5)):
            lm.model.output_weight[token] = direction * times * spread / lm.features(PROMPT)[-1].norm()
    return lm


def served_in(folder: Path) -> Served:
    """Two models, a task, a run that trains and a report whose task is called HOSTILE."""
    rows = [(f"a {word} film", label) for word in ("fine", "great", "dull", "weak") for label in ("good", "bad")]
    for name in ("train", "test"):
        lines = [json.dumps({"text": f"{text} {name} {HOSTILE}", "label": label}) for text, label in rows * 4]
        (folder / f"{name}.jsonl").write_text("\n".join(f"{line}" for line in lines))
    (folder / "films.toml").write_text(
        'train = "train.jsonl"\ntest = "test.jsonl"\ntext = "text"\nlabel = "label"\n'
        '[prompt]\ntemplate = "{text}\\nIt was {label}"\n[prompt.words]\ngood = "great"\nbad = "awful"\n'
    )
    run, report = folder / "runs" / "books" / "first", folder / "runs" / "films"
    run.mkdir(parents=True)
    report.mkdir()
    losses = [{"step": step, "tokens": 100 * step, "loss": 5 / step} for step in range(1, 30)]
    losses[-1]["validation_loss"] = 0.3
    lines = [*map(json.dumps, losses), '{"step": "many", "tokens": 0, "loss": NaN}', "[]", '{"step": 30, "tok']
    (run / "log.jsonl").write_text("\n".join(lines))
    (run / "run.toml").write_text("[decided]\nsteps = 60\n")
    (report / "results.json").write_text(
        json.dumps({"task": HOSTILE, "model": "small", "n": 12, "advice": f"Take zero-shot. {HOSTILE}"})
    )
    (report / "report.html").write_text(
        "<!doctype html><p id=told>nothing</p><script>told.textContent = 'ran'</script>"
    )
    # 64 tokens at once, so that longer prompts are read in parts.
    models = {name: replace(serve_model(name, chatting_model()), at_once=64) for name in ("small", "other")}
    return Served(models, tasks={"films": Task.load(folder / "films.toml")}, runs=folder / "runs")
