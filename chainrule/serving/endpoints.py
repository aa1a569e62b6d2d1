"""Routes that take and give JSON: a client that leaves cancels its request. Knows HTTP, no model."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chainrule.serving.requests import Fields, read_json

T = TypeVar("T")
Handler = Callable[[Fields], Awaitable[Any]]  # fields to a Response, or to what JSON can express


class ClientLeftError(Exception):
    """The client closed its connection: nobody reads an answer."""


def json_route(path: str, handler: Handler, known: Collection[str]) -> Route:
    """POST `path` with a JSON object whose fields are among `known`. A client that leaves cancels the handler."""

    async def endpoint(request: Request) -> Response:
        fields = Fields(await read_json(request), known)
        found = await while_connected(request, handler(fields))
        return found if isinstance(found, Response) else JSONResponse(found)

    return Route(path, endpoint, methods=["POST"])


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
