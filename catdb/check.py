"""Find out whether a database is what it says it is, and make what is not anew from the catalog."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from catdb import shard
from catdb.catalog import Catalog, Load, Pointer
from catdb.checksum import checksum
from catdb.errors import ShardDamaged
from catdb.shard import Rows
from catdb.store import Store

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
        catalog = snapshot.catalog
        record = _Record(catalog)
        problems = [
            *(Problem("catalog", catalog.path, text) for text in catalog.integrity()),
            *(Problem("catalog", catalog.path, f"{count} {what}") for what, count in catalog.orphans()),
            *record.problems.values(),
            *(problem for _, problem in _categories(store, catalog, record)),
        ]
        return Check(tuple(problems), tuple(store.leftovers(catalog)))


def repair(store: Store) -> int:
    """Make every damaged shard anew from the catalog, byte for byte; return how many. No network pass is needed.

    A damaged vector of the catalog is taken back from a shard. An image whose vector no shard holds leaves the
    database: the next build finds it new, and embeds it again.
    """
    with store.writing() as catalog:
        record = _Record(catalog)
        for image in record.problems:
            _restore(store, catalog, image)
        damaged = sorted({category for category, _ in _categories(store, catalog, _Record(catalog))})
        store.unpoint(catalog, damaged)
    store.fold(damaged)
    return len(damaged)


class _Record:
    """The catalog's vectors: the ``problems`` of each damaged one by image, and the checksums of all."""

    def __init__(self, catalog: Catalog) -> None:
        self.problems: dict[int, Problem] = {}
        images, checksums = array("q"), array("q")
        size = 2 * int(catalog.meta()["dimension"])
        for image, data, expected in catalog.vectors():
            images.append(image)
            checksums.append(expected)
            detail = _fault(data, expected, size)
            if detail:
                self.problems[image] = Problem("vector", f"image {image}", detail)
        self._images, self._checksums = np.array(images, np.int64), np.array(checksums, np.int64)

    def differs(self, rows: Rows) -> bool:
        """Say whether a row is not the vector that the catalog has of its image. Images that are gone do not count."""
        places = np.searchsorted(self._images, rows.image_ids)
        for row, (place, image) in enumerate(zip(places.tolist(), rows.image_ids.tolist(), strict=True)):
            known = place < len(self._images) and self._images[place] == image
            if known and checksum(rows.features[row]) != self._checksums[place]:
                return True
        return False


def _fault(data: bytes, expected: int, size: int) -> str | None:
    """Say what is wrong with a stored vector, if anything is."""
    if len(data) != size:
        return f"it has {len(data)} bytes, not {size}"
    if checksum(data) != expected:
        return "its checksum is not the one that was written"
    length = float(np.linalg.norm(np.frombuffer(data, "<f2").astype(np.float32)))
    return None if abs(length - 1) <= _UNIT else f"its length is {length:.4f}, not 1"


def _categories(store: Store, catalog: Catalog, record: _Record) -> Iterator[tuple[int, Problem]]:
    """Check, category by category, that shard, waiting rows and dead rows add up to its members."""
    loads = {load.category: load for load in catalog.loads()}
    for category, members in catalog.memberships():
        load = loads.pop(category, Load(category, 0, 0, 0))
        yield from ((category, problem) for problem in _category(store, catalog, record, load, members))
    for category, load in loads.items():
        yield from ((category, problem) for problem in _category(store, catalog, record, load, []))


def _category(store: Store, catalog: Catalog, record: _Record, load: Load, members: Sequence[int]) -> Iterator[Problem]:
    name = store.category_id(load.category)
    if load.images != len(members):
        yield Problem("count", name, f"{load.images} images by its rows, {len(members)} by the members")
    here = set(catalog.pending(load.category))
    pointer = catalog.pointer(load.category)
    kind, where = "count", name
    if pointer:
        kind, where = "shard", store.file(load.category, pointer.generation)
        try:
            rows = _rows(store, pointer)
        except (ShardDamaged, OSError) as error:
            if _is_current(store, pointer):
                yield Problem(kind, where, str(error))
            return
        if len(rows) != pointer.rows or not (np.diff(rows.image_ids) > 0).all():
            yield Problem(kind, where, f"{len(rows)} rows, or not in order, where {pointer.rows} were written")
        if record.differs(rows):
            yield Problem(kind, where, "its vectors are not those of the catalog")
        here |= set(rows.image_ids.tolist()) - set(catalog.tombstones(load.category).tolist())
    if here != set(members):
        yield Problem(kind, where, "its images are not the members of the category")


def _rows(store: Store, pointer: Pointer) -> Rows:
    path = store.file(pointer.category, pointer.generation)
    shard.verify(path, pointer.bytes, pointer.checksum)
    return shard.load(path, store.category_id(pointer.category))


def _is_current(store: Store, pointer: Pointer) -> bool:
    """Say whether a shard is still the category's. A long check may outlive one that is replaced meanwhile."""
    with store.snapshot() as now:
        return now.catalog.pointer(pointer.category) == pointer


def _restore(store: Store, catalog: Catalog, image: int) -> None:
    """Take a damaged vector back from a shard, or delete its image where none holds it whole."""
    size = 2 * int(catalog.meta()["dimension"])
    known = catalog.image(image)
    for category in known.categories if known else ():
        pointer = catalog.pointer(category)
        with suppress(ShardDamaged, OSError):
            rows = _rows(store, pointer) if pointer else None
            if rows is None or image not in rows.image_ids:
                continue
            vector = rows.features[np.searchsorted(rows.image_ids, image)]
            if _fault(vector.tobytes(), checksum(vector), size) is None:
                with catalog.transaction():
                    catalog.set_vector(image, vector)
                return
    with catalog.transaction():
        catalog.delete(image)
