"""The application: every route, and the errors that routes raise in OpenAI's form. Knows HTTP."""

import logging
from collections import Counter
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from chainrule.errors import ChainruleError
from chainrule.serving import answer_schemas, chat, classify, completions, embeddings, page_views, tokenizing
from chainrule.serving.answers import now
from chainrule.serving.endpoints import ClientLeftError, Endpoint, Get, Post
from chainrule.serving.metrics import metrics
from chainrule.serving.model_thread import EngineError, FullError
from chainrule.serving.openapi import document
from chainrule.serving.requests import RequestError
from chainrule.serving.safety import Guard, Rules
from chainrule.serving.served import Served

log = logging.getLogger(__name__)


def make_app(served: Served, rules: Rules = Rules()) -> Starlette:
    """The ASGI application for what is served, to whom the rules let in."""
    answers: Counter[tuple[str, int]] = Counter()
    endpoints = [*_api(served), *_about(served, answers), *page_views.endpoints(served, rules.link)]
    names = {"model": list(served.threads), "task": list(served.tasks)}
    described = document(endpoints, names, rules.key is not None)

    async def openapi(request: Request) -> Response:
        return JSONResponse(described)

    routes = [
        *(each.route() for each in endpoints),
        Get("/openapi.json", "This document", openapi).route(),
        *page_views.file_routes(),
    ]
    paths = {route.path for route in routes}

    def answered(path: str, status: int) -> None:
        answers[path if path in paths else "other", status] += 1  # paths that clients made up are counted together

    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, rules=rules, answered=answered)],
        exception_handlers={
            RequestError: _request_error,
            ChainruleError: _mistake,
            FullError: _full,
            EngineError: _dead,
            ClientLeftError: _left,
            HTTPException: _http_error,
            Exception: _bug,
        },
    )


def _api(served: Served) -> list[Endpoint]:
    """What clients ask of models."""
    return [
        Post(
            "/v1/completions",
            "Continue prompts, or score them",
            partial(completions.completions, served),
            completions.FORM,
            answer_schemas.COMPLETION,
            streams=True,
        ),
        Post(
            "/v1/chat/completions",
            "Answer messages, by the model's chat template",
            partial(chat.chat, served),
            chat.FORM,
            answer_schemas.CHAT,
            streams=True,
        ),
        Post(
            "/v1/embeddings",
            "The final hidden states of texts",
            partial(embeddings.embeddings, served),
            embeddings.FORM,
            answer_schemas.EMBEDDINGS,
        ),
        Post(
            "/classify",
            "Labels of texts and their probabilities",
            classify.Classifying(served),
            classify.FORM,
            answer_schemas.CLASSIFIED,
        ),
        Post(
            "/tokenize",
            "The tokens of a text",
            partial(tokenizing.tokenize, served),
            tokenizing.TOKENIZE,
            answer_schemas.TOKENIZED,
        ),
        Post(
            "/detokenize",
            "The text of tokens",
            partial(tokenizing.detokenize, served),
            tokenizing.DETOKENIZE,
            answer_schemas.DETOKENIZED,
        ),
    ]


def _about(served: Served, answers: Counter[tuple[str, int]]) -> list[Endpoint]:
    """What is served, and how it does."""
    started = now()

    def card(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"id": name, "object": "model", "created": started, "owned_by": "chainrule"}
        if name not in served.classifiers:
            return {**found, "max_model_len": served.pretrained(name).lm.model.config.context}
        return {**found, "labels": list(served.classifiers[name].classifier.labels)}

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [card(name) for name in served.threads]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in served.threads:
            raise RequestError(
                f"model: wanted one of {', '.join(map(repr, served.threads))}, got {name!r}",
                "model",
                status=404,
                code="model_not_found",
            )
        return JSONResponse(card(name))

    async def health(request: Request) -> Response:
        dead = [name for name, thread in served.threads.items() if thread.dead is not None]
        return JSONResponse({"status": "dead" if dead else "ok", "dead": dead}, 503 if dead else 200)

    async def figures(request: Request) -> Response:
        return PlainTextResponse(metrics(served, answers), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def tokenizer(request: Request) -> Response:
        return JSONResponse(tokenizing.tokenizer_info(served, request.query_params.get("model")))

    return [
        Get("/v1/models", "What is served", models, answer_schemas.MODELS),
        Get("/v1/models/{name}", "One of them", model, answer_schemas.MODEL),
        Get(
            "/tokenizer_info",
            "A model's special tokens and chat template",
            tokenizer,
            answer_schemas.TOKENIZER,
            query=("model",),
        ),
        Get(
            "/health",
            "Whether all models work",
            health,
            answer_schemas.HEALTH,
            other={503: {"anyOf": [answer_schemas.HEALTH, answer_schemas.ERROR]}},
        ),
        Get("/metrics", "Figures in Prometheus's text format", figures, {"type": "string"}, "text/plain"),
    ]


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _mistake(request: Request, error: Exception) -> Response:
    """A ChainruleError is about what the client sent."""
    return await _request_error(request, RequestError(" ".join(str(error).split())))


async def _full(request: Request, error: Exception) -> Response:
    full = RequestError(
        "too many requests wait; try again",
        status=429,
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": "1"},
    )
    return await _request_error(request, full)


async def _dead(request: Request, error: Exception) -> Response:
    return await _request_error(request, RequestError(str(error), status=503, type="unavailable"))


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client has left


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    found = RequestError(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code)
    return JSONResponse(found.body(), found.status, error.headers)


async def _bug(request: Request, error: Exception) -> Response:
    return await _request_error(request, RequestError("the server failed", status=500, type="server_error"))
