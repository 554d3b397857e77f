"""What to look at, and when: first everything, then what events hint at, and everything again now and then.

Nothing here depends on an event. One that is lost costs the time until the next rescan, and that is all. A folder
without events (a network file system, a system out of watches) is looked through every few seconds instead.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

from catdb.catalog import is_forgotten
from catdb.errors import (
    CatdbError,
    DatabaseBusy,
    DatabaseNotFound,
    DatabaseReadOnly,
    DecoderFailed,
    PathNotFound,
    StorageError,
)
from catdb.ingest import Event
from catdb.mounts import filesystem, is_remote
from catdb.query import alike
from catdb.reconcile import Means, Progress, Report, reconcile, refresh
from catdb.roots import Roots
from catdb.watch.changes import Changes, Events

_LOOK = 5.0  # seconds between two looks whether folders are there and events come in
_SETTLE = 2.0  # seconds for which a file must be still where no event says that it was closed
_MANY = 1000  # paths, from which looking through their folders is cheaper than at each of them
_SHARE = 20  # looking through everything takes at most one part in so many of the time
_MAY_PASS = (DatabaseBusy, DatabaseReadOnly, DecoderFailed, PathNotFound, StorageError)
_AGAIN = 10.0  # seconds until what may pass is tried again; 1 where it is only another writer
_LIMITS = {
    errno.ENOSPC: "; for more of them: sysctl fs.inotify.max_user_watches=1048576",
    errno.EMFILE: "; for more of them: sysctl fs.inotify.max_user_instances=1024",
}
_WORDS = {
    errno.ENOSPC: "the system's watches are used up",
    errno.EMFILE: "the system's or this process's event queues are used up",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Manner:
    """How a watch goes about it; times in seconds.

    ``rescan``: between two looks at everything. ``poll``: do without events. ``every``: between two looks at a folder
    without events. ``alert``: the similarity from which a new image is announced with what it resembles. ``quiet``,
    ``cap``: how long a change is left to settle, and how long at most while others follow it. ``prune``: the first look
    at a folder that is away drops its images.
    """

    rescan: float = 600.0
    poll: bool = False
    every: float = 5.0
    alert: float | None = None
    jobs: int | None = None
    quiet: float = 0.2
    cap: float = 2.0
    prune: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A change, told when a search finds it; ``resembles``: (path, similarity) of what a new image is like."""

    event: Event
    resembles: tuple[tuple[str, float], ...] = ()


class Stopped(Exception):
    """The watch was told to end; whatever had been embedded is committed."""


@dataclass
class _Folder:
    """A folder that is followed. ``identity`` tells it from another one of its name; None while it is away."""

    identity: tuple[int, int] | None = None
    heard: bool = False  # events tell of it
    due: float = 0.0  # when to look through it next, by the monotonic clock


class Follower:
    """Follows the folders of one database, in one thread; :meth:`stop` and :meth:`wait_idle` are for other threads."""

    def __init__(
        self,
        means: Means,
        folders: Sequence[str] | None,
        manner: Manner,
        announce: Callable[[Notice], None],
        notice: Callable[[str], None],
    ) -> None:
        """``folders``: absolute paths, None for whatever the database knows. ``notice`` is told what people should."""
        self._store, self._folders, self._manner = means.store, folders, manner
        self._means = replace(means, jobs=manner.jobs, progress=self._step, announce=self._tell, settle=_SETTLE)
        self._progress, self._announce, self._notice = (
            self._outward(means.progress),
            self._outward(announce),
            self._outward(notice),
        )
        self._events = Events(quiet=manner.quiet, cap=manner.cap, skip=means.store.path)
        self._known: dict[str, _Folder] = {}
        self._whole: set[str] = set()  # paths to be looked at now
        self._open: set[str] = set()  # likewise, where somebody may still be writing
        self._gone: set[str] = set()  # likewise, where something was
        self._to_prune = manner.prune
        self._later: dict[str, float] = {}  # those that were left for later, and until when
        self._left: set[str] = set()  # of those, where something was
        self._look_at = self._not_before = self._put_off = 0.0
        self._said = ""  # the trouble that was told of last
        self._told: set[str] = set()  # what is told once
        self._away: set[str] = set()  # roots whose images are kept though their files are missing, which was told
        self._failed: dict[str, str | None] = {}  # why files could not be read, so that each is told once
        self._theirs: BaseException | None = None  # what a function of the caller's raised
        self._stop, self._ended = threading.Event(), threading.Event()
        self._turn = threading.Condition()
        self._asked = self._begun = self._answered = 0

    # --- for other threads --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have :meth:`run` return once the batch that is under way has been committed."""
        self._stop.set()
        self._events.wake()

    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until everything that is in the folders now is in the database; say whether it came to that in time."""
        with self._turn:
            self._asked += 1
            mine = self._asked
            self._events.wake()
            self._turn.wait_for(lambda: self._answered >= mine or self._ended.is_set(), timeout)
            return self._answered >= mine

    @property
    def ended(self) -> bool:
        """Whether :meth:`run` has come to its end."""
        return self._ended.is_set()

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Follow until :meth:`stop` is called. Raises what will not pass, such as DatabaseNotFound."""
        try:
            with closing(self._events):
                while not self._stop.is_set():
                    self._begin_answer()
                    if time.monotonic() >= self._look_at:
                        self._look()
                    if time.monotonic() >= self._not_before:
                        self._try_work()
                    self._answer()
                    self._hear(self._events.changes(max(0.0, self._until() - time.monotonic())))
        except Stopped:
            pass
        finally:
            with self._turn:
                self._ended.set()
                self._turn.notify_all()

    def _begin_answer(self) -> None:
        """Where somebody waits for the database to be in step, look through everything: events may be late, or lost."""
        with self._turn:
            asked = self._asked
        if asked > self._begun:
            self._begun, self._look_at, self._not_before = asked, 0.0, 0.0
            self._look_everywhere()
            self._put_off = float("inf")

    def _answer(self) -> None:
        """Let those go on who wait, once everything was looked through since they asked, and what that put off too."""
        if self._answered >= self._begun or any(f.due <= time.monotonic() for f in self._known.values()):
            return
        self._put_off = min(self._put_off, time.monotonic() + _SETTLE)
        work = self._whole or self._open or self._gone
        if not work and all(until > self._put_off for until in self._later.values()):
            with self._turn:
                self._answered = self._begun
                self._turn.notify_all()

    def _until(self) -> float:
        """Return when there is something to do if no change is heard of."""
        work = min([*(folder.due for folder in self._known.values()), *self._later.values(), float("inf")])
        if self._whole or self._open or self._gone:
            work = 0.0
        return min(self._look_at, max(work, self._not_before))

    def _hear(self, changes: Changes) -> None:
        self._whole |= changes.whole
        self._open |= changes.open
        self._gone |= changes.gone
        if changes.lost:
            self._look_everywhere()

    def _look_everywhere(self) -> None:
        for folder in self._known.values():
            folder.due = 0.0

    def _outward(self, function: Callable[[T], None]) -> Callable[[T], None]:
        """Wrap a function of the caller's, whose errors are not ours to try again."""

        def call(what: T) -> None:
            try:
                function(what)
            except BaseException as error:
                self._theirs = error
                raise

        return call

    def _step(self, progress: Progress) -> None:
        if self._stop.is_set():
            raise Stopped
        self._progress(progress)

    # --- which folders are there --------------------------------------------------------------------------------

    def _look(self) -> None:
        """See which folders are there, and whether events still come in."""
        self._look_at = time.monotonic() + _LOOK
        if not self._store.exists():
            raise DatabaseNotFound(f"{self._store.path}: the database is there no more")
        if not self._events.heartbeat():
            self._notice("no more file events came in: beginning to listen anew")
            self._events.close()
            self._known = {path: _Folder() for path in self._known}
        paths, heard = self._followed(), self._events.watched()
        for path in self._known.keys() - paths:
            self._events.unwatch(path)
            del self._known[path]
        for path in paths:
            identity = _identity(path)
            folder = self._known.get(path)
            if folder is None or identity != folder.identity or (folder.heard and path not in heard):
                self._events.unwatch(path)
                self._known[path] = _Folder(identity, identity is not None and self._listen(path))

    def _followed(self) -> Collection[str]:
        """Return the folders to be followed; of those of which only single files are known, too, if all are."""
        if self._folders is not None:
            return self._folders
        with self._store.snapshot() as snapshot:
            roots = Roots(snapshot.catalog.roots(), self._store.path)
            return [roots.folder(r.id) for r in roots.all if not is_forgotten(snapshot.catalog.removed(r.id))]

    def _listen(self, path: str) -> bool:
        """Have events tell of a folder; say whether they will, and to people why they will not."""
        if self._manner.poll or not self._is_whole(path):
            return False
        kind = filesystem(path)
        if is_remote(kind):
            reason, remedy = f"there are no file events on {kind}", ""
        else:
            try:
                self._events.watch(path)
            except OSError as error:
                reason = _WORDS.get(error.errno or 0, error.strerror or str(error))
                remedy = _LIMITS.get(error.errno or 0, "")
            else:
                return True
        line = f"{path}: {reason}: it is looked through every {self._manner.every:g} s instead{remedy}"
        if line not in self._told:
            self._told.add(line)
            self._notice(line)
        return False

    def _is_whole(self, path: str) -> bool:
        """Say whether everything in a folder belongs to the database: only then is it worth listening to."""
        if self._folders is not None:
            return True
        with self._store.snapshot() as snapshot:
            roots = Roots(snapshot.catalog.roots(), self._store.path)
            place = roots.place(path)
            return place is not None and roots.get(place[0]).whole

    # --- the work -----------------------------------------------------------------------------------------------

    def _try_work(self) -> None:
        """Do what is due. What may pass is told once, and tried again after a while."""
        try:
            self._work()
        except (CatdbError, OSError) as error:
            if error is self._theirs or (isinstance(error, CatdbError) and not isinstance(error, _MAY_PASS)):
                raise
            wait = 1.0 if isinstance(error, DatabaseBusy) else _AGAIN
            if str(error) != self._said:
                self._notice(f"{error}; trying again every {wait:g} s")
            self._said, self._not_before = str(error), time.monotonic() + wait
        else:
            self._said = ""

    def _work(self) -> None:
        now = time.monotonic()
        if any(folder.due <= now for folder in self._known.values()):
            self._rescan(now)
        ripe = {path for path, until in self._later.items() if until <= time.monotonic()}
        for path in ripe:
            del self._later[path]
            is_open = os.path.lexists(path) and path not in self._left  # another one there does not bring it back
            (self._open if is_open else self._gone).add(path)
        self._left -= ripe
        if len(self._whole) + len(self._open) + len(self._gone) > _MANY:
            self._look_everywhere()
            self._whole, self._open, self._gone = set(), set(), set()
            return
        if self._whole:
            self._after(refresh(replace(self._means, settle=0.0), self._whole, keeping=True))
            for path in self._whole:
                self._later.pop(path, None)
            self._whole = set()
        if self._open:
            self._after(refresh(self._means, self._open, keeping=True))
            self._open = set()
        if self._later:  # one of those may be what a file that is gone has become, so that it waits for them, once
            self._left |= self._gone - ripe
            self._later = {**dict.fromkeys(self._gone - ripe, max(self._later.values())), **self._later}
            self._gone &= ripe
        if self._gone:
            self._after(refresh(self._means, self._gone))
            self._gone = set()

    def _rescan(self, now: float) -> None:
        """Look through the folders that are due, in one go: so a file is followed from one to another.

        Those without events go together, whichever is due.
        """
        polled = any(not folder.heard and folder.due <= now for folder in self._known.values())
        due = {p: f for p, f in self._known.items() if f.due <= now or (polled and not f.heard)}
        # Neither single files nor a folder inside a root that is not there can be named; refresh needs no name.
        named = [path for path in due if self._is_whole(path) and (self._to_prune or os.path.isdir(path))]
        others = due.keys() - set(named)
        start = time.monotonic()
        reports = [reconcile(self._means, named, prune=self._to_prune)] if named else []
        reports += [refresh(self._means, others)] if others else []
        self._to_prune = False
        took = time.monotonic() - start
        for folder in due.values():
            usual = self._manner.rescan if folder.heard else self._manner.every
            folder.due = start + took + max(usual, _SHARE * took)
        for away in self._away - {kept.path for report in reports for kept in report.kept}:
            if any(_is_within(path, away) for path in due):
                self._away.remove(away)
                self._notice(f"{away} is back")
        for report in reports:
            self._after(report)

    def _after(self, report: Report) -> None:
        """Remember what is to be looked at again, and say of which folders images were kept."""
        until = time.monotonic() + _SETTLE
        for path in report.unsettled:
            self._later.setdefault(path, until)  # what waits already waits no longer for being seen again
        soon = time.monotonic() + max(self._manner.every, _SHARE * report.seconds)
        for kept in report.kept:
            for path, folder in self._known.items():
                if _is_within(path, kept.path):  # only a look at all of it can tell that it is back
                    folder.due = min(folder.due, soon)
            if kept.path not in self._away:
                self._away.add(kept.path)
                self._notice(f"{kept.path} is away: {kept.line}")

    def _tell(self, event: Event) -> None:
        """Announce a change, and with a new image what it resembles."""
        if event.kind != "failed":
            self._failed.pop(event.path, None)
        elif self._failed.get(event.path) == event.reason:
            return  # a folder that is closed, say: it is tried every time, and told of once
        else:
            self._failed[event.path] = event.reason
        resembles: tuple[tuple[str, float], ...] = ()
        if self._manner.alert is not None and event.kind in ("added", "changed"):
            matches = alike(self._store, event.path)
            resembles = tuple((m.path, m.similarity) for m in matches if m.similarity >= self._manner.alert)
        self._announce(Notice(event, resembles))


def _is_within(path: str, folder: str) -> bool:
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a folder from another one in its place; None where it is not there, or closed to us."""
    try:
        with os.scandir(path):
            status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
