"""`/openapi.json` says what the server takes and answers: fuzzed by it, no request makes the server fail, and every
answer has the form that is said."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from small_server import PROMPT, Running, chatting, running

import chainrule
from chainrule.serving.load import Limits, serve_model
from chainrule.serving.model_thread import ModelThread
from chainrule.serving.served import Served, ServedClassifier
from chainrule.tasks.examples import Task

SEED = 5
CASES = 10  # requests of each endpoint
ENDPOINTS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/classify", "/tokenize", "/detokenize")
MESSAGES = [{"role": "user", "content": "a day"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model with a chat template, a classifier, a task, and a folder of runs."""
    folder = tmp_path_factory.mktemp("world")
    rows = [f"a {('fine', 'grim')[row % 2]} day {row}\t{('good', 'bad')[row % 2]}\n" for row in range(20)]
    (folder / "days.tsv").write_text("day\tmood\n" + "".join(rows))
    (folder / "moods.toml").write_text(
        'train = "days.tsv"\ntext = "day"\nlabel = "mood"\n[prompt]\ntemplate = "{day}: {label}"\n'
    )
    task = Task.load(str(folder / "moods.toml"))
    lm = chatting(folder)
    classifier = ServedClassifier("moods", chainrule.finetune(lm, task, train="head"), ModelThread("moods"))
    owl = serve_model("owl", lm, Limits(batch=4))
    with running(Served({"owl": owl}, {"moods": classifier}, {"moods": task}, folder)) as found:
        yield found


@pytest.fixture(scope="module")
def document(server: Running) -> dict[str, Any]:
    return httpx.get(server.url + "/openapi.json").json()


def test_every_endpoint_is_described(document: dict[str, Any], server: Running) -> None:
    routes = {route.path.replace(":path", "") for route in server.server.config.app.routes}  # type: ignore[union-attr]
    files = {path for path in routes if path == "/" or path.startswith("/static/")}
    assert set(document["paths"]) == routes - files - {"/openapi.json"}
    form = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert form["properties"]["model"]["anyOf"][0]["enum"] == ["owl", "moods"] and form["required"] == ["prompt"]
    assert form["properties"]["n"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 128}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 3, "logprobs": 2, "echo": True, "n": 2}),
        ("/v1/completions", {"prompt": [[5, 6], [7]], "max_tokens": 3.0, "stop": ["x"], "user": None}),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 3, "tools": [], "temperature": 0}),
        ("/v1/embeddings", {"input": [PROMPT, [5, 6]]}),
        ("/v1/embeddings", {"input": PROMPT, "encoding_format": "base64"}),
        ("/classify", {"input": [PROMPT, {"day": "fine"}], "model": "moods"}),
        ("/classify", {"input": PROMPT, "task": "moods", "shots": 2}),
        ("/tokenize", {"prompt": PROMPT, "return_token_strs": True}),
        ("/detokenize", {"tokens": [5, 6]}),
        ("/v1/completions", {"prompt": 5}),
        ("/v1/models", None),
        ("/v1/models/owl", None),
        ("/v1/models/moods", None),
        ("/v1/models/none", None),
        ("/tokenizer_info", None),
        ("/health", None),
    ],
)
def test_an_answer_has_the_form_that_is_said(
    document: dict[str, Any], server: Running, path: str, fields: dict[str, Any] | None
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator
    described = document["paths"]["/v1/models/{name}" if path.startswith("/v1/models/") else path]
    with server.client as client:
        answer = client.get(path) if fields is None else client.post(path, json=fields)
    operation = described["get" if fields is None else "post"]
    if fields is not None:
        form = operation["requestBody"]["content"]["application/json"]["schema"]
        assert validator(form).is_valid(fields) == (answer.status_code == 200), answer.text
    schema = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
    validator({**schema, "components": document["components"]}).validate(answer.json())


@pytest.mark.parametrize("path", ENDPOINTS)
def test_schemathesis_finds_no_fault(document: dict[str, Any], server: Running, path: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, seed, settings

    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=server.url)
    ours = schema[path]["POST"]
    # What a model has room for, and fields that want another beside them, are no part of the schema: such a request is
    # told so with a 400.
    excluded = [schemathesis.checks.positive_data_acceptance]

    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

        @seed(SEED)
        @settings(
            max_examples=CASES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=ours.as_strategy(generation_mode=mode))
        def fuzz(case: Any) -> None:
            case.call_and_validate(excluded_checks=excluded)

        fuzz()
