"""Everything that a writer does in its life, recorded: the calls, and between them what was promised.

Run in a process that was started with the library: ``python -m faults.workload TOP [MUTANT]``; the log is the
library's. The database is ``TOP/new/db``. Before an operation stands the mark "try CONTENT", after it "did CONTENT",
where CONTENT is what the database then holds (see verify). Some writers are killed in the middle of it, so that the
next one comes upon what they wrote and never forced to the disk.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import stock
from faults.library import Faults, Kind
from faults.mutants import MUTANTS
from faults.verify import Content

from catdb.store import Store

DATABASE = "new/db"  # below the directory that is recorded; its own parent is made with it
# At which calls of an operation its writer is killed. The last fsync of an add is about its 18th call, that of a fold
# the 33rd, of an opening the 19th to 23rd: the calls around it are those that leave a commit which was never forced.
_KILLS = {"add": (4, *range(15, 21)), "fold": (7, 9, 12, 19, *range(29, 36)), "open": (3, *range(10, 24, 2))}


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
        with self._store.writing() as catalog:
            self._content = {x.path.decode(): int.from_bytes(x.digest, "big") for x in catalog.images()}
        self._step(self._content, lambda: None)

    def add(self, *numbers: int) -> None:
        puts = [stock.put(number) for number in numbers]
        after = {**self._content, **{put.path.decode(): number for put, number in zip(puts, numbers, strict=True)}}
        self._step(after, lambda: self._store.commit(puts))

    def replace(self, path: str, number: int) -> None:
        put = stock.put(number, path=path.encode())
        self._step({**self._content, path: number}, lambda: self._store.commit([put]))

    def move(self, path: str, target: str) -> None:
        number = self._content[path]
        after = {target if known == path else known: value for known, value in self._content.items()}
        with self._store.writing() as catalog:
            image = catalog.image_at(1, path.encode())
        put = replace(stock.put(number, path=target.encode()), moved_from=image)
        self._step(after, lambda: self._store.commit([put]))

    def delete(self, *paths: str) -> None:
        with self._store.writing() as catalog:
            images = [image.id for image in catalog.images() if image.path.decode() in paths]
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


# In stock, the image n stands in the categories n, n + 1, n + 3 and n + 6 (modulo ten).


def _first(writer: Writer) -> None:
    writer.make()
    writer.add(10)
    writer.add(20, 30, 40)
    writer.fold_all()  # four new categories
    writer.add(50)
    writer.add(2, 12, 22, 32)
    writer.fold_due()  # new ones, and old ones that are due
    writer.replace("0010.png", 60)
    writer.delete("0020.png")
    writer.fold(0, 1)
    writer.collect()
    writer.move("0030.png", "moved.png")
    writer.checkpoint()
    writer.add(70)
    writer.close()


def _second(writer: Writer) -> None:
    writer.look()
    writer.delete("0002.png", "0012.png", "0022.png", "0032.png")
    writer.fold_all()  # categories that have no image any more
    writer.collect()  # and lose their folders
    writer.add(42, 52)
    writer.fold_all()  # and get them again
    writer.checkpoint(every=8)
    for number in (80, 100, 120):
        writer.add(number, number + 10)
    writer.fold_all()
    writer.add(200)
    writer.close()


def _killed(operation: str, call: int, writer: Writer) -> None:
    if operation != "open":
        writer.look()
        writer.replace("0010.png", 2000 + 10 * call)
    writer.killed_at(call)
    if operation == "open":
        writer.look()
    elif operation == "fold":
        writer.fold(0, 1, 3)
    else:
        writer.replace("0040.png", 3000 + 10 * call)


def _last(writer: Writer) -> None:
    writer.look()
    writer.fold_all()
    writer.collect()
    writer.close()


def lives() -> list[Callable[[Writer], None]]:
    """Return what is done, one process after the other."""
    killed = [partial(_killed, operation, call) for operation, calls in _KILLS.items() for call in calls]
    return [_first, _second, *killed, _last]


def main(words: Sequence[str]) -> None:
    top, faults = Path(words[0]), Faults()
    for mutant in words[1:]:
        MUTANTS[mutant]()
    for life in lives():
        child = os.fork()
        if not child:
            life(Writer(top, faults))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in (0, -signal.SIGKILL):
            raise SystemExit(f"a writer ended with {status}")


if __name__ == "__main__":
    main(sys.argv[1:])
