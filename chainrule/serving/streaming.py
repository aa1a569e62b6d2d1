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
        self._begun, self._latest = False, 0.0  # whether the status was sent; when something was
        self._sending = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.ensure_future(self._write(send))
        others = [asyncio.ensure_future(_left(receive)), asyncio.ensure_future(self._fill_pauses(send))]
        try:
            done, _ = await asyncio.wait([writing, *others], return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in (writing, *others):
                each.cancel()
            await asyncio.gather(writing, *others, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            while True:
                try:
                    chunk = await anext(chunks, None)
                except Exception as error:
                    if not self._begun:
                        raise  # the application answers it, with its own status
                    chunk = _shown(error).body()
                if chunk is None:
                    break
                await self._put(send, event(chunk))
        await self._put(send, b"data: [DONE]\n\n", more=False)

    async def _fill_pauses(self, send: Send) -> None:
        """A comment where nothing was sent for `KEEPALIVE` seconds."""
        loop = asyncio.get_running_loop()
        self._latest = loop.time()
        while True:
            pause = self._latest + KEEPALIVE - loop.time()
            if pause <= 0 and not self._sending.locked():
                await self._put(send, b": keepalive\n\n")
            await asyncio.sleep(pause if pause > 0 else KEEPALIVE)

    async def _put(self, send: Send, data: bytes, more: bool = True) -> None:
        async with self._sending:
            if not self._begun:
                self._begun = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._latest = asyncio.get_running_loop().time()
            await send({"type": "http.response.body", "body": data, "more_body": more})


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
