"""How SQLite is opened, read at one moment, committed and closed, and what its errors mean."""

from __future__ import annotations

import ctypes
import errno
import os
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from urllib.parse import quote

from catdb.catalog import schema
from catdb.catalog.rules import RESTORE
from catdb.errors import DatabaseBusy, DatabaseDamaged, DatabaseReadOnly, StorageError

_STEP = 1024  # pages copied between two looks at an interrupt, and two words of progress
_READING = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}
_Read = TypeVar("_Read")


@contextmanager
def clear_errors(path: str) -> Iterator[None]:
    """Turn SQLite's errors into catdb's, each with what to do about it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text or "disk I/O" in text:
            raise StorageError(f"{path}: {text}; nothing is lost: free some space and run it again") from error
        if "locked" in text:
            raise DatabaseBusy(f"{path}: another program has it open; try again when it has finished") from error
        if "readonly" in text or "unable to open" in text:
            raise DatabaseReadOnly(f"{path}: {text}; check who may write there") from error
        if "no such" not in text and "decode" not in text:
            raise StorageError(f"{path}: {text}") from error
        raise DatabaseDamaged(f"{path}: {text}; {RESTORE}") from error
    except (
        sqlite3.DatabaseError,
        UnicodeDecodeError,
    ) as error:  # the latter for a damaged name in SQLite's own message
        raise DatabaseDamaged(f"{path}: {error}; {RESTORE}") from error


class Connection:
    """One connection to the catalog's file; not to be used by two threads at once, nor carried across a fork.

    ``frozen``: it reads the file as it lies, and would never see what is committed after it was opened. ``guard`` is
    called before each commit, which what it raises prevents.
    """

    def __init__(self, path: str, connection: sqlite3.Connection, *, frozen: bool = False) -> None:
        self.path = path
        self.sql = connection
        self.frozen = frozen
        self.guard: Callable[[], None] = lambda: None
        self.identity = _stamp(path) if frozen else _identity(path)
        self._process = os.getpid()
        self._version = -1  # of what the snapshots have read
        self._read: dict[str, Any] = {}
        self._in_snapshot = False
        _connected.add(self)

    @classmethod
    def writer(cls, path: str) -> Self:
        """Open for writing, creating an empty file where there is none. Only under the database's lock."""
        with clear_errors(path):
            sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            try:
                catalog = cls(path, sql)
                catalog.format()  # before anything is written to a file that may not be ours
                for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=OFF"):
                    sql.execute(f"PRAGMA {setting}")  # secure_delete is on in some builds and doubles what is written
            except BaseException:
                sql.close()
                raise
            return catalog

    @classmethod
    def reader(cls, path: str) -> Self:
        """Open for reading. A closed catalog in a directory that cannot be written to is read as it lies."""
        uri = "file:" + quote(os.fsencode(os.path.abspath(path)))
        closed = not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK)
        while True:
            frozen = closed and not _has_log(path)
            try:
                return cls._connect(path, uri + ("?immutable=1" if frozen else "?mode=ro"), frozen)
            except DatabaseReadOnly:
                if frozen == (closed and not _has_log(path)):
                    raise  # else a writer has come or gone just now

    @classmethod
    def _connect(cls, path: str, uri: str, frozen: bool) -> Self:
        with clear_errors(path):
            sql = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
            try:
                catalog = cls(path, sql, frozen=frozen)
                catalog.format()
            except BaseException:
                sql.close()
                raise
            return catalog

    def is_current(self) -> bool:
        """Say whether the path still leads to the file that was opened, and not to one made anew, or nowhere."""
        return self.is_ours and _identity(self.path) == self.identity

    @property
    def is_ours(self) -> bool:
        """Say whether this process opened the connection. One that a fork has brought along may not even be closed."""
        return self._process == os.getpid()

    def require_unchanged(self) -> None:
        """Raise DatabaseBusy where a frozen catalog was written to meanwhile: what was read is of no one moment."""
        if self.frozen and _stamp(self.path) != self.identity:
            raise DatabaseBusy(f"{self.path}: another program has written to it meanwhile; try again")

    def close(self) -> None:
        if self.is_ours:
            with clear_errors(self.path):
                self.sql.close()

    def format(self) -> int:
        """Return the format's number, 0 for an empty catalog. DatabaseDamaged where it is none that we know."""
        with clear_errors(self.path):
            return schema.read_format(self.sql, self.path)

    def _require_current(self) -> None:
        if self.format() == 1:
            raise DatabaseDamaged(f"{self.path}: format 1 has no blocks; catdb build, or compact, brings it up to date")

    def upgrade(self) -> None:
        """Bring a catalog of an older format up to date, in one commit. Only under the database's lock."""
        if (found := self.format()) < schema.FORMAT:
            with self.transaction():
                schema.upgrade(self.sql, found)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside becomes durable at once at the end, or not at all."""
        self._require_ours()
        with clear_errors(self.path):
            self.sql.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._require_ours()
                self.guard()
                self.sql.execute("COMMIT")
            except BaseException:
                if self.is_ours and self.sql.in_transaction:
                    self.sql.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment: the one at which it begins."""
        self._require_ours()
        with clear_errors(self.path):
            self.sql.execute("BEGIN")
            try:
                self._one("SELECT count(*) FROM sqlite_schema")  # BEGIN alone takes no snapshot: the first read does
                version = self._one("PRAGMA data_version")  # another one when somebody else has committed
                if version != self._version or self.sql.total_changes:  # what this connection writes it does not count
                    self._version, self._read = version, {}
                self._in_snapshot = True
                yield
            finally:
                self._in_snapshot = False
                if self.is_ours and self.sql.in_transaction:
                    self.sql.execute("ROLLBACK")

    def _require_ours(self) -> None:
        if not self.is_ours:
            raise RuntimeError(f"{self.path}: this was begun before a fork; the new process begins its own")

    def once(self, name: str, read: Callable[[], _Read]) -> _Read:
        """Return what ``read`` returns; in snapshots it is read once, until somebody has committed something.

        For what follows from the catalog alone, under a name of its own, or a dictionary that is to be filled with it.
        """
        if not self._in_snapshot:
            return read()
        if name not in self._read:
            self._read[name] = read()
        found: _Read = self._read[name]
        return found

    def copy(self, path: str, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Write the catalog as it is at this moment into a new file. ``progress`` is told (done, of) in pages.

        It is copied inside one snapshot. So a writer is not held up (only the log cannot be written back meanwhile),
        and however much is committed, SQLite has no reason to begin anew. Raises OSError where the new file cannot be
        written, and DatabaseBusy for a frozen catalog that somebody with more rights changes meanwhile.
        """
        before = _stamp(self.path)
        target = sqlite3.connect(path, isolation_level=None)
        try:
            with self.snapshot():
                try:
                    self.sql.backup(target, pages=_STEP, progress=lambda _, left, of: progress(of - left, of))
                except sqlite3.OperationalError as error:  # which does not say of which of the two files
                    if error.sqlite_errorcode in _READING:
                        raise
                    number = errno.ENOSPC if error.sqlite_errorcode == sqlite3.SQLITE_FULL else errno.EIO
                    raise OSError(number, os.strerror(number), path) from error
        finally:
            target.close()
        if self.frozen and (_stamp(self.path) != before or _has_log(self.path)):
            raise DatabaseBusy(f"{self.path}: another program writes to it; try again when it has finished")

    def _one(self, statement: str, *values: Any) -> Any:
        row = self.sql.execute(statement, values).fetchone()
        return row[0] if row else None


def _identity(path: str) -> tuple[int, ...] | None:
    """Return what tells the file at a path from one that takes its place. It is not used again while it is open."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _stamp(path: str) -> tuple[int, ...] | None:
    """Return what changes when the file at a path is written to."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _has_log(path: str) -> bool:
    """Say whether there are commits that the catalog's own file does not hold yet."""
    try:
        return os.path.getsize(path + "-wal") > 0
    except FileNotFoundError:
        return False


def _abandon() -> None:
    """In a process that was just forked, leave the connections of its parent alone for good.

    They share files and memory with it: even the closing of one, at the end of the process, could take the log from
    under the parent. So each gets a reference that is never given back.
    """
    for catalog in list(_connected):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(catalog.sql))


_connected: weakref.WeakSet[Connection] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon)
