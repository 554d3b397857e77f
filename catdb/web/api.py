"""The routes below /api: what may be asked, and which thread answers it. No path ever comes in, only numbers."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from catdb import shapes
from catdb.errors import ImageUnreadable, PathNotFound
from catdb.images import HEAD, Decoders, identify
from catdb.web import document as doc
from catdb.web.copies import Copies
from catdb.web.engine import SharedEngine
from catdb.web.thumbnails import Thumbnails

if TYPE_CHECKING:
    from catdb.database import Database
    from catdb.query import Result

T = TypeVar("T")
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": doc.Error} for status in (401, 403, 404, 405, 408, 410, 413, 415, 422, 429, 503)
}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "description": "The bytes of an image file, as they are.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
    304: {},
}


class Gone(Exception):
    """The client did not wait for the answer."""


class Desk:
    """What the routes share: the database, the engine, and the threads, so many for each kind of work."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.engine = SharedEngine(db)
        self.decoders = Decoders()
        self.thumbnails = Thumbnails(db, self.decoders)
        self.copies = Copies(db)
        self.looking = ThreadPoolExecutor(2, "catdb-look")
        self.searching = ThreadPoolExecutor(max(2, _CORES), "catdb-search")
        self.decoding = ThreadPoolExecutor(max(2, _CORES), "catdb-decode")

    def start(self) -> None:
        self.engine.start()

    def close(self) -> None:
        """End what is under way, so far as it can be."""
        self.engine.close()
        self.copies.close()
        self.decoders.close()
        for pool in (self.looking, self.searching, self.decoding):
            pool.shutdown(wait=False, cancel_futures=True)


async def do(pool: ThreadPoolExecutor, work: Callable[..., T], *given: Any, **named: Any) -> T:
    """Have a thread of a pool do something."""
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: work(*given, **named))


async def attended(request: Request, work: Awaitable[T]) -> T:
    """Wait for work for as long as the client does. Raises Gone; what had not begun by then is never begun.

    Raises HTTPException for a body that is too large, or takes too long, though nothing asks for it.
    """

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            leaving.result()
        if not working.done():
            raise Gone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


class Ascii(Response):
    """JSON in ASCII: a path whose bytes are no UTF-8 is escaped, and comes to whoever reads it as it is."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def _timed(result: Result, start: float, **more: object) -> Response:
    return Ascii({**shapes.of_result(result), **more, "seconds": round(time.perf_counter() - start, 6)})


async def _how(  # else it would cost each search a turn of a thread
    k: doc.K = 10,
    recall: doc.Recall = None,
    exact: doc.Exact = False,
    probes: doc.Probes = 4,
    category: doc.Category = None,
) -> dict[str, Any]:
    """Return the options of every search, as the searches of Database take them."""
    return {"k": k, "recall": recall, "exact": exact, "probes": probes, "category": category}


How = Annotated[dict[str, Any], Depends(_how)]


def routes(desk: Desk) -> APIRouter:
    """Return the routes of the API over a desk."""
    db = desk.db
    router = APIRouter(prefix="/api", responses=_ERRORS, default_response_class=Ascii)

    @router.get("/status", response_model=doc.Status)
    async def status() -> Response:
        """How much the database holds, and the state of the engine; cheap enough to ask for every other second."""
        desk.engine.start()
        found, watcher = await do(desk.looking, lambda: (db.status(), db.watcher()))
        engine = {"state": desk.engine.state, "reason": desk.engine.reason}
        counts = {name: getattr(found, name) for name in ("images", "failed", "categories", "version")}
        return Ascii({**counts, "engine": engine, "watcher": watcher})

    @router.get("/info", response_model=doc.Info)
    async def info() -> Response:
        """What the database is and holds."""
        return Ascii(shapes.of_info(await do(desk.looking, db.info)))

    @router.get("/categories", response_model=doc.Categories)
    async def categories() -> Response:
        """The categories that hold images, the fullest first."""
        return Ascii(shapes.of_categories(await do(desk.looking, db.categories)))

    @router.get("/images", response_model=doc.Images)
    async def images(category: doc.Category = None, after: doc.After = None, limit: doc.Limit = 60) -> Response:
        """A page of the images, by folder and name, or the most probable first if of a category."""

        def look() -> shapes.Shape:
            number = None if category is None else db.category_id(category)
            return shapes.of_page(db.images(category=number, after=after, limit=limit), number)

        return Ascii(await do(desk.looking, look))

    @router.get("/images/{id}", response_model=doc.Image)
    async def image(id: doc.Number) -> Response:
        """One image."""
        return Ascii(shapes.of_image(await do(desk.looking, db.image, id)))

    @router.get("/images/{id}/thumbnail", response_class=Response, responses=_JPEG)
    async def thumbnail(request: Request, id: doc.Number, size: doc.Size = doc.USUAL) -> Response:
        """A picture of the whole image, upright and newly made; 410 if its file is gone or cannot be read."""
        known = await do(desk.looking, db.image, id)
        tag = f'"{known.digest.hex()}-{int(size)}"'
        headers = {"cache-control": "private, no-cache", "etag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        try:
            jpeg, same = await attended(request, do(desk.decoding, desk.thumbnails.get, known, int(size)))
        except (PathNotFound, ImageUnreadable) as error:
            raise HTTPException(410, str(error)) from error
        return Response(jpeg, media_type="image/jpeg", headers=headers if same else None)

    @router.get("/search", response_model=doc.Answer)
    async def search(
        request: Request,
        image: doc.Wanted,
        how: How,
    ) -> Response:
        """Search with an image of the database."""
        start = time.perf_counter()
        found = await attended(request, do(desk.searching, db.search_image, image, **how))
        return _timed(found, start)

    @router.post("/search", response_model=doc.Answer, openapi_extra=_UPLOAD)
    async def upload(
        request: Request,
        x_catdb: doc.Own,
        how: How,
    ) -> Response:
        """Search with an image file of at most 20 MB, sent as the body itself."""
        with desk.engine.place() as place:
            content = io.BytesIO()
            async for chunk in request.stream():
                content.write(chunk)
            start = time.perf_counter()
            known = await attended(request, do(desk.looking, db.image_of, content))
            if known is not None:
                found = await attended(request, do(desk.searching, db.search_image, known.id, **how))
                return _timed(found, start, query=None)
            content.seek(0)
            if identify(content.read(HEAD)) is None:
                raise HTTPException(415, "not an image, or of no format that catdb reads")
            size = desk.engine.require()
            pixels = (await attended(request, do(desk.decoding, desk.decoders.decode_content, content, size)))[0]
            del content
            point = await attended(request, desk.engine.embed(place, pixels))
        return _timed(await attended(request, do(desk.searching, db.search_point, point, **how)), start)

    @router.get("/duplicates", response_model=doc.Duplicates, responses={202: {"model": doc.Running}})
    async def duplicates() -> Response:
        """The groups of copies; 202 while the search for them runs, which the first request starts."""
        done, found = await do(desk.looking, desk.copies.get)
        return Ascii(found, status_code=200 if done else 202)

    @router.get("/failures", response_model=doc.Failures)
    async def failures(after: doc.After = None, limit: doc.Limit = 60) -> Response:
        """A page of the files that could not be read."""

        page = await do(desk.looking, db.failures_page, after=after, limit=limit)
        return Ascii({**shapes.of_failures(page.failures), "next": page.next, "total": page.total})

    return router
