"""Who has the catalog open: of a process one writer, under the lock, and as many readers as read at once.

No connection is carried across a fork, and none outlives the database that it was opened for: when that was deleted
and made anew, the next to be opened leads to another one. With it goes what was learnt of the old one (the cache).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from catdb.cache import Cache
from catdb.catalog import Catalog, clear_errors
from catdb.errors import CatdbError, DatabaseNotFound
from catdb.lock import Lock


class Connections:
    """A process's connections to the catalog at ``path``, in the database directory ``folder``.

    ``lock`` is this process's, waited for as many seconds. ``cache`` is of the database that they lead to.
    """

    lock: Lock
    cache: Cache

    def __init__(self, folder: str, path: str, wait: float) -> None:
        self._folder = folder
        self._path = path
        self._wait = wait
        self._begin()

    def _begin(self) -> None:
        """Have nothing open and know nothing, as at first: so too in a process that was forked from another."""
        self._process = os.getpid()
        self._writer: Catalog | None = None
        self._readers: SimpleQueue[Catalog] = SimpleQueue()
        self._identity: tuple[int, ...] | None = None  # of the catalog of which the cache is
        self.lock = Lock(self._folder, self._wait)
        self.cache = Cache()

    def _begin_in_fork(self) -> None:
        if self._process != os.getpid():
            self._begin()

    def _recognise(self, catalog: Catalog) -> None:
        """Take nothing for granted that was learnt of another database, which was there before, or may have been."""
        if catalog.identity != self._identity:
            self.lock.clean = False
            self.cache = Cache()
            self._identity = catalog.identity

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock. Raises DatabaseBusy, naming the holder, after a while."""
        self._begin_in_fork()
        with self.lock.held():
            yield

    @contextmanager
    def writer(self, *, new: bool = False) -> Iterator[Catalog]:
        """Hold the lock and lend the one writing connection. Raises DatabaseNotFound, where no ``new`` one is made."""
        if not new:
            self._require_file()
        with self.held(), clear_errors(self._path):
            if self._writer and not self._writer.is_current():
                self._close_writer()  # the database was deleted, and may have been made anew: this one leads nowhere
                self._identity = None
            if self._writer is None:
                self._writer = Catalog.writer(self._path)
                self._writer.guard = self.lock.require
                self._recognise(self._writer)
            if not new:
                self._require_made(self._writer)
            yield self._writer

    @contextmanager
    def reader(self) -> Iterator[Catalog]:
        """Lend a reading connection of its own; several threads may hold one each. Raises DatabaseNotFound."""
        self._begin_in_fork()
        catalog = self._pooled_reader() or self._new_reader()
        try:
            with clear_errors(self._path):
                yield catalog
        finally:
            if catalog.frozen:
                catalog.close()
                catalog.require_unchanged()
            else:
                self._readers.put(catalog)

    def _pooled_reader(self) -> Catalog | None:
        with suppress(Empty):
            catalog = self._readers.get_nowait()
            if catalog.is_current():
                return catalog
            catalog.close()
            self._close_readers()
        return None

    def _new_reader(self) -> Catalog:
        self._require_file()
        catalog = Catalog.reader(self._path)
        try:
            self._require_made(catalog)
        except BaseException:
            catalog.close()
            raise
        self._recognise(catalog)
        return catalog

    def _require_file(self) -> None:
        if not os.path.exists(self._path):
            raise DatabaseNotFound(f"{self._folder}: there is no database here")

    def _require_made(self, catalog: Catalog) -> None:
        if not catalog.format():
            raise DatabaseNotFound(f"{self._folder}: there is no database here, only the beginning of one")

    def close(self) -> None:
        """Close them all. The last writer's close writes the log back, so it is done under the lock."""
        self._begin_in_fork()
        self._identity = None
        self.cache.maps.keep([])  # a map holds on to a file; what else is known is of use to whoever still asks
        self._close_readers()
        with self.lock.turn:  # else another thread may be about to write, by this very connection
            if self._writer and self._writer.is_current():
                with suppress(CatdbError), self.lock.held():
                    self._close_writer()
            self._close_writer()  # where another process writes, it has the log in its hands: nothing is written back

    def __del__(self) -> None:
        """Give the connections back where close() was forgotten; not under the lock, which one would wait for here."""
        with suppress(Exception):
            if self._process == os.getpid():
                self._close_readers()
                self._close_writer()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer:
            writer.close()

    def _close_readers(self) -> None:
        with suppress(Empty):
            while True:
                self._readers.get_nowait().close()
