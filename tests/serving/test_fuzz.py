"""Whatever a body holds, the server answers with what was asked or with an error that the client made."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_server import Running, language_model, one

from chainrule.serving import chat, classify, completions, embeddings, tokenizing

FORMS = {
    "/v1/completions": completions.FORM,
    "/v1/chat/completions": chat.FORM,
    "/v1/embeddings": embeddings.FORM,
    "/classify": classify.FORM,
    "/tokenize": tokenizing.TOKENIZE,
    "/detokenize": tokenizing.DETOKENIZE,
}
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), st.sampled_from(["owl", "mean", "base64", "user", "text"]),
)  # fmt: skip
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["role", "content", "include_usage", "type", "text", "x"]), inner, max_size=3),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with one(language_model()) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client as found:
        yield found


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_body_makes_the_server_fail(client: httpx.Client, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(FORMS)))
    likely: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "a", "max_tokens": 2},
        "/v1/embeddings": {"input": "a"},
        "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [5]},
    }
    fields = st.sampled_from(sorted(FORMS[path].fields)).filter(lambda name: name != "max_tokens")
    body = likely.get(path, {}) | data.draw(st.dictionaries(fields, VALUES, max_size=3))
    answer = client.post(path, content=json.dumps(body))  # a lone surrogate is escaped
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
