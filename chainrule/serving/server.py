"""Runs the application under uvicorn until a signal, or until a model's thread dies."""

import asyncio
import logging
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import Scope

from chainrule.errors import OptionError
from chainrule.serving.app import make_app
from chainrule.serving.safety import Rules
from chainrule.serving.served import Served

GRACE = 30  # seconds that what runs at SIGTERM may still take
_BACKLOG = 2048  # connections that wait to be accepted
_SWITCH = 0.0005  # seconds that a thread may keep the interpreter from a model's thread


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; OptionError where it cannot. Nothing is loaded for a port that is taken, and a second
    server is refused although the first still loads. Who connects before everything is loaded waits for an answer."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP by its name: else asyncio leaves TCP_NODELAY off, and the pieces of a stream wait for acknowledgements.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(_BACKLOG)  # two sockets may be bound to one port while none of them listens
    except (OSError, OverflowError) as error:
        bound.close()
        raise OptionError(
            f"--host, --port: wanted an address to listen on, got {host} port {port}: {error};"
            " name another, or --port 0 for a free one"
        ) from None
    return bound


def run(
    served: Served,
    bound: socket.socket,
    host: str,
    key: str | None,
    *,
    open_page: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> int:
    """Serve until SIGTERM or SIGINT: what runs ends, at most `GRACE` seconds later; the exit status.

    It is 1 where a model's thread has died, else 0.
    """
    logging.basicConfig(level=logging.WARNING, format="chainrule: %(message)s", stream=sys.stderr)
    sys.setswitchinterval(_SWITCH)
    server = make_server(served, host, key)
    address, port = bound.getsockname()[:2]
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
    log(f"serving {', '.join(served.threads)} at {url}")
    if open_page:
        webbrowser.open(url)
    # uvicorn raises the signal again when it has shut down: by then that is no fault.
    before = {one: signal.signal(one, _ignore) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(server.serve([bound]))
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        for thread in served.threads.values():
            thread.stop()
    return 0 if served.alive else 1


def make_server(served: Served, host: str = "127.0.0.1", key: str | None = None, grace: int = GRACE) -> uvicorn.Server:
    """uvicorn with the application; a model's thread that dies ends it."""

    def cut_off(scope: Scope) -> None:
        for connection in list(server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if getattr(connection, "client", None) == scope["client"] and transport is not None:
                transport.abort()

    def died() -> None:
        server.should_exit = True

    server = uvicorn.Server(
        uvicorn.Config(
            make_app(served, Rules(host, key, lambda: server.should_exit, cut_off)),
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=grace,
            timeout_keep_alive=30,
        )
    )
    for thread in served.threads.values():
        thread.died = died
        if thread.dead is not None:
            died()
    return server


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
