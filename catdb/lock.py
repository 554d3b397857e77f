"""Who may write: one process at a time, by a lock that the system gives back when its holder dies. (filelock)

The holder writes its name into the file LOCK, and takes it out again only when it leaves nothing behind: a name in a
LOCK that nobody holds says that a writer died or failed half-way.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from catdb.errors import DatabaseBusy, DatabaseReadOnly, StorageError


class Lock:
    """The lock of a database directory. Threads may share it; each process has its own.

    ``clean`` is for its holder to say: nothing is left behind by this process or by one that held the lock before.
    It is False at first, and again as soon as another holder is found to have died.
    """

    def __init__(self, folder: str, wait: float) -> None:
        self.clean = False
        self._folder = folder
        self._wait = wait
        self._file = FileLock(os.path.join(folder, "LOCK"), fallback_to_soft=False)
        self._turn = threading.RLock()  # the file lock is per process and thread; this orders our own threads
        self._holding = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock, more than once if need be. Raises DatabaseBusy, naming the holder, after a while."""
        with self._turn:
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
                if self.clean:
                    with suppress(OSError):
                        self._sign("")
                self._holding = False
                self._file.release()

    def _acquire(self) -> None:
        try:
            self._file.acquire(timeout=self._wait)
        except Timeout:
            raise DatabaseBusy(
                f"{self._folder}: {self._text() or 'another process'} is writing; try again when it has finished"
            ) from None
        except OSError as error:
            raise DatabaseReadOnly(f"{self._folder}: cannot lock it: {error.strerror or error}") from error

    def _sign(self, text: str) -> None:
        with open(os.path.join(self._folder, "LOCK"), "r+", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.truncate()

    def _text(self) -> str:
        try:
            with open(os.path.join(self._folder, "LOCK"), encoding="utf-8", errors="replace") as file:
                return file.read(500).strip()
        except OSError:
            return ""
