"""Everything that a writer does in its life, recorded: the calls, and between them what was promised.

Run in a process that was started with the library: ``python -m faults.workload TOP [MUTANT]``; the log is the
library's. The database is ``TOP/new/db``. Before an operation stands the mark "try CONTENT", after it "did CONTENT",
where CONTENT is what the database then holds (see verify). Some writers are killed in the middle of it, so that the
next one comes upon what they wrote and never forced to the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import stock

from catdb.store import Store
from faults.journal import Content, image, name
from faults.library import Faults, Kind
from faults.mutants import MUTANTS
from faults.verify import content_of

DATABASE = "new/db"  # below the directory that is recorded; its own parent is made with it
# At which calls of an operation its writer is killed, counted from its last fsync: before that one (0) it leaves a
# commit that all can read and that was never forced.
_KILLS = {"add": (-12, -1, *[0] * 7, 1), "fold": (-26, -20, -16, -5, -1, 0, 0, 1), "open": (-8, -3, -2, -1, 0)}


class Writer:
    """A process that writes, and says what it promises."""

    def __init__(self, top: Path, faults: Faults) -> None:
        self._top, self._faults = top, faults
        self._store = Store(str(top / DATABASE), wait=0.0)
        self._content: Content = {}

    def make(self) -> None:
        """Make the database, with a root."""

        def action() -> None:
            self._store.create(stock.META, stock.CATEGORIES)
            with self._store.writing() as catalog, catalog.transaction():
                catalog.add_root(b"/photos", b"../photos", True)

        self._step({}, action)

    def look(self) -> None:
        """Open the database, recovering what another has left, and promise what is found there."""
        with self._store.writing():
            pass
        self._content = content_of(self._store)
        self._step(self._content, lambda: None)

    def add(self, *numbers: int) -> None:
        after = {**self._content, **{name(number): number for number in numbers}}
        self._step(after, lambda: self._store.commit([image(number) for number in numbers]))

    def replace(self, path: str, number: int) -> None:
        self._step({**self._content, path: number}, lambda: self._store.commit([image(number, path)]))

    def move(self, path: str, target: str) -> None:
        number = self._content[path]
        after = {target if known == path else known: value for known, value in self._content.items()}
        with self._store.writing() as catalog:
            known = catalog.image_at(1, path.encode())
        put = replace(image(number, target), moved_from=known)
        self._step(after, lambda: self._store.commit([put]))

    def delete(self, *paths: str) -> None:
        with self._store.writing() as catalog:
            images = [known.id for known in catalog.images() if known.path.decode() in paths]
        after = {path: number for path, number in self._content.items() if path not in paths}
        self._step(after, lambda: stock.delete(self._store, *images))

    def fold(self, *categories: int) -> None:
        self._step(self._content, lambda: self._store.fold(categories))

    def fold_due(self) -> None:
        self._step(self._content, lambda: self._store.fold_due(at_rest=True))

    def fold_all(self) -> None:
        self._step(self._content, self._store.fold_all)

    def collect(self) -> None:
        def action() -> None:
            with self._store.writing() as catalog:
                self._store.collect(catalog, grace=0)

        self._step(self._content, action)

    def checkpoint(self, every: int = 1000) -> None:
        """Write the log of the catalog back, now and from now on at so many pages."""

        def action() -> None:
            with self._store.writing() as catalog:
                catalog.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                catalog.sql.execute(f"PRAGMA wal_autocheckpoint={every}").fetchall()

        self._step(self._content, action)

    def close(self) -> None:
        self._step(self._content, self._store.close)

    def killed_at(self, call: int) -> None:
        """Be killed before a call from now on."""
        self._faults.arm(self._top, call, Kind.KILL_BEFORE)

    def _step(self, after: Content, action: Callable[[], object]) -> None:
        self._faults.mark("try " + json.dumps(after))
        action()
        self._faults.mark("did " + json.dumps(after))
        self._content = dict(after)


# The image n stands in the categories n, n + 1 and n + 3, modulo five.


def _first(writer: Writer) -> None:
    writer.make()
    writer.add(10)
    writer.add(20, 30, 40)
    writer.fold_all()  # three new categories
    writer.add(50)
    writer.add(1, 11, 21, 31)
    writer.fold_due()  # new ones, and old ones that are due
    writer.replace(name(10), 60)
    writer.delete(name(20))
    writer.fold(0, 1)
    writer.collect()
    writer.move(name(30), "moved.png")
    writer.checkpoint()
    writer.add(70)
    writer.close()


def _second(writer: Writer) -> None:
    writer.look()
    writer.delete(*map(name, (1, 11, 21, 31)))
    writer.fold_all()  # categories that have no image any more
    writer.collect()  # and lose their folders
    writer.add(41, 51)
    writer.fold_all()  # and get them again
    writer.checkpoint(every=8)
    for number in (80, 100, 120):
        writer.add(number, number + 10)
    writer.fold_all()
    writer.add(140)
    writer.close()


def _begin(operation: str, number: int, writer: Writer) -> None:
    if operation != "open":
        writer.look()
        writer.replace(name(10), number)


def _do(operation: str, number: int, writer: Writer) -> None:
    if operation == "open":
        writer.look()
    elif operation == "fold":
        writer.fold(0, 1, 3)
    else:
        writer.replace(name(40), number)


def _killed(operation: str, number: int, at: int, top: Path, faults: Faults) -> None:
    """Do an operation in a process that is killed before a call of it."""
    writer = Writer(top, faults)
    _begin(operation, 10 * (20 + number), writer)
    writer.killed_at(at)
    _do(operation, 10 * (50 + number), writer)


def _last_fsync(operation: str, top: Path, faults: Faults) -> int:
    """Return which call of an operation is its last fsync, by doing it to a copy; to be called in a child."""
    faults.stop()
    with tempfile.TemporaryDirectory(dir=top.parent) as folder:
        copy = Path(shutil.copytree(top, Path(folder, "copy")))
        writer = Writer(copy, faults)
        _begin(operation, 10 * 20, writer)
        faults.arm(copy)
        _do(operation, 10 * 50, writer)
        faults.disarm()
        return faults.trace.rfind("s") + 1


def _last(writer: Writer) -> None:
    writer.look()
    writer.fold_all()
    writer.collect()
    writer.close()


def _in_child(function: Callable[[], int | None]) -> int:
    """Call a function in a fork of this process; return what it did, or minus the signal that it was killed by."""
    child = os.fork()
    if not child:
        try:
            os._exit(function() or 0)
        finally:
            traceback.print_exc()
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(words: Sequence[str]) -> None:
    top, faults = Path(words[0]), Faults()
    for mutant in words[1:]:
        MUTANTS[mutant]()

    def live(life: Callable[[Writer], None]) -> None:
        if _in_child(lambda: life(Writer(top, faults))):
            raise SystemExit("a writer failed")

    live(_first)
    live(_second)
    kills = [(operation, call) for operation, calls in _KILLS.items() for call in calls]
    for number, (operation, call) in enumerate(kills):
        at = max(1, call + _in_child(partial(_last_fsync, operation, top, faults)))
        status = _in_child(partial(_killed, operation, number, at, top, faults))
        if status not in (0, -signal.SIGKILL):
            raise SystemExit(f"a writer ended with {status}")
    live(_last)


if __name__ == "__main__":
    main(sys.argv[1:])
