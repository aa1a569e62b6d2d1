"""A response of server-sent events, which a client may leave or stop reading. Knows HTTP."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chainrule.errors import ChainruleError
from chainrule.serving.answers import event
from chainrule.serving.requests import RequestError

_END = b""
KEEPALIVE = 15.0  # seconds without an event after which a comment is sent
log = logging.getLogger(__name__)


class Streamed(Response):
    """Chunks as server-sent events. The first one decides the status: an error before it is an answer of its own.

    What makes the chunks is closed where the client leaves.
    """

    def __init__(self, chunks: AsyncGenerator[Mapping[str, Any], None]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.ensure_future(self._write(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            leaving.cancel()
            writing.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        begun = False

        async def put(data: bytes, more: bool = True) -> None:
            nonlocal begun
            if not begun:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                begun = True
            await send({"type": "http.response.body", "body": data, "more_body": more})

        async with aclosing(self._chunks) as chunks, aclosing(_with_pauses(chunks)) as parts:
            while True:
                try:
                    part = await anext(parts, _END)
                except Exception as error:
                    if not begun:
                        raise  # the application answers it, with its own status
                    part = event(_shown(error).body())
                if part is _END:
                    break
                await put(part)
        await put(b"data: [DONE]\n\n", more=False)


async def _with_pauses(chunks: AsyncGenerator[Mapping[str, Any], None]) -> AsyncGenerator[bytes, None]:
    """The chunks as events, and a comment where there is none for `KEEPALIVE` seconds."""
    following = asyncio.ensure_future(anext(chunks, None))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=KEEPALIVE)
            if not done:
                yield b": keepalive\n\n"
                continue
            chunk = following.result()
            if chunk is None:
                return
            yield event(chunk)
            following = asyncio.ensure_future(anext(chunks, None))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _shown(error: Exception) -> RequestError:
    """What the client sees of an error in the middle of a stream."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ChainruleError):
        return RequestError(str(error))
    log.error("a stream failed", exc_info=error)
    return RequestError("the server failed", status=500, type="server_error")


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
