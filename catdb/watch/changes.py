"""What watchdog tells of folders, as sets of changes that have settled. The secret kept here is watchdog.

Events are hints: a burst of them is cut off, a folder that was just made has none yet, a network file system gives
none at all. So nothing here promises to be complete; it only says early what a rescan would find.

A change has settled when nothing like it has happened for a *quiet* time, so that a burst is one set; and after a *cap*
in any case, so that a steady stream is not put off for ever.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

_CLOSES = sys.platform == "linux"  # only inotify says when a file that was written to is closed
_PATIENCE = 4.0  # seconds after which a heartbeat that was not heard means that there are no more events
_SILENT = logging.NullHandler()
_MOST = 100_000  # events that may wait, some 50 MB
_KINDS: list[type[FileSystemEvent]] = [
    *(FileCreatedEvent, FileDeletedEvent, FileMovedEvent),
    *(DirCreatedEvent, DirDeletedEvent, DirMovedEvent),
    FileClosedEvent if _CLOSES else FileModifiedEvent,
]


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths that changed, as they are seen from the folders that are watched.

    ``whole``: files that nobody is writing to any more. ``open``: files that may still be written to, and folders that
    appeared with who knows what in them. ``gone``: what is not there any more. ``lost``: there were more events, so
    look everywhere.
    """

    whole: frozenset[str] = frozenset()
    open: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    lost: bool = False

    def __bool__(self) -> bool:
        return bool(self.whole or self.open or self.gone or self.lost)


@dataclass
class _Bucket:
    """Paths that wait until they have settled; times are in seconds, by the monotonic clock."""

    quiet: float
    cap: float
    paths: set[str] = field(default_factory=set)
    _first: float = 0.0
    _last: float = 0.0

    def add(self, path: str) -> None:
        self._last = time.monotonic()
        if not self.paths:
            self._first = self._last
        self.paths.add(path)

    def due(self) -> float:
        """Return when the paths will have settled, if nothing more happens; never where there are none."""
        return min(self._last + self.quiet, self._first + self.cap) if self.paths else float("inf")

    def take(self) -> frozenset[str]:
        """Give the paths away if they have settled."""
        if self.due() > time.monotonic():
            return frozenset()
        paths, self.paths = frozenset(self.paths), set()
        return paths


class Events:
    """Watches folders. One thread asks for the changes; another may :meth:`wake` it."""

    def __init__(self, *, quiet: float = 0.2, cap: float = 2.0, skip: str | None = None) -> None:
        """``quiet``, ``cap``: seconds, see above. What is gone waits longer, so that a folder being emptied shows.

        ``skip``: a folder of which nothing is told, the database itself.
        """
        self._skip = os.path.join(os.path.realpath(skip), "") if skip is not None else None
        self._queue: SimpleQueue[tuple[str, str, FileSystemEvent] | None] = SimpleQueue()
        self._whole, self._open = _Bucket(quiet, cap), _Bucket(quiet, cap)
        self._gone = _Bucket(3 * quiet, 0.75 * cap)  # no longer: until then a search still finds what is gone
        self._fresh = _Bucket(5 * quiet, 5 * cap)  # files that appeared, until they are closed, which some never are
        self._watches: dict[str, ObservedWatch] = {}
        self._observer: BaseObserver | None = None
        self._lost = _Lost()
        self._pulse: tempfile.TemporaryDirectory[str] | None = None
        self._beat = self._heard = 0
        self._beaten = 0.0

    def watch(self, folder: str) -> None:
        """Watch a folder and everything below it. OSError where the system refuses, wholly or in part."""
        observer = self._started()
        real = os.path.realpath(folder)  # a watch on a link would be one on the link itself
        handler = _Enqueue(self._queue, self._lost, real, folder)
        self._watches[folder] = observer.schedule(handler, real, recursive=True, event_filter=_KINDS)
        try:
            self.probe()
        except OSError:
            self.unwatch(folder)
            raise

    def probe(self) -> None:
        """Raise OSError where the system lets no further folder be watched.

        watchdog says so of the folder that it is given, but passes over one below it in silence.
        """
        if self._observer and self._pulse:
            with tempfile.TemporaryDirectory(dir=self._pulse.name) as folder:
                self._observer.unschedule(self._observer.schedule(FileSystemEventHandler(), folder))

    def unwatch(self, folder: str) -> None:
        """Watch a folder no more; nothing happens where it was not, or where its watch has died."""
        watch = self._watches.pop(folder, None)
        if watch and self._observer:
            self._observer.unschedule(watch)

    def watched(self) -> set[str]:
        """Return the folders that are being watched, as far as that is known to work."""
        alive = {emitter.watch for emitter in self._observer.emitters if emitter.is_alive()} if self._observer else ()
        return {folder for folder, watch in self._watches.items() if watch in alive}

    def _started(self) -> BaseObserver:
        if self._observer is None:
            _mend_watchdog()
            logging.getLogger("watchdog").addHandler(self._lost)
            logging.getLogger("watchdog").addHandler(
                _SILENT
            )  # stays: its threads may have a last word when we are gone
            # All events: only so does a file that was moved in differ from one that has just been opened.
            options: dict[str, Any] = {"generate_full_events": True} if _CLOSES else {}
            # Of a folder that went to another one and came back, which does no harm.
            warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
            try:
                self._observer = Observer(**options)
                self._observer.start()
                self._pulse = tempfile.TemporaryDirectory(prefix="catdb-watch-")
                self._beat = self._heard = 0
                self._observer.schedule(_Beats(self), self._pulse.name, recursive=True, event_filter=_KINDS)
            except OSError:  # a watch without a heartbeat is none
                self.close()
                raise
        return self._observer

    def heartbeat(self) -> bool:
        """Say whether events still come in: whether the file that the last call made is reported before long."""
        if self._observer is None or self._pulse is None:
            return True
        if self._heard < self._beat or not self._observer.is_alive():
            return self._observer.is_alive() and time.monotonic() - self._beaten < _PATIENCE
        try:
            # In a new folder, for which there has to be a watch left: else others may have gone without one, too.
            os.mkdir(folder := os.path.join(self._pulse.name, f"beat {self._beat + 1}"))
            with open(os.path.join(folder, str(self._beat + 1)), "w"):
                self._beat, self._beaten = self._beat + 1, time.monotonic()
            shutil.rmtree(os.path.join(self._pulse.name, f"beat {self._beat - 1}"), ignore_errors=True)
        except FileNotFoundError:
            return os.path.isdir(self._pulse.name)
        except OSError:
            pass  # a full disk says nothing of events
        return True

    def wake(self) -> None:
        """Have :meth:`changes` return soon."""
        self._queue.put(None)

    def changes(self, timeout: float) -> Changes:
        """Wait for changes to settle, at most ``timeout`` seconds, and return them; without any, after a wake() too."""
        end = time.monotonic() + timeout
        buckets = (self._whole, self._open, self._gone, self._fresh)
        while True:
            until = min(end, *(bucket.due() for bucket in buckets))
            try:
                event = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                event = None
            if event:
                self._sort(*event)
                if time.monotonic() < until:
                    continue
            open_ = self._open.take() | self._fresh.take()
            return Changes(self._whole.take(), open_, self._gone.take(), self._lost.take())

    def pending(self) -> bool:
        """Say whether something was heard of that has not settled."""
        buckets = (self._whole, self._open, self._gone, self._fresh)
        return bool(self._queue.qsize() or any(bucket.paths for bucket in buckets))

    def _sort(self, real: str, folder: str, event: FileSystemEvent) -> None:
        """Put what an event says where it belongs."""
        paths = (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
        source, target = ("" if self._is_skipped(path) else _seen(path, real, folder) for path in paths)
        if isinstance(event, FileMovedEvent | DirMovedEvent):
            if source:
                self._gone.add(source)
            if target:
                (self._open if event.is_directory else self._whole).add(target)
        elif not source:
            pass
        elif isinstance(event, FileDeletedEvent | DirDeletedEvent):
            self._gone.add(source)
        elif isinstance(event, FileClosedEvent):
            self._whole.add(source)
            self._fresh.paths.discard(source)
        elif event.is_directory or not _CLOSES or _is_complete(source):
            self._open.add(source)
        else:
            self._fresh.add(source)

    def _is_skipped(self, path: str) -> bool:
        return self._skip is not None and os.path.join(path, "").startswith(self._skip)

    def close(self) -> None:
        """Stop watching."""
        logging.getLogger("watchdog").removeHandler(self._lost)
        observer, self._observer = self._observer, None
        if observer:
            observer.stop()
            observer.join()
        if self._pulse:
            self._pulse.cleanup()
            self._pulse = None
        self._watches.clear()


class _Enqueue(FileSystemEventHandler):
    """Puts events into the queue and does nothing else: an exception here would end watchdog's thread in silence."""

    def __init__(
        self, queue: SimpleQueue[tuple[str, str, FileSystemEvent] | None], lost: _Lost, real: str, folder: str
    ) -> None:
        self._queue, self._lost, self._real, self._folder = queue, lost, real, folder

    def on_any_event(self, event: FileSystemEvent) -> None:
        if self._queue.qsize() < _MOST:
            self._queue.put((self._real, self._folder, event))
        else:  # a build of hours is under way: looking everywhere after it costs less than remembering
            self._lost.happened = True


class _Beats(FileSystemEventHandler):
    """Hears the heartbeat."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def on_any_event(self, event: FileSystemEvent) -> None:
        name = os.path.basename(os.fsdecode(event.src_path))
        if name.isdigit():
            self._events._heard = max(self._events._heard, int(name))


class _Lost(logging.Handler):
    """Hears what watchdog says only to its log: that events were lost, or that a folder could not be watched."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.happened = False

    def emit(self, record: logging.LogRecord) -> None:
        self.happened = True

    def take(self) -> bool:
        happened, self.happened = self.happened, False
        return happened


@cache
def _mend_watchdog() -> None:
    """Have watchdog 7 forget also such a watch as it knows by a path that another one has had since, and lost.

    Else, where a folder was moved away, and another one in its place has been moved too, a KeyError ends its threads
    once the first is deleted, and our own when we stop listening.
    """
    try:
        from watchdog.observers.inotify import InotifyWatchGroup as Group

        forget = Group._remove_watch_internally
    except (ImportError, AttributeError):  # another version, or another system
        return

    def forget_what_is_known(self: Group, wd: Any) -> None:
        with suppress(KeyError):
            forget(self, wd)

    Group._remove_watch_internally = forget_what_is_known  # type: ignore[method-assign]


def _seen(path: str, real: str, folder: str) -> str:
    """Return a path as it is seen from the folder that was asked for, not from where that really lies."""
    return folder + path[len(real) :] if path else ""


def _is_complete(path: str) -> bool:
    """Say of a file that has just appeared whether no close event will follow: a link, or another name of a file."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return os.path.islink(path) or status.st_nlink > 1
