"""What is done under faults: small databases to begin with, and each operation that changes one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stock import CATEGORIES, META, make

from catdb.store import Store
from faults.journal import Change, Content, Journal, image, name
from faults.verify import content_of

_FAR = 1e12  # a time that has not come, for garbage that is not to be collected yet


def add(store: Store, journal: Journal, numbers: Sequence[int]) -> None:
    """Add images in one commit."""
    with journal.change({name(number): number for number in numbers}):
        store.commit([image(number) for number in numbers])


def replace(store: Store, journal: Journal, numbers: Change) -> None:
    """Give these paths other images, in one commit."""
    with journal.change(numbers):
        store.commit([image(number, path) for path, number in numbers.items() if number is not None])


def delete(store: Store, journal: Journal, paths: Sequence[str]) -> None:
    """Delete these paths in one commit."""
    with journal.change(dict.fromkeys(paths)), store.writing() as catalog, catalog.transaction():
        for path in paths:
            known = catalog.image_at(1, path.encode())
            if known:
                catalog.delete(known.id)


# --- databases to begin with ----------------------------------------------------------------------------------------


def make_stages(folder: Path) -> dict[str, Content | None]:
    """Make every database to begin with below a folder; return what each holds.

    They are copied while the writer has them open, so that their log is full, but for ``waiting``, which is closed.
    """
    contents: dict[str, Content | None] = {"none": None}
    work = folder / "work"
    journal = Journal(folder / "journal")
    store = make(work)

    def stage(name: str) -> Path:
        contents[name] = content_of(store)
        shutil.copytree(work, folder / name)
        return folder / name

    add(store, journal, [*range(24), 900])
    store.close()
    stage("waiting")
    store.fold_all()
    add(store, journal, range(24, 32))
    replace(store, journal, {name(3): 103, name(25): 125})
    delete(store, journal, [name(5), name(26), name(900)])
    stage("mixed")  # shards, rows that wait, dead rows, and a category of which all is dead
    store.fold_all()
    _date_garbage(store, _FAR)
    stage("garbage")
    _date_garbage(store, 0)
    add(store, journal, range(32, 36))
    died = stage("died")
    (died / "LOCK").write_text("python (process 1 on a host)")
    left = next((died / "shards").rglob("*.h5")).read_bytes()
    for place, data in (("c0/1000.h5", left), ("c9/1001.h5", left[:512]), ("gone/1.h5", b"")):
        path = died / "shards" / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    store.close()
    journal.close()
    shutil.rmtree(work)
    return contents


def _date_garbage(store: Store, since: float) -> None:
    with store.writing() as catalog, catalog.transaction():
        catalog.sql.execute("UPDATE garbage SET since = ?", (since,))


# --- operations -----------------------------------------------------------------------------------------------------


def _recover(store: Store) -> None:
    """Make a store ready to write, so that the faults strike the operation and not what comes before it."""
    with store.writing():
        pass


def _nothing(store: Store) -> None:
    """Let the faults strike the opening as well."""


def _collectable(store: Store) -> None:
    _recover(store)
    _date_garbage(store, 0)


def _checkpointing(store: Store) -> None:
    with store.writing() as catalog:
        catalog.sql.execute("PRAGMA wal_autocheckpoint=1")


def _collect(store: Store, journal: Journal) -> None:
    with store.writing() as catalog:
        store.collect(catalog)


def _checkpoint(store: Store, journal: Journal) -> None:
    """Three commits, each of which writes the log back; the next begins the log anew."""
    add(store, journal, [40])
    delete(store, journal, [name(7)])
    add(store, journal, [41, 42])


def _create(store: Store, journal: Journal) -> None:
    with journal.change({}):
        store.create(META, CATEGORIES)
    with store.writing() as catalog, catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    add(store, journal, [40])


def _read(store: Store, journal: Journal) -> None:
    assert content_of(store)


@dataclass(frozen=True)
class Operation:
    """What is done to which database; ``prepare`` comes before the faults."""

    stage: str
    run: Callable[[Store, Journal], object]
    prepare: Callable[[Store], None] = _recover


OPERATIONS = {
    "create": Operation("none", _create, _nothing),
    "recover": Operation("died", lambda store, journal: add(store, journal, [40]), _nothing),
    "read": Operation("died", _read, _nothing),
    "add": Operation("mixed", lambda store, journal: add(store, journal, [40])),
    "batch": Operation("mixed", lambda store, journal: add(store, journal, range(40, 60))),
    "replace": Operation("mixed", lambda s, j: replace(s, j, {name(1): 201, name(3): 203, name(27): 227})),
    "delete": Operation("mixed", lambda s, j: delete(s, j, [name(2), name(3), name(28)])),
    "fold": Operation("waiting", lambda store, journal: store.fold_all()),
    "compact": Operation("mixed", lambda store, journal: store.fold_all()),
    "collect": Operation("garbage", _collect, _collectable),
    "checkpoint": Operation("mixed", _checkpoint, _checkpointing),
    "close": Operation("mixed", lambda store, journal: store.close()),
}
