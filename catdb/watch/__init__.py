"""Folders that keep themselves up to date.

    events ─▶ Changes that have settled ─┐
    rescan, every few minutes ───────────┼─▶ reconcile ─▶ commit ─▶ announced, and found by every search
    a root that is away, or back ────────┘

Events are hints, the rescan is the promise: ``changes`` hears what watchdog tells, ``follow`` decides what to look at,
and :class:`Watch` runs it, in the foreground or in a thread. One process watches a database at a time; any number may
search it, add and remove beside it, for the writer's lock is held for a batch and never for longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

from catdb.backbones import Engine
from catdb.images import Decoders
from catdb.ingest import Event
from catdb.lock import Lock
from catdb.reconcile import Means, Progress
from catdb.store import Store
from catdb.watch.follow import Follower, Manner, Notice

__all__ = ["Event", "Manner", "Notice", "Watch"]


class Watch:
    """Keeps a database in step with folders, from when its block is entered until it is left.

    What goes wrong for good (a database that was deleted, weights that are gone) ends it, and is raised by the next
    :meth:`wait_idle` or when the block is left. What may pass (a full disk, another writer, a folder that is away) is
    told and tried again.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        folders: Sequence[str] | None,
        manner: Manner,
        *,
        begin: Callable[[], None] = lambda: None,
        announce: Callable[[Notice], None] = lambda notice: None,
        notice: Callable[[str], None] = lambda line: None,
        progress: Callable[[Progress], None] = lambda step: None,
    ) -> None:
        """``folders``: absolute paths, or None for all that the database knows. ``announce`` is told of each change.

        ``begin`` is called first, once it is certain that no other process watches.
        """
        self._lock = Lock.of_watcher(store.path)
        self._begin = begin
        self._decoders = Decoders()
        self._follower = Follower(
            Means(store, engine, self._decoders, progress=progress), folders, manner, announce, notice
        )
        self._thread: threading.Thread | None = None
        self._held = ExitStack()
        self._error: BaseException | None = None

    def __enter__(self) -> Watch:
        """Begin, in a thread. Raises DatabaseBusy where another process watches the database."""
        with ExitStack() as held:
            held.enter_context(self._lock.held())
            self._begin()
            self._held = held.pop_all()
        self._thread = threading.Thread(target=self._run, name="catdb-watch")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the batch that is under way, and end."""
        self.stop()
        if self._thread:
            self._thread.join()
        self._held.close()
        if error is None:
            self._raise()

    def run(self) -> None:
        """Do the same in this thread, until :meth:`stop` is called, by a signal handler or another thread."""
        with self._lock.held(), self._decoders:
            self._begin()
            self._follower.run()

    def stop(self) -> None:
        """Have it end once the batch that is under way has been committed. Returns at once."""
        self._follower.stop()

    def wait_idle(self, timeout: float | None = None) -> None:
        """Wait until everything that was in the folders at this moment is in the database.

        Raises TimeoutError after so many seconds, and whatever has ended the watch.
        """
        if self._follower.wait_idle(timeout):
            return
        if self._follower.ended:
            if self._thread:
                self._thread.join()  # so that it has said why
                self._raise()
            raise RuntimeError("the watch has ended")
        raise TimeoutError(f"not in step with its folders after {timeout:g} s")

    def _run(self) -> None:
        try:
            with self._decoders:
                self._follower.run()
        except BaseException as error:  # it surfaces in the caller
            self._error = error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
