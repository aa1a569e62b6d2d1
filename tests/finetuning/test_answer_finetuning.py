"""Finetuning on answers: what is learned, what is left out, and that the result is a language model that ends."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHAPES, random_model
from tokenizers import AddedToken

import chainrule
from chainrule.cli import main
from chainrule.errors import DataError
from chainrule.finetuning.answers import answer_spans
from chainrule.finetuning.finetune import FinetuneOptions, finetune, open_finetuning
from chainrule.finetuning.language import LanguageFinetuning
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel, make_language_model
from chainrule.prompting.in_context import zero_shot
from chainrule.prompting.prompted import Prompted
from chainrule.scoring.continuations import Pair, score_continuations
from chainrule.tasks.examples import Task
from chainrule.tokens import bytepair
from chainrule.tokens.make import byte_tokenizer
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer
from chainrule.training.spans import SpanBatch

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ANSWERS = ("yes", "not at all", "so")


def make_task(folder: Path, rows: int = 30, more: str = "") -> Path:
    lines = [{"q": f"{number} ok?{more}", "a": ANSWERS[number % 3]} for number in range(rows)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "task.toml").write_text(
        'kind = "free"\ntrain = "rows.jsonl"\ntext = "q"\nlabel = "a"\n[prompt]\ntemplate = "Q: {q}\\nA: {label}"\n'
    )
    return folder / "task.toml"


def save_base(folder: Path, family: str = "qwen3", seed: int = 0, context: int = 64) -> str:
    tokenizer = byte_tokenizer()
    model = random_model(family, tokenizer.vocabulary_size, context=context, seed=seed)
    make_language_model(model, tokenizer, family).save(folder / family)
    return str(folder / family)


def load(base: str) -> LanguageModel:
    lm = chainrule.load(base, device="cpu", dtype="float32")
    assert isinstance(lm, LanguageModel)
    return lm


def chat_model(folder: Path) -> LanguageModel:
    inner = bytepair.train(["Q: what is ok, so or not at all? user assistant yes"], 290)
    inner.add_special_tokens([AddedToken(name, special=True) for name in ("<|end|>", "<|im_start|>", "<|im_end|>")])
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|end|>", "chat_template": CHATML}))
    tokenizer = load_tokenizer(folder)
    stops = [tokenizer.special[name].id for name in ("<|end|>", "<|im_end|>")]
    return LanguageModel(random_model("qwen3", tokenizer.vocabulary_size, 96), tokenizer, "qwen3", stops)


def texts(tokenizer: Tokenizer, tokens: Any) -> str:
    return "".join(tokenizer.token_texts([int(token) for token in tokens]))


@pytest.mark.parametrize("family", SHAPES)
def test_an_answer_and_its_end_are_learned_as_scoring_joins_them_to_the_prompt(family: str, tmp_path: Path) -> None:
    task, lm = Task.load(make_task(tmp_path)), load(save_base(tmp_path, family))
    spans = answer_spans(zero_shot(lm, task), task.train)
    pairs = []
    for span, row, answer in zip(spans, task.train.rows, task.train.labels, strict=True):
        prompt = span.tokens[: span.positions[0] + 1]
        assert (
            texts(lm.tokenizer, prompt) == f"⊥Q: {row['q']}\nA:" and texts(lm.tokenizer, span.targets) == f" {answer}⊥"
        )
        pairs.append(Pair(prompt, list(span.targets)))
    with torch.no_grad():
        loss = float(SpanBatch(spans, True, lm.device).mean_loss(lm.model))
    scored = score_continuations(lm.model, pairs)
    assert loss == pytest.approx(-sum(one.log_prob for one in scored) / sum(one.tokens for one in scored), rel=1e-5)


def test_in_a_chat_the_end_is_what_the_template_writes_behind_an_answer(tmp_path: Path) -> None:
    lm, task = chat_model(tmp_path), Task.load(make_task(tmp_path))
    (span, *_) = answer_spans(zero_shot(lm, task, chat=True), task.train.take([0]))
    answer, row = task.train.labels[0], task.train.rows[0]
    first = span.positions[0] + 1
    assert span.tokens[:first] == lm.chat.tokens([{"role": "user", "content": f"Q: {row['q']}\nA:"}])
    assert texts(lm.tokenizer, span.targets) == f"{answer}<|im_end|>"


def learned(model: Any, task: Task, **options: Any) -> Prompted:
    made = finetune(model, task, dtype="float32", seed=0, **options)
    assert isinstance(made, Prompted)
    return made


@pytest.mark.parametrize("train", ["full", "lora"])
def test_it_learns_to_answer_and_to_end(train: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"{n} ok?", "completion": " yes"}) for n in range(20))
    )
    task, lm = Task.load(tmp_path / "rows.jsonl"), load(save_base(tmp_path))
    made = learned(lm, task, train=train, epochs=8, learning_rate=1e-2)
    assert set(made.predict(task.test.rows)) == {"yes"}
    assert isinstance(made.lm, LanguageModel)
    (ended,) = made.lm.completions(["3 ok?"], Sampling(0), max_tokens=20)
    assert (ended.text, ended.finish_reason) == (" yes", "stop")


def test_answers_of_several_lines_are_learned_and_generated_whole(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number} ok?", "completion": "yes\nsir"} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task, lm = Task.load(tmp_path / "rows.jsonl"), load(save_base(tmp_path))
    made = learned(lm, task, epochs=8, learning_rate=1e-2)
    assert set(made.predict(task.test.rows)) == {"yes\nsir"}
    made.save(tmp_path / "out")
    assert set(chainrule.load_classifier(tmp_path / "out", device="cpu").predict(["1 ok?"])) == {"yes\nsir"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("family", "train"), [("qwen3", "lora"), ("gpt2", "full")])
def test_the_command_writes_a_language_model_that_is_evaluated_and_goes_on_where_it_stopped(
    family: str, train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_task(tmp_path)
    base = save_base(tmp_path, family)
    monkeypatch.chdir(tmp_path)
    untouched = contents(tmp_path / family)
    asked = f"finetune {base} task.toml --train {train} --epochs 2 --dtype float32".split()
    main([*asked, "--out", "out", "--show", "1"])
    assert contents(tmp_path / family) == untouched
    told = capsys.readouterr().out
    assert "|A|:|[ ]|[" in told and "[⊥]" in told and "accuracy" in told and "95 %" in told
    before = contents(tmp_path / "out")
    assert ("adapter_model.safetensors" in before) == (train == "lora")
    made = chainrule.load_classifier("out", device="cpu", dtype="float32")
    expected = made.predict(["1 ok?", "2 ok?"])
    assert expected == zero_shot(load("out"), Task.load("task.toml")).predict(["1 ok?", "2 ok?"])
    main(["predict", "out", "1 ok?", "2 ok?", "--json", "--dtype", "float32"])
    assert [one["label"] for one in json.loads(capsys.readouterr().out)["predictions"]] == expected
    main(["generate", "out", "Q: 1 ok?\nA:", "--max-tokens", "3", "--temperature", "0", "--json"])
    assert len(json.loads(capsys.readouterr().out)["completions"]) == 1
    with monkeypatch.context() as patch:
        advance = LanguageFinetuning.advance

        def stopped(self: LanguageFinetuning) -> Any:
            for progress in advance(self):
                if progress.step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield progress

        patch.setattr(LanguageFinetuning, "advance", stopped)
        with pytest.raises(SystemExit) as end:
            main([*asked, "--out", "stopped"])
    assert end.value.code == 128 + signal.SIGTERM
    capsys.readouterr()
    main([*asked, "--out", "stopped"])
    assert "going on from step 2 of" in capsys.readouterr().err
    assert contents(tmp_path / "stopped") == before


def test_rows_whose_answers_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [{"q": f"{number}?", "a": "long " * (20 if number % 5 == 0 else 1)} for number in range(40)]
    task, lm = Task.load(make_task(tmp_path)), load(save_base(tmp_path))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = Task.load(tmp_path / "task.toml")
    made = learned(lm, task, epochs=0.2)
    too_long = sum(len(answer) > 60 for answer in task.train.labels)
    assert made.left_out == too_long > 0
    assert f"{too_long} training rows were left out: their answers do not fit" in made.notes[-1]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({**line, "a": "long " * 20}) for line in lines))
    message = "wanted answers that fit into the context of 64 tokens with the prompt before them, got none"
    with pytest.raises(chainrule.ChainruleError, match=message):
        finetune(lm, Task.load(tmp_path / "task.toml"))


def test_texts_that_are_shown_are_not_counted_and_need_not_fit(tmp_path: Path) -> None:
    task, lm = Task.load(make_task(tmp_path, more="…" * 20)), load(save_base(tmp_path))
    finetuning = open_finetuning(lm, task, FinetuneOptions(dtype="float32"))
    assert isinstance(finetuning, LanguageFinetuning)
    cut = finetuning.current().cut
    assert len(finetuning.shown(3)) == 3 and finetuning.current().cut == cut > 0
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"q": f"{n}?", "a": "long " * (20 if n % 5 else 1)}) for n in range(40))
    )
    task = Task.load(tmp_path / "task.toml")
    finetuning = open_finetuning(lm, task, FinetuneOptions(dtype="float32"))
    fit = sum(len(answer) < 60 for answer in task.subset(None, 0).take(range(4)).labels)
    assert fit < 4 and len(finetuning.shown(4)) == fit


def test_the_beginning_of_a_long_text_is_cut_so_that_its_answer_is_whole_or_it_is_refused(tmp_path: Path) -> None:
    task, lm = Task.load(make_task(tmp_path, more="…" * 20)), load(save_base(tmp_path))
    start = zero_shot(lm, task)
    spans = answer_spans(start, task.train)
    assert start.cut > 0 and max(len(span.tokens) for span in spans) == 64
    assert {texts(lm.tokenizer, span.targets) for span in spans} == {f" {answer}⊥" for answer in ANSWERS}
    with pytest.raises(chainrule.ChainruleError, match="text: wanted at most 64 tokens"):
        finetune(lm, task, longer="refuse")


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def said(*turns: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]


def test_each_answer_of_a_conversation_is_learned_after_all_that_was_said_before(tmp_path: Path) -> None:
    lm = chat_model(tmp_path)
    system = {"role": "system", "content": "what is ok"}
    talks = [[system, *said(f"{number}?", "yes", "so?", "not at all")] for number in range(10)]
    for rows in (
        [{"messages": talk} for talk in talks],
        [{"prompt": talk[:2], "completion": talk[2:]} for talk in talks],
    ):
        task = Task.load(write(tmp_path / "talks.jsonl", rows))
        assert (len(task.train), len(task.test), task.kind) == (16, 4, "free")
        spans = answer_spans(zero_shot(lm, task), task.train)
        for index, (span, row, answer) in enumerate(zip(spans, task.train.rows, task.train.labels, strict=True)):
            messages = [*json.loads(row["history"]), {"role": "user", "content": row["prompt"]}]
            assert answer == ("yes", "not at all")[index % 2] and len(messages) == (2, 4)[index % 2]
            assert span.tokens[: span.positions[0] + 1] == lm.chat.tokens(messages)
    made = finetune(lm, task, epochs=0.5, dtype="float32")
    assert len(made.predict(["what?"])) == 1
    with pytest.raises(chainrule.ChainruleError, match="wanted a model with a chat_template"):
        finetune(load(save_base(tmp_path)), task)


def test_conversations_in_other_forms_are_the_same_task(tmp_path: Path) -> None:
    names = {"user": "human", "assistant": "gpt"}
    talks = [said(f"{number}?", "yes", "so?", "not at all") for number in range(10)]
    plain = Task.load(write(tmp_path / "plain.jsonl", [{"messages": talk} for talk in talks]))
    sharegpt = [[{"from": names[one["role"]], "value": one["content"]} for one in talk] for talk in talks]
    of_parts = [
        [{**one, "content": [{"type": "text", "text": part} for part in (one["content"][:1], one["content"][1:])]}]
        for talk in talks
        for one in talk
    ]
    parts = [[message for (message,) in of_parts[4 * number : 4 * number + 4]] for number in range(10)]
    for name, rows in (("conversations", sharegpt), ("messages", parts)):
        task = Task.load(write(tmp_path / "other.jsonl", [{name: talk} for talk in rows]))
        assert (task.train.rows, task.train.labels) == (plain.train.rows, plain.train.labels)
        assert (task.test.rows, task.test.labels) == (plain.test.rows, plain.test.labels)


def test_test_items_that_cannot_be_measured_are_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chat_model(tmp_path).save(tmp_path / "model")
    talks = [said(f"{number}?", "yes", "so?", "not at all") for number in range(3)]  # of which one is held out
    write(tmp_path / "talks.jsonl", [{"messages": talk} for talk in talks])
    write(tmp_path / "numbers.jsonl", [{"text": f"{number}", "stars": number} for number in range(9)])
    write(tmp_path / "alike.jsonl", [{"text": "x", "stars": 1}, {"text": "y", "stars": 1}])
    numbers = 'kind = "regression"\ntrain = "numbers.jsonl"\ntest = "alike.jsonl"\ntext = "text"\nlabel = "stars"\n'
    (tmp_path / "numbers.toml").write_text(numbers)
    for task, message in (
        ("talks.jsonl", "talks.jsonl: test items: an interval over items wants at least 2 of them"),
        ("numbers.toml", "numbers.toml: test items: r_squared: wanted items whose numbers differ"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["finetune", "model", task, "--train", "lora", "--out", "out"])
        told = capsys.readouterr().err
        assert end.value.code == 2 and told.count("\n") == 1 and message in told
        assert not (tmp_path / "out").exists()


def test_prompt_and_completion_are_joined_as_they_are(tmp_path: Path) -> None:
    lm = load(save_base(tmp_path))
    for between in ("", " ", "\n"):
        rows = [{"prompt": f"{number} is", "completion": f"{between}so{number}"} for number in range(10)]
        task = Task.load(write(tmp_path / "rows.jsonl", rows))
        for span, answer in zip(answer_spans(zero_shot(lm, task), task.train), task.train.labels, strict=True):
            assert texts(
                lm.tokenizer, [*span.tokens, span.targets[-1]]
            ) == f"⊥{answer[2:]} is{between}{answer}⊥".replace(
                "\n", "\\n" if "\\n" in texts(lm.tokenizer, span.tokens) else "\n"
            )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": said("hello")}, "wanted an answer of the assistant, got none"),
        ({"messages": said("hello", "")}, "wanted each message of the assistant to answer one of the user"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "got one that is empty, or follows 'nothing'"),
        ({"messages": "hello"}, "wanted 'messages' to be messages"),
        ({"messages": [{"role": "user"}]}, "wanted 'messages' to be messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "wanted 'messages' to be messages"),
        ({"prompt": "a", "completion": " "}, "'completion' is empty"),
        ({"prompt": said("a"), "completion": "b"}, "wanted 'completion' to be messages"),
    ],
)
def test_a_conversation_without_an_answer_is_refused_with_its_line(row: Any, message: str, tmp_path: Path) -> None:
    good = {"messages": said("a", "b")} if "messages" in row else {"prompt": "x", "completion": "y"}
    path = write(tmp_path / "rows.jsonl", [good] * 9 + [row])
    with pytest.raises(DataError, match=message) as error:
        Task.load(path)
    assert "rows.jsonl:10" in str(error.value)
    logged: list[str] = []
    varied = [
        {**good, "prompt": f"x{number}"} if "prompt" in good else {"messages": said(f"{number}", "b")}
        for number in range(9)
    ]
    task = Task.load(write(path, [*varied, row]), on_error="skip", log=logged.append)
    assert len(task.train) + len(task.test) == 9 and "of 10 rows 1 skipped" in logged[0]


def test_messages_for_a_model_without_a_chat_template_are_refused_by_the_files_name(tmp_path: Path) -> None:
    path = write(tmp_path / "said.jsonl", [{"messages": said(f"{number} ok?", "yes")} for number in range(9)])
    with pytest.raises(chainrule.ChainruleError, match=r"said\.jsonl: wanted a model with a chat_template"):
        finetune(load(save_base(tmp_path)), Task.load(path), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_masked_model_and_a_head_are_refused(tmp_path: Path) -> None:
    task = Task.load(make_task(tmp_path))
    masked = make_language_model(random_model("bert", 258, context=64), byte_tokenizer(mask=True), "bert")
    with pytest.raises(chainrule.ChainruleError, match=r"wanted a causal .* got a masked one .*; take another model$"):
        finetune(masked, task)
    with pytest.raises(chainrule.ChainruleError, match="wanted full or lora where the language model itself learns"):
        finetune(load(save_base(tmp_path)), task, train="head")
    with pytest.raises(chainrule.ChainruleError, match="--class-weights: wanted a task with labels to choose from"):
        finetune(load(save_base(tmp_path)), task, class_weights=True)


def test_the_state_of_least_loss_on_a_fifth_is_kept(tmp_path: Path) -> None:
    task, lm = Task.load(make_task(tmp_path, rows=90)), load(save_base(tmp_path))
    finetuning = open_finetuning(lm, task, FinetuneOptions(epochs=1, learning_rate=10.0, dtype="float32"))
    losses = [one.validation_loss for one in finetuning.advance() if one.validation_loss is not None]
    assert isinstance(finetuning, LanguageFinetuning)
    made = finetuning.predictor()
    kept, held = task.split_validation(task.subset(None, 0), 0)
    spans = answer_spans(zero_shot(made.lm, task), held)
    with torch.no_grad():
        again = float(SpanBatch(spans, True, lm.device).mean_loss(made.lm.model))
    assert len(kept) + len(held) == len(task.train) and again <= min(losses) + 1e-4
    assert np.isfinite(again)
