"""The application: the routes, the files of the page, and how what goes wrong is told."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from catdb import errors
from catdb.web.api import Ascii, Desk, Gone, routes
from catdb.web.engine import Refused
from catdb.web.guard import FAILED, Guard

if TYPE_CHECKING:
    from catdb.database import Database

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STATUS = (
    (errors.ImageUnknown, 404),
    (errors.CategoryUnknown, 404),
    (errors.ImageUnreadable, 422),
    (errors.CatdbError, 503),  # the database or the engine: not what was asked is wrong, and it may be right again
    (OSError, 503),
    (ValueError, 422),
)


def create_app(
    db: Database,
    *,
    token: str | None = None,
    hosts: Iterable[str] = (),
    notice: Callable[[str], None] = lambda line: None,
) -> Guard:
    """Return an ASGI application with the page and the API of a database, which it does not close.

    ``token``: what is to be shown with every request. ``hosts``: names beside localhost by which the server is called.
    ``notice`` is told in a line of what should not have happened.
    """
    desk = Desk(db)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        desk.start()
        try:
            yield
        finally:
            desk.close()

    app = FastAPI(
        title="catdb",
        description='A database of images that is searched by image. Whatever goes wrong is {"error": "..."}.',
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages load what they are made of from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        default_response_class=Ascii,
    )
    app.include_router(routes(desk))
    _add_page(app)
    for kind, status in _STATUS:
        app.add_exception_handler(kind, _telling(status))
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_values)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(Gone, _gone)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _failed)
    return Guard(app, token=token, hosts=hosts, notice=notice)


def _add_page(app: FastAPI) -> None:
    """Add the files of the page, by the names that they have; they are read once, so that no name is ever a path."""
    known = {}
    for file in files("catdb.web").joinpath("page").iterdir():
        kind = _KINDS.get(file.name[file.name.rfind(".") :])
        if kind:
            content = file.read_bytes()
            known[file.name] = content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    def answer(request: Request, name: str) -> Response:
        if name not in known:
            raise HTTPException(404, "there is nothing here")
        content, kind, tag = known[name]
        headers = {"cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return answer(request, "index.html")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        return answer(request, name)


Telling = Callable[[Request, Exception], Awaitable[Response]]


def _telling(status: int) -> Telling:
    async def tell(request: Request, error: Exception) -> Response:
        return Ascii({"error": str(error)}, status_code=status)

    return tell


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "there is nothing here", 405: "this is not done here"}
    plain = error.detail in ("Not Found", "Method Not Allowed")
    told = words.get(error.status_code, error.detail) if plain else error.detail
    return Ascii({"error": told}, status_code=error.status_code, headers=dict(error.headers or {}))


async def _of_values(request: Request, error: Exception) -> Response:
    """Say in a line what is wrong with a value, the first one that is."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(word) for word in first["loc"][1:])
    return Ascii({"error": f"{name}: {first['msg']}"[:500]}, status_code=422)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {} if error.seconds is None else {"retry-after": str(error.seconds)}
    return Ascii({"error": str(error)}, status_code=429 if error.busy else 503, headers=headers)


async def _failed(request: Request, error: Exception) -> Response:
    return Ascii({"error": FAILED}, status_code=500)  # the guard tells of the error


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody sees it
