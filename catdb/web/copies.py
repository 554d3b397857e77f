"""The search for duplicates, which takes its time: begun when first asked for, and kept until something changes."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from catdb.shapes import of_duplicates

if TYPE_CHECKING:
    from catdb.database import Database
    from catdb.reconcile import Progress


_JOBS = max(1, (os.cpu_count() or 1) // 2)  # images decoded at once: others want to search meanwhile


class _Stopped(Exception):
    pass


class Copies:
    """The duplicates of a database, found in a thread of their own, one search at a time."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self._found: tuple[str, dict[str, Any]] | None = None  # at which version, and what
        self._fresh = False  # nobody has seen what was found
        self._error: Exception | None = None
        self._progress: dict[str, Any] = {}
        self._closed = False

    def get(self) -> tuple[bool, dict[str, Any]]:
        """Return whether they are found, and they, or else how far it has come. Raises what has ended the search.

        What was found is told once even if something has changed since: under a steady stream of changes there would
        be no answer else.
        """
        version = self._db.status().version
        with self._turn:
            error, self._error = self._error, None
            if error:
                raise error
            if self._found and (self._fresh or self._found[0] == version):
                self._fresh = False
                return True, self._found[1]
            if self._thread is None and not self._closed:
                self._progress = {"step": "comparing", "done": 0, "of": None}
                self._thread = threading.Thread(target=self._find, name="catdb-copies", daemon=True)
                self._thread.start()
            return False, {"state": "running", **self._progress}

    def close(self) -> None:
        """Have the search end with its next step."""
        self._closed = True

    def _find(self) -> None:
        found, error = None, None
        try:
            version = self._db.status().version
            found = version, of_duplicates(self._db.duplicates(jobs=_JOBS, progress=self._tell))
        except _Stopped:
            pass
        except Exception as failed:
            error = failed
        with self._turn:
            self._found, self._fresh, self._error, self._thread = found, found is not None, error, None

    def _tell(self, progress: Progress) -> None:
        if self._closed:
            raise _Stopped
        self._progress = {"step": progress.step, "done": progress.done, "of": progress.total}
