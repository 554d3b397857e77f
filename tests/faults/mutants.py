"""What catdb would be with one of its safeguards left out: the harness has to find each of them.

A mutant is a patch to be applied in the process that is recorded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress

import catdb.store
from catdb.catalog import Catalog
from catdb.store import Store


def no_file_fsync() -> None:
    """Shards are written and not forced to the disk."""
    force = os.fsync

    def only_directories(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            force(handle)

    os.fsync = only_directories  # type: ignore[assignment]


def no_directory_fsync() -> None:
    """No name of a file or folder is forced to the disk."""
    catdb.store.force_directory = lambda path: None


def no_fsync_above_categories() -> None:
    """The folder that holds those of the categories is not forced to the disk, and theirs are."""
    force = catdb.store.force_directory

    def others(path: str) -> None:
        if os.path.basename(path) != "shards":
            force(path)

    catdb.store.force_directory = others


def no_fsync_above_database() -> None:
    """The names that lead to a new database are not forced to the disk."""
    Store._force_names = lambda self: None  # type: ignore[method-assign]


def synchronous_normal() -> None:
    """A commit returns before it is on the disk."""
    opened = Catalog.writer

    def writer(path: str) -> Catalog:
        catalog = opened(path)
        catalog.sql.execute("PRAGMA synchronous=NORMAL")
        return catalog

    Catalog.writer = writer  # type: ignore[method-assign, assignment]


def unlink_before_commit() -> None:
    """A shard that is replaced is unlinked before the commit that points to the new one."""
    unpoint = Catalog.unpoint

    def at_once(self: Catalog, category: int, now: float) -> None:
        pointer = self.pointer(category)
        if pointer:
            store = Store(os.path.dirname(self.path), writable=False)
            with suppress(FileNotFoundError):  # a writer that died has unlinked it
                os.unlink(store.file(category, pointer.generation))
        unpoint(self, category, now)

    Catalog.unpoint = at_once  # type: ignore[method-assign]


def no_forcing_on_recovery() -> None:
    """What a dead writer has committed is believed as it is read, and not committed once more."""

    def recover(self: Store, catalog: Catalog) -> None:
        for leftover in self.leftovers(catalog):
            os.unlink(leftover)
        self._connections.lock.clean = True
        self.collect(catalog)

    Store._recover = recover  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "no file fsync": no_file_fsync,
    "no directory fsync": no_directory_fsync,
    "no fsync of shards/": no_fsync_above_categories,
    "no fsync above": no_fsync_above_database,
    "synchronous=NORMAL": synchronous_normal,
    "unlink before commit": unlink_before_commit,
    "no forcing on recovery": no_forcing_on_recovery,
}
