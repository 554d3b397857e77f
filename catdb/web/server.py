"""The server: where it listens, how long it waits for whom, and how it ends. It logs nothing but what fails."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from catdb.web.app import create_app
from catdb.web.guard import HEADERS

if TYPE_CHECKING:
    from catdb.database import Database

_HEAD = 10.0  # seconds in which the head of a first request must have come in
_TAKING = 30.0  # seconds in which what is sent must be taken, so far that more can be sent
_IDLE = 15  # seconds for which a connection is kept for a next one
_CONNECTIONS = 400  # kept open at a time
_GRACE = 1  # seconds that answers under way are given at the end


class Serving:
    """A server over a database that listens from now on, and answers once it runs.

    Raises ValueError for an address beyond this machine without a token, and OSError where it cannot listen.
    """

    def __init__(
        self,
        db: Database,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        allow: Iterable[str] = (),
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``token`` is asked of everybody; ``allow``: further names by which the server is called."""
        if token is not None and not token:
            raise ValueError("the token is empty")
        host = host.strip("[]")  # as it stands in an address
        family, address = _resolve(host, port)
        if token is None and not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
            raise ValueError(f"{host} can be reached from other machines: that needs a --token")
        self._socket = _listen(family, address)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self._notice = notice
        app = create_app(db, token=token, hosts=[host, *allow], notice=notice)
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # the guard has told of whatever matters
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=_GRACE,
        )
        self._server = _Server(config)

    def run(self, listening: Callable[[], None] = lambda: None) -> None:
        """Serve until :meth:`stop`; ``listening`` is called once requests are answered. In one thread, once."""

        async def serve() -> None:
            asyncio.get_running_loop().set_exception_handler(self._tell)
            self._server.listening = listening
            await self._server.serve(sockets=[self._socket])

        try:
            asyncio.run(serve())
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Have it end, with what it is answering now; from any thread, or a signal's handler."""
        self._server.should_exit = True

    def _tell(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, ConnectionError | asyncio.CancelledError | None):
            self._notice(f"{context.get('message', 'an error')}: {error}")


def serve(db: Database, **how: Any) -> None:
    """Serve the page and the API of a database until the process is interrupted; see :class:`Serving`."""
    Serving(db, **how).run()


class _Server(uvicorn.Server):
    """Uvicorn's, but for the signals, which are the caller's."""

    listening: Callable[[], None]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self.listening()


class _Protocol(H11Protocol):
    """Uvicorn's, but that it waits only so long for a request or for an answer to be taken, and has the guard's headers
    on what it answers itself."""

    _timer: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()  # before there are more than the system lets a process have
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()
        elif self.cycle is None or self.cycle.response_complete:
            self._wait_for_head()  # from its first byte on; further bytes do not put it off

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._taking is not None:
            self._taking.cancel()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # a last answer that nobody takes

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking = self.loop.call_later(_TAKING, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()

    def _wait_for_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(_HEAD, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        body = json.dumps({"error": msg}).encode("ascii")
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
        try:
            for event in (
                h11.Response(status_code=400, headers=[*headers, (b"connection", b"close")], reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer was under way: it ends here
            pass
        self.transport.close()


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Return the address of a host, one of IPv4 where it has any."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OSError(None, f"{host}: {reason}; name an address of this machine with --host") from error
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return found[0][0], found[0][4]


def _listen(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: asyncio then sends at once
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)
    except OSError as error:
        listener.close()
        shown, other = f"{address[0]}:{address[1]}", "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise OSError(error.errno, f"{shown}: {error.strerror}; choose another {other}") from error
    return listener
