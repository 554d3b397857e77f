"""The one engine of the process: begun in the background, and shared by uploads that wait for it in one network pass.

An upload takes a place before its first byte is read, and gives it back when its pass begins. There are WAITING places,
so that this is also how many uploads are held in memory beside those of the pass that is running.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from catdb.errors import CatdbError

if TYPE_CHECKING:
    from catdb.database import Database
    from catdb.questions import Point

_LAST = 10.0  # seconds
WAITING = 8
"""Uploads that may wait behind the pass that is running."""


class Refused(Exception):
    """An upload has to come again, in so many seconds; or never (None), for there will be no engine."""

    def __init__(self, reason: str, *, busy: bool = False, seconds: int | None = None) -> None:
        super().__init__(reason)
        self.busy = busy
        self.seconds = seconds


@dataclass(eq=False)
class Place:
    """A place in the queue, given back when the pass begins, or the upload ends otherwise."""

    held: bool = True


class SharedEngine:
    """A database's network, in a thread of its own. ``state``: "starting", "ready" or "failed", then with a reason."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._turn = threading.Condition()
        self._ready: deque[tuple[Place, NDArray[np.uint8], Future[Point]]] = deque()
        self._places = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pass = 1.0  # seconds that the last one took
        self.input_size = (0, 0)
        self.state, self.reason = "starting", ""

    def start(self) -> None:
        """Begin, if that was not done yet; returns at once."""
        with self._turn:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="catdb-engine", daemon=True)
                self._thread.start()
                atexit.register(self._thread.join, _LAST)  # under a native library's feet no interpreter may end

    def close(self) -> None:
        """End with the pass that is running; who still waits is refused."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        self._refuse_all("the server is being stopped")

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Take a place in the queue. Raises Refused where all are taken."""
        with self._turn:
            if self._places >= WAITING:
                seconds = max(1, round(2 * self._pass))
                raise Refused(f"{WAITING} uploads are waiting already; try again", busy=True, seconds=seconds)
            self._places += 1
        place = Place()
        try:
            yield place
        finally:
            with self._turn:
                self._free(place)

    def require(self) -> tuple[int, int]:
        """Return the (height, width) of the pixels that it takes. Raises Refused where it is not ready."""
        self.start()
        if self.state == "starting":
            raise Refused("the engine is starting; search with an image of the database meanwhile", seconds=2)
        if self.state == "failed":
            raise Refused(f"there is no engine: {self.reason}")
        return self.input_size

    async def embed(self, place: Place, pixels: NDArray[np.uint8]) -> Point:
        """Wait for the pass that takes this image along. One whose waiting is cancelled is left out."""
        future: Future[Point] = Future()
        with self._turn:
            if self._closed:
                raise Refused("the server is being stopped")
            self._ready.append((place, pixels, future))
            self._turn.notify_all()
        return await asyncio.wrap_future(future)

    def _free(self, place: Place) -> None:
        self._places -= place.held
        place.held = False

    def _run(self) -> None:
        try:
            self.input_size = self._db.load()
            self._db.embed(np.zeros((1, *self.input_size, 3), np.uint8))  # compiles: the first upload need not wait
        except Exception as error:
            known = isinstance(error, CatdbError | OSError)
            self.reason = str(error) if known else f"{type(error).__name__}: {error}"
            self.state = "failed"
            return
        self.state = "ready"
        while batch := self._next():
            start = time.monotonic()
            try:
                points = self._db.embed(np.stack([pixels for pixels, _ in batch]))
            except Exception as error:  # it must reach those who wait
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), point in zip(batch, points, strict=True):
                    future.set_result(point)
            self._pass = time.monotonic() - start

    def _next(self) -> list[tuple[NDArray[np.uint8], Future[Point]]]:
        """Return all that is ready, once there is something; nothing at the end."""
        batch: list[tuple[NDArray[np.uint8], Future[Point]]] = []
        with self._turn:
            while not batch:
                self._turn.wait_for(lambda: self._ready or self._closed)
                if self._closed:
                    return []
                while self._ready:
                    place, pixels, future = self._ready.popleft()
                    self._free(place)
                    if future.set_running_or_notify_cancel():
                        batch.append((pixels, future))
        return batch

    def _refuse_all(self, reason: str) -> None:
        with self._turn:
            left, self._ready = self._ready, deque()
        for _, _, future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(Refused(reason))
