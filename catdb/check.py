"""Find out whether a database is what it says it is, and make what is not anew from the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from catdb import shard
from catdb.catalog import Catalog, Pointer
from catdb.checksum import checksum
from catdb.errors import ShardDamaged
from catdb.store import Snapshot, Store

_UNIT = 2e-3  # how far the length of a float16 vector may be from 1; rounding explains 5e-4


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: its kind, where, and in what way."""

    kind: str  # "catalog", "shard", "vector" or "count"
    where: str
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """What a check found. Leftovers are files that no one refers to: no problem, the next writer drops them."""

    problems: tuple[Problem, ...]
    leftovers: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def check(store: Store) -> Check:
    """Check the whole database, on one snapshot."""
    with store.snapshot() as snapshot:
        problems = [
            *(Problem("catalog", snapshot.catalog.path, text) for text in snapshot.catalog.integrity()),
            *(
                Problem("catalog", snapshot.catalog.path, f"{count} {what}")
                for what, count in snapshot.catalog.orphans()
            ),
            *_vectors(snapshot.catalog),
            *_shards(store, snapshot),
        ]
        return Check(tuple(problems), tuple(store.leftovers(snapshot.catalog)))


def _vectors(catalog: Catalog) -> Iterator[Problem]:
    size = 2 * int(catalog.meta()["dimension"])
    for image, data, expected in catalog.vectors():
        if checksum(data) != expected or len(data) != size:
            yield Problem("vector", f"image {image}", "its checksum is not the one that was written")
            continue
        length = float(np.linalg.norm(np.frombuffer(data, "<f2").astype(np.float32)))
        if not abs(length - 1) <= _UNIT:
            yield Problem("vector", f"image {image}", f"its length is {length:.4f}, not 1")


def _shards(store: Store, snapshot: Snapshot) -> Iterator[Problem]:
    """Check every shard's file, and that shard, waiting rows and tombstones add up to the members of its category."""
    catalog = snapshot.catalog
    members = catalog.memberships()
    for load in catalog.loads():
        name = store.category_id(load.category)
        if load.images != members.pop(load.category, 0):
            yield Problem("count", name, f"{load.images} images by its rows, another number by the members")
    for category, count in members.items():
        yield Problem("count", store.category_id(category), f"{count} members, but neither shard nor waiting rows")
    for pointer in catalog.pointers():
        yield from _shard(store, catalog, pointer)


def _shard(store: Store, catalog: Catalog, pointer: Pointer) -> Iterator[Problem]:
    name, path = store.category_id(pointer.category), store.file(pointer.category, pointer.generation)
    try:
        shard.verify(path, pointer.bytes, pointer.checksum)
        rows = shard.load(path, name)
    except (ShardDamaged, OSError) as error:
        yield Problem("shard", path, str(error))
        return
    if len(rows) != pointer.rows or not (np.diff(rows.image_ids) > 0).all():
        yield Problem("shard", path, f"{len(rows)} rows, or not in order, where {pointer.rows} were written")
    living = set(rows.image_ids.tolist()) - set(catalog.tombstones(pointer.category).tolist())
    if living | set(catalog.pending(pointer.category)) != set(catalog.members(pointer.category)):
        yield Problem("shard", path, "its images are not the members of the category")


def repair(store: Store) -> int:
    """Make every damaged shard anew from the catalog, byte for byte; return how many. No network pass is needed."""
    with store.writing() as catalog:
        damaged = [p.category for p in catalog.pointers() if list(_shard(store, catalog, p))]
        store.unpoint(catalog, damaged)
    store.fold(damaged)
    return len(damaged)
