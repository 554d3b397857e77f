"""Whether a database holds what it may hold after a fault: as a reader sees it, as a writer does, and ever after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from stock import CATEGORIES, META

from catdb import Database
from catdb.check import check
from catdb.errors import DatabaseNotFound
from catdb.search import nearest
from catdb.snapshot import Snapshot
from catdb.store import Store
from faults.journal import Content, described, image, name

EXTRA = 800  # the image that is added afterwards
_ALL = range(len(CATEGORIES))


def verify(directory: Path, contents: Sequence[Content | None], *, fold: bool = True) -> tuple[Content, list[str]]:
    """Check a database after a fault; return what it holds in the end, and what is wrong, in a line each.

    First as a reader, which changes no byte; then as a writer: it takes one image more and leaves nothing behind; it
    folds, where it is asked to; then a reader again. It is to be called in a process that dies soon after.
    """
    problems: list[str] = []
    before = _bytes(directory)
    found, wrong = _read(directory, contents)
    problems += [f"reader: {text}" for text in wrong]
    after = _bytes(directory)
    problems += [f"the reader changed {x}" for x in after if after.get(x) != before.get(x, b"")]
    store = Store(str(directory), wait=5)
    if found is None:
        Database(str(directory), backbone="classic")  # the beginning of a database is in nobody's way
        store.create(META, CATEGORIES)
        found = {}
    with store.writing() as catalog:
        if not catalog.roots():
            with catalog.transaction():
                catalog.add_root(b"/photos", b"../photos", True)
    checked = check(store)
    problems += [f"writer: check: {p}" for p in checked.problems]
    problems += [f"writer left {path}" for path in checked.leftovers]
    if store.commit([image(EXTRA)]) != ["added"] and name(EXTRA) not in found:
        problems.append("one more image was not added")
    found[name(EXTRA)] = EXTRA
    if fold:
        store.fold_all()
    problems += [f"writer: {text}" for text in _wrong(store, [found])]
    store.close()
    reader = Store(str(directory), writable=False)
    if content_of(reader) != found:
        problems.append(f"afterwards: {described([found], content_of(reader))}")
    reader.close()
    if (directory / "LOCK").read_bytes():
        problems.append("LOCK is not empty")
    return found, problems


def _read(directory: Path, contents: Sequence[Content | None]) -> tuple[Content | None, list[str]]:
    store = Store(str(directory), writable=False)
    try:
        return content_of(store), _wrong(store, contents)
    except DatabaseNotFound:
        return None, [] if None in contents else ["there is no database"]
    finally:
        store.close()


def _wrong(store: Store, contents: Sequence[Content | None]) -> list[str]:
    """Return what is wrong with a database by its contents, its vectors, its searches and its own check."""
    found = content_of(store)
    problems = [] if found in contents else [described(contents, found)]
    with store.snapshot() as snapshot:
        problems += _wrong_in(snapshot)
    problems += [f"check: {p.kind} {p.where}: {p.detail}" for p in check(store).problems]
    return problems


def content_of(store: Store) -> Content:
    """Return what a database holds by its catalog."""
    with store.snapshot() as snapshot:
        return {os.fsdecode(x.path): int.from_bytes(x.digest, "big") for x in snapshot.catalog.images()}


def _wrong_in(snapshot: Snapshot) -> list[str]:
    """Return what is wrong with its images: each is whole, and found; and nothing else is, in any category."""
    problems: list[str] = []
    members: dict[int, list[int]] = {category: [] for category in _ALL}
    vectors = {}
    for known in snapshot.catalog.images():
        number = int.from_bytes(known.digest, "big")
        given = image(number, os.fsdecode(known.path))
        for category in known.categories:
            members[category].append(known.id)
        vector = vectors[known.id] = snapshot.catalog.vector(known.id)
        if vector is None or not np.array_equal(vector, given.vector):
            problems.append(f"image {number} has another vector")
        if (known.stamp, list(known.categories)) != (given.stamp, list(given.categories)):
            problems.append(f"image {number} has another stamp or other categories")
    blocks = {category: list(snapshot.blocks([category])) for category in _ALL}
    for category in _ALL:
        hits = nearest(image(1).vector, blocks[category], 10_000)
        if sorted(hits.image_ids.tolist()) != sorted(members[category]):
            problems.append(f"category {category} finds {len(hits.image_ids)} images of {len(members[category])}")
    every = [block for category in _ALL for block in blocks[category]]
    for number, vector in vectors.items():
        if vector is not None and nearest(vector, every, 1).image_ids.tolist() != [number]:
            problems.append(f"image {number} is not the nearest to itself")
    return problems + snapshot.notes


def _bytes(directory: Path) -> dict[str, bytes]:
    """Return all files but SQLite's index of its log, which every reader may write."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
