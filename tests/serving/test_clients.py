"""Programs that speak OpenAI's API work with ours: the openai package, lm-evaluation-harness, llm, curl."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from math import log
from pathlib import Path
from typing import Any, cast

import pytest
from small_server import PROMPT, Running, chatting, language_model, running

from chainrule.generation.sampling import Sampling
from chainrule.serving.load import Limits, serve_model
from chainrule.serving.served import Served

KEY = "a key"
MESSAGES = [{"role": "system", "content": "be an owl"}, {"role": "user", "content": "the mouse <|bos|>?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = Limits(batch=8)
    models = {
        "chat": serve_model("chat", chatting(tmp_path_factory.mktemp("chat")), limits),
        "plain": serve_model("plain", language_model("llama", context=160), limits),
    }
    with running(Served(models), key=KEY) as found:
        yield found


def test_the_openai_package_asks_and_streams_completions(server: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
    lm = server.served.models["plain"].lm
    assert [model.id for model in client.models.list()] == ["chat", "plain"]
    fields = {"model": "plain", "prompt": PROMPT, "n": 2, "seed": 5, "max_tokens": 12, "temperature": 0.8, "top_p": 0.9}
    fields |= {"logprobs": 3, "stop": ["zz"], "user": "me", "extra_body": {"top_k": 40, "min_p": 0.01}}
    whole = client.completions.create(**fields)
    sampling = Sampling(0.8, top_k=40, top_p=0.9, min_p=0.01)
    wanted = lm.completions([PROMPT], sampling, samples=2, max_tokens=12, stop=["zz"], seed=5)
    assert [choice.text for choice in whole.choices] == [each.text for each in wanted]
    assert len(whole.choices[0].logprobs.token_logprobs) == whole.usage.completion_tokens / 2
    texts = ["", ""]
    for chunk in client.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
        usage = chunk.usage
    assert texts == [choice.text for choice in whole.choices] and usage == whole.usage


def test_the_openai_package_chats(server: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
    lm = server.served.models["chat"].lm
    fields = {"model": "chat", "messages": MESSAGES, "n": 2, "seed": 3, "max_completion_tokens": 10}
    fields |= {"logprobs": True, "top_logprobs": 2, "response_format": {"type": "text"}}
    whole = client.chat.completions.create(**fields)
    wanted = lm.completions([lm.chat.tokens(MESSAGES)], Sampling(), samples=2, max_tokens=10, seed=3)
    assert [choice.message.content for choice in whole.choices] == [each.text for each in wanted]
    assert whole.usage.prompt_tokens == len(lm.chat.tokens(MESSAGES))
    for choice, made in zip(whole.choices, wanted, strict=True):
        scored = choice.logprobs.content
        assert [each.logprob for each in scored] == pytest.approx([*each_log_prob(lm, made.tokens)], abs=1e-4)
        spelled = b"".join(bytes(each.bytes) for each in scored).decode(errors="replace")
        assert spelled == choice.message.content or "\ufffd" in spelled
        assert all(len(each.top_logprobs) == 2 for each in scored)
    texts = ["", ""]
    roles: list[list[Any]] = [[], []]
    for chunk in client.chat.completions.create(**fields, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += [choice.delta.role] if choice.delta.role else []
    assert texts == [choice.message.content for choice in whole.choices] and roles == [["assistant"]] * 2
    parts = [{"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "owl"}]}]
    one = client.chat.completions.create(model="chat", messages=parts, seed=1, max_tokens=4)
    other = client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "the owl"}], seed=1, max_tokens=4
    )
    assert one.choices == other.choices


def each_log_prob(lm, tokens: list[int]) -> list[float]:
    """log p of generated tokens after the messages, by the model alone."""
    import torch

    prompt = lm.chat.tokens(MESSAGES)
    with torch.no_grad():
        found = lm.model(torch.tensor([prompt + tokens]))[0].log_softmax(-1)
    return [found[len(prompt) - 1 + t, token].item() for t, token in enumerate(tokens)]


def test_the_openai_package_gets_errors_of_its_own_kinds(server: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
    with pytest.raises(openai.BadRequestError) as found:
        client.completions.create(model="plain", prompt=[5] * 200)
    assert found.value.code == "context_length_exceeded" and found.value.param == "prompt"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="tools"):
        tool = {"type": "function", "function": {"name": "f"}}
        client.chat.completions.create(model="chat", messages=MESSAGES, tools=[tool])
    with pytest.raises(openai.BadRequestError, match="chat_template"):
        client.chat.completions.create(model="plain", messages=MESSAGES)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.url + "/v1", api_key="another").models.list()
    for messages in ([], [{"role": "tool", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": [{}]}]):
        with pytest.raises(openai.BadRequestError, match="messages"):
            client.chat.completions.create(model="chat", messages=messages)


def test_the_openai_package_gets_embeddings(server: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
    lm = server.served.models["plain"].lm
    found = client.embeddings.create(model="plain", input=[PROMPT, "né"])  # as base64
    assert [each.index for each in found.data] == [0, 1] and found.usage.prompt_tokens > 4
    for text, each in zip((PROMPT, "né"), found.data, strict=True):
        features = lm.features(text)
        assert each.embedding == pytest.approx(features[-1].tolist(), abs=1e-5)
        mean = client.embeddings.create(
            model="plain", input=text, encoding_format="float", extra_body={"pooling": "mean"}
        )
        assert mean.data[0].embedding == pytest.approx(features[1:].mean(0).tolist(), abs=1e-5)
    ids = [lm.tokenizer.bos_id, *lm.tokenizer.encode(PROMPT)]
    for given in (ids, [ids]):
        again = client.embeddings.create(model="plain", input=given).data[0].embedding
        assert again == pytest.approx(found.data[0].embedding, abs=1e-5)
    wrongs: list[dict[str, Any]] = [
        {"input": []}, {"input": [[]]}, {"input": PROMPT, "dimensions": 5}, {"input": [5] * 200},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="plain", **wrong)


ROWS = [("a charming film", 1), ("a mess, too long", 0), ("so good and so  warm", 1), ("né, bad", 0)]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tasks of the harness (their YAML is JSON), of each kind."""
    datasets = pytest.importorskip("datasets")
    from lm_eval.tasks import TaskManager

    from chainrule.integrations import harness

    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"text": text, "label": label, "last": ("terrible", "great")[label]} for text, label in ROWS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}}
    common |= {"test_split": "test", "doc_to_text": "{{text}} It was", "metadata": {"version": 1}}
    for name, task in {
        "served_choice": {
            "output_type": "multiple_choice",
            "doc_to_choice": ["terrible", "very great"],
            "doc_to_target": "label",
        },
        "served_likelihood": {
            "output_type": "loglikelihood",
            "doc_to_target": " {{last}}",
            "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        },
        "served_rolling": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        },
        "served_answers": {
            "output_type": "generate_until",
            "doc_to_target": "{{last}}",
            "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 9, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
    }.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **cast(Any, task)}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(harness, "TaskManager", partial(TaskManager, include_defaults=False))
        yield folder


def test_the_harness_gets_the_figures_of_evaluate(
    server: Running, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tenacity")
    import lm_eval
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from lm_eval.tasks import TaskManager

    from chainrule.integrations.harness import HarnessModel

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    lm = server.served.models["plain"].lm
    lm.save(tmp_path)
    theirs = LocalCompletionsAPI(
        model="plain",
        base_url=server.url + "/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=str(tmp_path),
        add_bos_token=True,
        max_length=lm.model.config.context + 1,
        batch_size=4,
    )
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    names = ["served_choice", "served_likelihood", "served_rolling", "served_answers"]
    wanted, found = (
        lm_eval.simple_evaluate(model, tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=0)
        for model in (HarnessModel(lm), theirs)
    )
    for name in names:
        for metric, value in wanted["results"][name].items():
            there = found["results"][name][metric]
            if "perplexity" in metric and isinstance(value, float):  # a rounding of 50 nats is 50 times as large in it
                value, there = log(value), log(there)
            assert there == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), (name, metric)
        for one, other in zip(wanted["samples"][name], found["samples"][name], strict=True):
            for a, b in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
                if isinstance(a, tuple):  # log p, and whether it is the most probable
                    assert a[0] == pytest.approx(b[0], rel=1e-6) and a[1] == b[1]
                else:
                    assert a == pytest.approx(b, rel=1e-6) if isinstance(a, float) else a == b


def test_the_harness_reads_the_tokenizer_from_the_server(server: Running) -> None:
    pytest.importorskip("requests")
    from lm_eval.utils import RemoteTokenizer, check_remote_tokenizer_support

    assert check_remote_tokenizer_support(server.url + "/v1/completions", auth_token=KEY)
    tokenizer, lm = RemoteTokenizer(server.url + "/v1/completions", auth_token=KEY), server.served.models["chat"].lm
    ids = lm.tokenizer.encode(PROMPT)
    assert tokenizer.encode(PROMPT) == ids and tokenizer.decode(ids) == PROMPT
    assert tokenizer.bos_token_id == lm.tokenizer.bos_id and tokenizer.eos_token_id in lm.stop_tokens
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], bos_token="")
    assert "user: x" in rendered


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_asks_and_streams(server: Running) -> None:
    body = json.dumps({"model": "plain", "prompt": PROMPT, "max_tokens": 3, "stream": True})
    asked = ["curl", "-sN", server.url + "/v1/completions", "-H", f"Authorization: Bearer {KEY}", "-d", body]
    found = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=True).stdout
    assert found.startswith('data: {"id":"cmpl-') and found.endswith("data: [DONE]\n\n")


def test_the_llm_package_asks_and_streams(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = pytest.importorskip("llm")
    settings = {"model_id": "owl", "model_name": "chat", "api_base": server.url + "/v1", "api_key_name": "owl"}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([settings]))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    model, lm = llm.get_model("owl"), server.served.models["chat"].lm
    messages = [{"role": "system", "content": "be an owl"}, {"role": "user", "content": PROMPT}]
    (wanted,) = lm.completions([lm.chat.tokens(messages)], Sampling(0), max_tokens=6)
    for stream in (False, True):
        found = model.prompt(PROMPT, system="be an owl", temperature=0, max_tokens=6, stream=stream, key=KEY)
        assert "".join(found) == wanted.text
