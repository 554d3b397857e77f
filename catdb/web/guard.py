"""Who may ask: what is refused before anything is routed, and the headers that every answer carries.

A page of someone else's, open in the same browser, can send requests here. It cannot read the answers unless its name
comes to lead here (DNS rebinding): so the Host must be a name of this server's. It cannot hide where it comes from: so
an Origin must be this server's own, and so must be what a browser says of where a request was made (Sec-Fetch-Site). It
cannot send a header of its own choosing without asking, which nobody here answers: so what is no GET needs X-Catdb.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LARGEST = 20 << 20
"""Bytes of a request's body."""
AT_ONCE = 256
"""Requests that are answered at a time."""
PATIENCE = 60.0
"""Seconds for a body to come in."""

FAILED = "something went wrong here; the server's terminal says what"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\\\s]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none';"
        b" frame-ancestors 'none'; object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
HEADERS = tuple((name, value) for name, value in _HEADERS)
_LINGER = 2.0  # seconds for which a body that is too large is read and dropped, so that its sender sees the answer


class _Refusal(Exception):
    def __init__(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self, app: App, *, token: str | None, hosts: Iterable[str], notice: Callable[[str], None] = lambda line: None
    ) -> None:
        """``hosts``: names beside those of the loopback by which it may be called. ``notice`` is told of what fails."""
        self._app, self._notice = app, notice
        self._hosts = {"localhost", "127.0.0.1", "[::1]", *map(_bracketed, hosts)}
        self._token = token.encode("utf-8", "surrogateescape") if token is not None else None
        self._key = hashlib.sha256(b"catdb cookie\0" + self._token).hexdigest() if self._token is not None else ""
        self._under_way = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = _Answer(scope["method"], send)
        if self._under_way >= AT_ONCE:
            await answer.refuse(503, "too much is asked at once; try again", (b"retry-after", b"1"))
            return
        self._under_way += 1
        try:
            await self._admit(scope, receive, answer)
        except _Refusal as refusal:
            await answer.refuse(refusal.status, str(refusal), *refusal.headers)
        except asyncio.CancelledError:  # the server is being stopped
            if not answer.started:
                await answer.refuse(503, "the server is being stopped")
        except Exception as error:
            self._notice(f"{scope['method']} {scope['path']}: {type(error).__name__}: {error}")
            if not answer.started:
                await answer.refuse(500, FAILED)
        finally:
            self._under_way -= 1

    async def _admit(self, scope: MutableMapping[str, Any], receive: Receive, answer: _Answer) -> None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        host = self._require_host(scope, headers)
        _require_own_page(scope, headers, host)
        self._require_token(scope, headers)
        if scope["method"] not in ("GET", "HEAD") and headers.get(b"x-catdb") != [b"1"]:
            raise _Refusal(403, "a request that is no GET needs the header X-Catdb: 1")
        body = _Body(receive)
        answer.body = body
        length = b",".join(headers.get(b"content-length", [b"0"]))
        if not length.isdigit():
            raise _Refusal(400, "a Content-Length that is no number")
        if len(length) > 18 or int(length) > LARGEST:
            raise _Refusal(413, _TOO_LARGE, (b"connection", b"close"))
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._app({**scope, "method": method}, body.receive, answer.send)

    def _require_host(self, scope: MutableMapping[str, Any], headers: dict[bytes, list[bytes]]) -> str:
        """Return the Host, one of ours. The address at which a request came in is ours; no name can stand for it."""
        given = [value.decode("latin-1") for value in headers.get(b"host", [])]
        parts = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if parts is None or parts[1].lower() not in self._hosts | _addresses(scope.get("server")):
            shown = given[0][:80] if given else ""
            raise _Refusal(403, f"not the host {shown!r}: --allow-host has catdb serve answer to further names")
        return given[0].lower()

    def _require_token(self, scope: MutableMapping[str, Any], headers: dict[bytes, list[bytes]]) -> None:
        if self._token is None:
            return
        cookie = f"catdb-{(scope.get('server') or ('', 0))[1]}={self._key}".encode()
        if scope["path"] == "/" and scope["method"] == "GET":  # first, that no token stays in the browser's address
            tokens = _tokens(scope["query_string"])
            if len(tokens) == 1 and hmac.compare_digest(tokens[0], self._token):
                set_cookie = cookie + b"; HttpOnly; SameSite=Strict; Path=/"
                raise _Refusal(303, "come in", (b"location", b"/"), (b"set-cookie", set_cookie))
        for value in headers.get(b"authorization", []):
            kind, _, token = value.partition(b" ")
            if kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token):
                return
        # Of other programs on this machine there are cookies, too, and some that no strict reader takes.
        pairs = (pair.strip() for value in headers.get(b"cookie", []) for pair in value.split(b";"))
        if any(hmac.compare_digest(pair, cookie) for pair in pairs):
            return
        raise _Refusal(401, "this needs the token that catdb serve was started with", (b"www-authenticate", b"Bearer"))


_TOO_LARGE = f"too large: at most {LARGEST >> 20} MB are taken"


class _Body:
    """A request's body, of which no more is handed on than is taken, and no longer waited for than is right."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = LARGEST
        self._until: float | None = None
        self._whole = False
        self.refused = self.too_large = False

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()  # until the client has gone
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + PATIENCE
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            self.refused = True
            raise HTTPException(408, "the request's body takes too long") from None
        self._left -= len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._left < 0:
            self.refused = self.too_large = True
            raise HTTPException(413, _TOO_LARGE)
        return message

    async def drop(self) -> None:
        """Read on for a moment and drop it, so that the answer is not lost with the connection."""
        try:
            async with asyncio.timeout(_LINGER):
                while not self._whole:
                    message = await self._receive()
                    self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        except TimeoutError:
            pass


class _Answer:
    """What is sent back: with every header that is due, and without a body for HEAD."""

    def __init__(self, method: str, send: Send) -> None:
        self._method, self._send = method, send
        self.body: _Body | None = None
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            own = {name.lower() for name, _ in message["headers"]}
            headers = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in own)]
            if b"cache-control" not in own:
                headers.append((b"cache-control", b"no-store"))
            if self.body and self.body.refused and b"connection" not in own:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif self._method == "HEAD":
            message = {**message, "body": b""}
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and self.body and self.body.too_large:
            await self._send({**message, "more_body": True})
            await self.body.drop()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def refuse(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        told = json.dumps({"error": reason}).encode("ascii")
        about = [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode())]
        if self.body and status == 413:
            self.body.refused = self.body.too_large = True
        await self.send({"type": "http.response.start", "status": status, "headers": [*about, *headers]})
        await self.send({"type": "http.response.body", "body": told})


def _require_own_page(scope: MutableMapping[str, Any], headers: dict[bytes, list[bytes]], host: str) -> None:
    """Refuse what another page sent. To follow a link to the page itself is not that."""
    for origin in headers.get(b"origin", []):
        scheme, _, place = origin.decode("latin-1").lower().partition("://")
        if scheme not in ("http", "https") or place != host:
            raise _Refusal(403, "a request of another page")
    site = headers.get(b"sec-fetch-site", [b"none"])
    if site in ([b"same-origin"], [b"none"]):
        return
    followed = headers.get(b"sec-fetch-mode") == [b"navigate"] and headers.get(b"sec-fetch-dest") == [b"document"]
    if not (followed and scope["method"] == "GET" and scope["path"] == "/"):
        raise _Refusal(403, "a request of another page")


def _tokens(query: bytes) -> list[bytes]:
    """Return the tokens in a query string; none where it is no address of the page, so long is it."""
    try:
        given = parse_qs(query.decode("latin-1"), errors="surrogateescape", max_num_fields=100)
    except ValueError:
        return []
    return [token.encode("utf-8", "surrogateescape") for token in given.get("token", [])]


def _addresses(server: Any) -> set[str]:
    """Return the address at which a request has come in, as a Host header has it."""
    try:
        return {_bracketed(str(ip_address(server[0])))}
    except (TypeError, ValueError):
        return set()


def _bracketed(host: str) -> str:
    """Return a host, given with a port or without, as it stands in a Host header but for the port."""
    parts = _HOST.fullmatch(host)
    return (parts[1] if parts else f"[{host.strip('[]')}]").lower()
