"""Which requests are let in: the key, the Host, the origin; and how long a client may not read. Knows HTTP alone."""

import asyncio
import hmac
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chainrule.serving.requests import RequestError

STALLED = 30.0  # seconds that a client may not read before its connection is closed
_LOCAL = ("localhost", "127.0.0.1", "::1")
_GUARDED = (
    *("/v1/", "/page/", "/tokenize", "/detokenize", "/tokenizer_info", "/classify", "/metrics", "/openapi.json"),
)


class StalledError(Exception):
    """The client does not read its answer."""


def is_local(host: str) -> bool:
    """Whether an address is this machine's own, which no other can reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_guarded(path: str) -> bool:
    """Whether a key is wanted for this path, where the server has one."""
    return path.startswith(_GUARDED)


@dataclass(frozen=True)
class Rules:
    """Whom the server answers."""

    host: str = "127.0.0.1"  # the address it listens on
    key: str | None = None  # what clients must send
    stopping: Callable[[], bool] = lambda: False  # whether new requests are refused
    cut_off: Callable[[Scope], None] = lambda scope: None  # closes a client's connection at once
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))  # signs links; another at each start

    def refusal(self, scope: Scope) -> RequestError | None:
        """Why a request is not let in; None where it is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.stopping():
            return RequestError(
                "the server is shutting down", status=503, type="unavailable", headers={"connection": "close"}
            )
        if self._hosts is not None and (urlsplit(f"//{host}").hostname or "") not in self._hosts:
            return RequestError(f"Host: wanted one of {', '.join(sorted(self._hosts))}", "Host", status=403)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:  # a page of another site
            return RequestError("Origin: wanted this server's own pages", "Origin", status=403)
        if self.key is not None and is_guarded(scope["path"]) and not (self._has_key(headers) or self._signed(scope)):
            return RequestError(
                "wanted the header Authorization: Bearer KEY with the server's key",
                status=401,
                type="authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return None

    def link(self, path: str) -> str:
        """A link to a path which wants no header: where a key is wanted, whoever got this link has it. It is valid for
        this path, while the server runs. A frame and a new tab can send no header."""
        return quote(path) if self.key is None else f"{quote(path)}?signature={self._signature(path)}"

    def _signature(self, path: str) -> str:
        return hmac.new(self.secret, path.encode(), "sha256").hexdigest()

    def _signed(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"]).get(b"signature", [b""])[-1]
        return hmac.compare_digest(given, self._signature(scope["path"]).encode())

    @property
    def _hosts(self) -> Collection[str] | None:
        """The names by which clients may call the server: a page of another site, whose name was made to
        resolve to this machine (DNS rebinding), calls it by its own. None: any, where it listens on all addresses."""
        return None if self.host in ("0.0.0.0", "::") else {*_LOCAL, self.host.lower()}

    def _has_key(self, headers: Headers) -> bool:
        assert self.key is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.key.encode())


class Guard:
    """The application behind the rules."""

    def __init__(self, app: ASGIApp, rules: Rules, answered: Callable[[str, int], None]) -> None:
        """`answered` is called with the path and status of each answer."""
        self._app, self._rules, self._answered = app, rules, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def patient(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(scope["path"], message["status"])
            try:
                async with asyncio.timeout(STALLED):
                    await send(message)
            except TimeoutError:
                raise StalledError from None

        refused = self._rules.refusal(scope)
        try:
            if refused is not None:
                await JSONResponse(refused.body(), refused.status, refused.headers)(scope, receive, patient)
            else:
                await self._app(scope, receive, patient)
        except StalledError:
            self._rules.cut_off(scope)
