"""`/v1/completions`: every field does what it says, and what it gives is what the library gives."""

import json
from collections.abc import Iterator

import pytest
from small_server import FAMILIES, PROMPT, Running, families

from chainrule.generation.sampling import Sampling

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with families() as found:
        yield found


def streamed(server: Running, **fields: object) -> list[dict]:
    """The chunks of a stream, in order."""
    found = []
    with server.client as client, client.stream("POST", PATH, json={**fields, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            assert line == "" or line.startswith("data: ")
            found.append(line.removeprefix("data: "))
    lines = [line for line in found if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0.9, "top_k": 20},
        {"temperature": 1.2, "min_p": 0.01, "repetition_penalty": 1.3},
        {"top_p": 0.8},
    ],
)
def test_a_seeded_request_gives_the_text_of_the_library_again_and_again(
    server: Running, family: str, options: dict
) -> None:
    lm = server.served.models[family].lm
    for _ in range(2):  # the second time the prompt is in the cache
        found = server.made(PATH, model=family, prompt=PROMPT * 5, max_tokens=20, seed=7, n=3, **options)
        wanted = lm.completions([PROMPT * 5], Sampling(**options), samples=3, max_tokens=20, seed=7)
        assert [choice["text"] for choice in found["choices"]] == [each.text for each in wanted]
        assert [choice["finish_reason"] for choice in found["choices"]] == [each.finish_reason for each in wanted]
        assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
        used = found["usage"]
        assert used["prompt_tokens"] == 1 + len(lm.tokenizer.encode(PROMPT * 5))
        assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]


def test_the_four_shapes_of_a_prompt_give_the_same(server: Running) -> None:
    tokenizer = server.served.models["qwen3"].lm.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(PROMPT)]
    texts = [
        [choice["text"] for choice in server.made(PATH, prompt=prompt, max_tokens=9, temperature=0)["choices"]]
        for prompt in (PROMPT, [PROMPT, PROMPT], ids, [ids, ids])
    ]
    assert texts[0] * 2 == texts[1] == texts[3] and texts[0] == texts[2] and len(texts[1]) == 2


@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_has_the_text_and_the_log_probs_of_the_whole_answer(server: Running, echo: bool) -> None:
    fields = {"model": "qwen3", "prompt": [PROMPT, "né"], "n": 2, "seed": 3, "max_tokens": 15, "logprobs": 2}
    fields |= {"stop": ["e m", "ouse"], "echo": echo}
    whole = server.made(PATH, **fields)
    chunks = streamed(server, **fields, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    for index in range(4):
        parts = [each["choices"][0] for each in chunks[:-1] if each["choices"][0]["index"] == index]
        wanted = whole["choices"][index]
        assert "".join(part["text"] for part in parts) == wanted["text"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [wanted["finish_reason"]]
        scores = {name: [each for part in parts for each in part["logprobs"][name]] for name in wanted["logprobs"]}
        assert scores.pop("token_logprobs") == pytest.approx(wanted["logprobs"].pop("token_logprobs"), abs=1e-4)
        for one, other in zip(scores.pop("top_logprobs"), wanted["logprobs"].pop("top_logprobs"), strict=True):
            assert one == pytest.approx(other, abs=1e-4)
        assert scores == wanted["logprobs"]


def test_a_text_ends_before_its_stop_string_and_so_do_its_log_probs(server: Running) -> None:
    fields = {"prompt": PROMPT, "temperature": 0, "max_tokens": 20, "logprobs": 0}
    free = server.made(PATH, **fields)["choices"][0]
    stop = free["text"][4:7]
    found = server.made(PATH, **fields, stop=stop)["choices"][0]
    assert found["finish_reason"] == "stop" and found["text"] == free["text"][: free["text"].index(stop)]
    offsets = found["logprobs"]["text_offset"]
    assert all(offset < len(found["text"]) for offset in offsets)
    assert found["logprobs"]["tokens"] == free["logprobs"]["tokens"][: len(offsets)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens", [0, 1, 4])
def test_an_echo_has_the_log_probs_of_score(server: Running, family: str, max_tokens: int) -> None:
    lm = server.served.models[family].lm
    ids = [lm.tokenizer.bos_id, *lm.tokenizer.encode(PROMPT)]
    found = server.made(
        PATH, model=family, prompt=[ids], echo=True, logprobs=2, max_tokens=max_tokens, temperature=0, seed=1234
    )["choices"][0]
    scores = found["logprobs"]
    count = len(ids) + max_tokens
    assert all(len(scores[name]) == count for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"))
    assert scores["token_logprobs"][0] is None and scores["top_logprobs"][0] is None
    wanted = [each.log_prob for each in lm.score(PROMPT)]
    assert scores["token_logprobs"][1 : len(ids)] == pytest.approx(wanted, abs=1e-5)
    for value, top in list(zip(scores["token_logprobs"], scores["top_logprobs"], strict=True))[len(ids) :]:
        assert value == max(top.values()), "bit for bit: the greedy token"
    made = lm.completions([PROMPT], Sampling(0), max_tokens=max_tokens or 1)[0]
    assert found["text"] == PROMPT + (made.text if max_tokens else "")


def test_a_prompt_may_fill_the_context_where_one_token_is_wanted_after_it(server: Running) -> None:
    fields = {"temperature": 0, "logprobs": 1, "echo": True}
    scores = server.made(PATH, prompt=[5] * 96, max_tokens=1, **fields)["choices"][0]["logprobs"]
    assert len(scores["tokens"]) == 97
    for prompt, more in (([5] * 97, {"max_tokens": 1}), ([5] * 96, {"max_tokens": 2}), ([5] * 96, {"echo": False})):
        answer = server.post(PATH, prompt=prompt, **{**fields, **more})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_text_ends_where_the_context_is_full(server: Running) -> None:
    found = server.made(PATH, prompt=[5] * 90, max_tokens=50, seed=0)
    assert found["choices"][0]["finish_reason"] == "length" and found["usage"]["completion_tokens"] == 6


def test_no_seed_is_another_text_each_time(server: Running) -> None:
    texts = {server.made(PATH, prompt=PROMPT, max_tokens=20)["choices"][0]["text"] for _ in range(3)}
    assert len(texts) == 3


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": PROMPT, "tempreature": 0}, "tempreature"),
        ({"prompt": PROMPT, "temperature": "hot"}, "temperature"),
        ({"prompt": PROMPT, "temperature": -1}, "temperature"),
        ({"prompt": PROMPT, "temperature": True}, "temperature"),
        ({"prompt": PROMPT, "top_p": 0}, "top_p"),
        ({"prompt": PROMPT, "top_k": 1.5}, "top_k"),
        ({"prompt": PROMPT, "presence_penalty": 0.5}, "presence_penalty"),
        ({"prompt": PROMPT, "logit_bias": {"5": 1}}, "logit_bias"),
        ({"prompt": PROMPT, "n": 0}, "n"),
        ({"prompt": PROMPT, "n": 129}, "n"),
        ({"prompt": PROMPT, "best_of": 3}, "best_of"),
        ({"prompt": PROMPT, "suffix": "x"}, "suffix"),
        ({"prompt": PROMPT, "max_tokens": 0}, "max_tokens"),
        ({"prompt": PROMPT, "stop": [""]}, "stop"),
        ({"prompt": PROMPT, "stop": ["a"] * 17}, "stop"),
        ({"prompt": PROMPT, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": PROMPT, "stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"prompt": PROMPT, "logprobs": 21}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [[300]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": {"a": 5}}, "prompt"),
        ({}, "prompt"),
        ({"prompt": PROMPT, "model": 5}, "model"),
    ],
)
def test_a_field_that_cannot_be_is_named(server: Running, fields: dict, field: str) -> None:
    answer = server.post(PATH, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field and error["type"] == "invalid_request_error" and field in error["message"]


def test_fields_at_what_changes_nothing_are_taken(server: Running) -> None:
    neutral = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "best_of": 1, "suffix": None}
    found = server.made(PATH, prompt="", user="me", stop=None, logprobs=None, max_tokens=2, **neutral)
    assert found["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        *((body, 400) for body in (b"", b"{", b"[]", b"null", b'{"prompt": NaN}', b"\xff", b"[" * 100_000)),
        (b'{"stop": "\\ud800"}', 400),
        (b'"' + b"a" * 9_000_000, 413),
    ],
    ids=range(9),
)
def test_what_is_no_json_object_is_refused(server: Running, body: bytes, status: int) -> None:
    with server.client as client:
        answer = client.post(PATH, content=body)
        assert answer.status_code == status and answer.json()["error"]["message"].startswith("body: wanted")
        assert client.get(PATH).status_code == 405
        assert client.get("/v1/nowhere").json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_not_found(server: Running) -> None:
    answer = server.post(PATH, prompt=PROMPT, model="none")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
    with server.client as client:
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == list(FAMILIES)
        assert client.get("/v1/models/gpt2").json()["max_model_len"] == 96
        assert client.get("/v1/models/none").status_code == 404
