"""`/openapi.json`: the endpoints as OpenAPI 3.1 describes them, from what their requests are checked by."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from chainrule.serving.answer_schemas import ERROR, EVENT
from chainrule.serving.endpoints import Endpoint, Get, Post
from chainrule.serving.kinds import Schema
from chainrule.serving.safety import is_guarded

_ERRORS = {
    400: "The request is wrong: the message names the field",
    401: "The key is missing or wrong",
    403: "The Host or the Origin is not this server's",
    404: "There is no model, task or file of this name",
    413: "The body is too large",
    429: "Too many requests wait",
    500: "The server failed at this request",
    503: "The server is shutting down, or the model's thread has ended",
    504: "The request took too long",
}
_OF_GET = (401, 403, 404, 503)


def document(endpoints: Sequence[Endpoint], names: Mapping[str, Sequence[str]], key: bool) -> dict[str, Any]:
    """The document. `names`: of fields that name what is served, such as `model`, the names; `key`: one is wanted."""
    paths = {
        each.path: {"post": _post(each, names, key)} if isinstance(each, Post) else {"get": _get(each, names, key)}
        for each in endpoints
    }
    components: dict[str, Any] = {"schemas": {"Error": ERROR}}
    if key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "chainrule", "version": version("chainrule")},
        "paths": paths,
        "components": components,
    }


def _post(endpoint: Post, names: Mapping[str, Sequence[str]], key: bool) -> dict[str, Any]:
    form = endpoint.form.schema()
    for name, options in names.items():
        if name in form["properties"]:
            form["properties"][name] = {"anyOf": [_named(options), {"type": "null"}]}
    content: dict[str, Any] = {"application/json": {"schema": endpoint.answer}}
    if endpoint.streams:
        content["text/event-stream"] = {"schema": EVENT}
    return {
        **_about(endpoint, key),
        "requestBody": {"required": True, "content": {"application/json": {"schema": form}}},
        "responses": {"200": {"description": "The answer", "content": content}, **_errors(_ERRORS)},
    }


def _get(endpoint: Get, names: Mapping[str, Sequence[str]], key: bool) -> dict[str, Any]:
    found = {
        **_about(endpoint, key),
        "responses": {
            **_errors(_OF_GET),
            **{str(status): _answer(schema, endpoint.media) for status, schema in endpoint.other.items()},
            "200": _answer(endpoint.answer, endpoint.media),
        },
    }
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": _named(names.get(name, ()))}
        for name in endpoint.query
    ]
    if "{name}" in endpoint.path:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": {"type": "string"}})
    return found | {"parameters": parameters} if parameters else found


def _about(endpoint: Endpoint, key: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.path.strip("/").replace("/", "_").replace("{", "").replace("}", ""),
        "tags": ["page" if endpoint.path.startswith("/page/") else "api"],
    }
    return found | {"security": [{"key": []}]} if key and is_guarded(endpoint.path) else found


def _named(options: Sequence[str]) -> Schema:
    return {"type": "string", "enum": list(options)} if options else {"type": "string"}


def _answer(schema: Schema, media: str) -> dict[str, Any]:
    return {"description": "The answer", "content": {media: {"schema": schema}}}


def _errors(statuses: Sequence[int] | Mapping[int, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": _ERRORS[status], "content": content} for status in statuses}
