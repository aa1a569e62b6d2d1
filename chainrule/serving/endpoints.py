"""Endpoints, each with what it takes and what it answers; a client that leaves cancels its request. Knows HTTP, no
model."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chainrule.serving.fields import Fields
from chainrule.serving.kinds import Form, Schema
from chainrule.serving.requests import read_json

T = TypeVar("T")
Handler = Callable[[Fields], Awaitable[Any]]  # fields to a Response, or to what JSON can express
ANY: Schema = {"type": "object"}  # an answer that is the page's own business


class ClientLeftError(Exception):
    """The client closed its connection: nobody reads an answer."""


@dataclass(frozen=True)
class Post:
    """POST `path` with a JSON object of a form. A client that leaves cancels the handler."""

    path: str
    summary: str
    handler: Handler
    form: Form
    answer: Schema = field(default_factory=ANY.copy)
    streams: bool = False  # whether it can answer with server-sent events

    def route(self) -> Route:
        """What Starlette calls."""

        async def endpoint(request: Request) -> Response:
            fields = Fields(await read_json(request), self.form)
            found = await while_connected(request, self.handler(fields))
            return found if isinstance(found, Response) else JSONResponse(found)

        return Route(self.path, endpoint, methods=["POST"])


@dataclass(frozen=True)
class Get:
    """GET `path`, where `name` is a part of it and `query` may be asked for."""

    path: str  # with {name} for a name, in which a slash may be
    summary: str
    endpoint: Callable[[Request], Awaitable[Response]]
    answer: Schema = field(default_factory=ANY.copy)
    media: str = "application/json"
    query: Sequence[str] = ()
    other: Mapping[int, Schema] = field(default_factory=dict)  # answers of other statuses, which are no errors

    def route(self) -> Route:
        """What Starlette calls."""
        return Route(self.path.replace("{name}", "{name:path}"), self.endpoint)


Endpoint = Post | Get


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """What `work` returns; it is cancelled where the client leaves before. The body must have been read."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
