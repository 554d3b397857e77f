"""Who may write: one process at a time, by a lock that the system gives back when its holder dies. (filelock)

The holder writes its name into the file LOCK, and takes it out again only when it leaves nothing behind: a name in a
LOCK that nobody holds says that a writer died or failed half-way.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from catdb.errors import CatdbError, DatabaseBusy, DatabaseReadOnly, StorageError

if sys.platform != "win32":
    import fcntl

WATCH = "WATCH"
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)


class Lock:
    """The lock of a database directory. Threads may share it; each process has its own.

    ``clean`` is for its holder to say: nothing is left behind by this process or by one that held the lock before.
    It is False at first, and again as soon as another holder is found to have died. ``turn`` is what the threads of
    this process wait for among themselves.
    """

    _LOOK = 0.01  # seconds between two looks whether it is free

    def __init__(self, folder: str, wait: float, *, name: str = "LOCK", doing: str = "writing") -> None:
        self.clean = False
        self._folder = folder
        self._wait = wait
        self._doing = doing
        self._path = os.path.join(folder, name)
        self._file = FileLock(self._path, fallback_to_soft=False)
        self.turn = threading.RLock()  # the file lock is per process and thread; this orders our own threads
        self._holding = False
        self._process = os.getpid()
        self._signed: tuple[int, int] | None = None  # the file that carries our name

    @classmethod
    def of_watcher(cls, folder: str) -> Lock:
        """Return the lock that the one process holds that keeps a database in step, for as long as it does."""
        lock = cls(folder, 1.0, name=WATCH, doing="watching")  # whoever asks for the holder is in the way for a moment
        lock.clean = True  # a watcher that dies leaves nothing for others to clear up
        return lock

    def holder(self) -> str | None:
        """Return the name of the process that holds the lock, if one does. Writes nothing, and waits for nobody."""
        name = self._text()
        try:
            return name if name and self._is_held() else None
        except OSError:
            return None  # taken away meanwhile

    def _is_held(self) -> bool:
        if sys.platform == "win32":
            try:
                with self._file.acquire(timeout=0):
                    return False
            except Timeout:
                return True
        with open(self._path, "rb") as file:
            try:  # shared: it needs no right to write, and two who ask do not take each other for the holder
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock, more than once if need be. Raises DatabaseBusy, naming the holder, after a while."""
        with self.turn:
            if self._holding:
                yield
                return
            self._acquire()
            self._holding = True
            try:
                if self._text():
                    self.clean = False
                words = " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:2]])
                try:
                    self._sign(f"{words} (process {os.getpid()} on {socket.gethostname()})")
                except OSError as error:
                    raise StorageError(f"{self._folder}: {error.strerror or error}; nothing is lost") from error
                yield
            finally:
                if self._process == os.getpid():  # a fork leaves through here as well, and holds nothing
                    try:
                        if self.clean:
                            with suppress(CatdbError, OSError):
                                self.require()
                                self._sign("")
                    finally:  # also where an interrupt comes just now: a lock that is kept holds everyone up
                        self._holding = False
                        self._file.release()

    def require(self) -> None:
        """Raise DatabaseBusy where LOCK is not the file that was locked: whoever makes another one writes as well."""
        try:
            found = os.stat(self._path)
            there = (found.st_dev, found.st_ino) == self._signed
        except FileNotFoundError:
            there = False
        if not there:
            raise DatabaseBusy(f"{self._path} was taken away while it was held; nothing is lost, run it again")

    def _acquire(self) -> None:
        try:
            self._file.acquire(timeout=self._wait, poll_interval=self._LOOK)
        except Timeout:
            raise DatabaseBusy(
                f"{self._folder}: {self._text() or 'another process'} is {self._doing}; try again when it has finished"
            ) from None
        except OSError as error:
            kind = StorageError if error.errno in _PASSING else DatabaseReadOnly
            raise kind(f"{self._folder}: cannot lock it: {error.strerror or error}") from error

    def _sign(self, text: str) -> None:
        with open(self._path, "r+", encoding="utf-8", errors="backslashreplace") as file:
            found = os.fstat(file.fileno())
            self._signed = (found.st_dev, found.st_ino)
            file.write(text)
            file.truncate()

    def _text(self) -> str:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                return file.read(500).strip()
        except OSError:
            return ""
