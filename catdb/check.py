"""Find out whether a database is what it says it is, and make what is not anew from the catalog."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catdb.catalog import MISTYPED, RESTORE, Catalog, Centroid, Load, Pointer
from catdb.checksum import checksum
from catdb.errors import DatabaseDamaged, ShardDamaged
from catdb.folding import mean
from catdb.shard import WIDTH, Rows
from catdb.store import Store

_UNIT = 2e-3  # how far the length of a float16 vector may be from 1; rounding explains 5e-4
_PIECE = 1000  # rows shortened at a time
_CLOSE = 1e-3  # how far a centroid may be from the mean of its rows; rounding to float16 explains 2.5e-4


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
    repaired: tuple[str, ...] = ()  # what a repair did before, in a line each

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair did: ``rebuilt`` shards, and the images that are ``gone`` until the next build finds them new.

    ``lost``: the catalog itself is damaged where nothing else holds what it held.
    """

    rebuilt: int = 0
    gone: int = 0
    lost: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        rebuilt = f"shards made anew from the catalog: {self.rebuilt:,}"
        gone = f"images that could not be mended and left: {self.gone:,}; catdb build takes them in again"
        lines = ((self.rebuilt, rebuilt), (self.gone, gone), (self.lost, f"the catalog itself is damaged: {RESTORE}"))
        return tuple(line for count, line in lines if count)


def check(store: Store) -> Check:
    """Check the whole database, on one snapshot. Holds about 70 bytes an image in memory, and one shard at a time.

    Where the catalog's rows are in such disorder that they cannot be relied on, vectors and shards are looked at only
    once that is mended.
    """
    with store.snapshot() as snapshot:
        catalog = snapshot.catalog
        disorder = list(_disorder(store, catalog))
        problems = [Problem("catalog", catalog.path, detail) for detail, _ in disorder]
        if not any(final for _, final in disorder):
            record = _Record(store, catalog)
            problems += [*record.problems.values(), *(found.problem for found in _categories(store, catalog, record))]
        return Check(tuple(problems), tuple(store.leftovers(catalog)))


def repair(store: Store) -> Repair:
    """Mend what check() finds. Damaged shards are made anew from the catalog, byte for byte, without a network pass.

    A damaged vector of the catalog is taken back from a shard. An image whose vector no shard holds, or of which the
    catalog has lost a part, leaves the database: the next build finds it new, and embeds it again. Damage that
    SQLite finds in its own file is mended only where it is confined to an index.
    """
    with store.writing() as catalog:
        if catalog.integrity():
            catalog.reindex()
            if catalog.integrity():
                return Repair(lost=True)
        with catalog.transaction():
            gone = catalog.cure()
        if catalog.faults():
            return Repair(0, gone, lost=True)
        for image in _Record(store, catalog).problems:
            gone += not _restore(store, catalog, image)
        damaged = list(_categories(store, catalog, _Record(store, catalog)))
        lost = sorted({image for found in damaged for image in found.lost})
        with catalog.transaction():
            for image in lost:
                catalog.delete(image)
        categories = sorted({found.category for found in damaged})
        store.unpoint(catalog, categories)
    store.fold(categories)
    return Repair(len(categories), gone + len(lost))


def _disorder(store: Store, catalog: Catalog) -> Iterator[tuple[str, bool]]:
    """Yield what is wrong between the catalog's rows, and whether nothing can be said of the rest while it is so."""
    texts = catalog.integrity()
    if texts:
        yield from ((text, True) for text in texts)
        return
    try:
        store.encoding(catalog)
    except DatabaseDamaged as error:
        yield _detail(error, catalog.path), True
    for rule, count in catalog.faults():
        remedy = f": {RESTORE}" if rule.cure == RESTORE else ""
        yield f"{rule.what} ({count:,}){remedy}", rule in MISTYPED or rule.cure == RESTORE


class _Record:
    """The catalog's vectors: the ``problems`` of each damaged one by image, the checksums and categories of all."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store, self._catalog = store, catalog
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
        self._categories = np.full((len(images), WIDTH), -1, np.int32)
        place = 0
        for image, rank, category in catalog.all_members():
            while place < len(images) and images[place] < image:
                place += 1
            if place < len(images) and images[place] == image and 0 <= rank < WIDTH:
                self._categories[place, rank] = category
        flat = self._categories.ravel()
        order = np.argsort(flat, kind="stable")  # by category, and in each by image
        self._member_categories, self._members = flat[order], self._images[order // WIDTH]

    def categories(self) -> list[int]:
        """Return the categories that have members."""
        return [int(category) for category in np.unique(self._member_categories) if category >= 0]

    def members(self, category: int) -> NDArray[np.int64]:
        """Return the ids of a category's images, rising."""
        first, last = np.searchsorted(self._member_categories, [category, category + 1])
        return self._members[first:last]

    def compare(self, rows: Rows) -> tuple[bool, list[int]]:
        """Return whether a row is not the vector that the catalog has of its image; and the images whose row is, but
        names other categories than the catalog, which therefore has lost them. Images that are gone do not count.
        """
        places = np.searchsorted(self._images, rows.image_ids)
        differs, lost = False, []
        short = self._short(rows)
        for row, (place, image) in enumerate(zip(places.tolist(), rows.image_ids.tolist(), strict=True)):
            if place == len(self._images) or self._images[place] != image:
                continue
            expected = short.get(image) if short is not None else self._checksums[place]
            if expected is not None and checksum(rows.features[row]) != expected:
                differs = True
            elif not np.array_equal(rows.categories[row], self._categories[place]):
                lost.append(image)
        return differs, lost

    def _short(self, rows: Rows) -> dict[int, int] | None:
        """Return the checksums of what these rows should be where shards hold shortened vectors, by image.

        Those are left out whose whole vector is damaged, or gone.
        """
        if self._store.encoding(self._catalog).lossless:
            return None
        sound = [i for i in rows.image_ids.tolist() if self._catalog.vector(i) is not None and i not in self.problems]
        found: dict[int, int] = {}
        for start in range(0, len(sound), _PIECE):
            images = sound[start : start + _PIECE]
            made = self._store.rows(self._catalog, images).features
            found |= {image: checksum(row) for image, row in zip(images, made, strict=True)}
        return found


@dataclass(frozen=True, slots=True)
class _Found:
    """A problem in a category; ``lost`` are the images of which the catalog no longer knows all categories."""

    category: int
    problem: Problem
    lost: tuple[int, ...] = ()


def _fault(data: bytes, expected: int, size: int) -> str | None:
    """Say what is wrong with a stored vector, if anything is."""
    if len(data) != size:
        return f"it has {len(data)} bytes, not {size}"
    if checksum(data) != expected:
        return "its checksum is not the one that was written"
    length = float(np.linalg.norm(np.frombuffer(data, "<f2").astype(np.float32)))
    return None if abs(length - 1) <= _UNIT else f"its length is {length:.4f}, not 1"


def _categories(store: Store, catalog: Catalog, record: _Record) -> Iterator[_Found]:
    """Check, category by category, that shard, waiting rows and dead rows add up to its members."""
    loads = {load.category: load for load in catalog.loads()}
    for category in sorted({*loads, *record.categories()}):
        if 0 <= category < len(store.categories()):  # others are a matter of the catalog's own rules
            yield from _category(store, catalog, record, loads.get(category, Load(category, 0, 0, 0)))


def _category(store: Store, catalog: Catalog, record: _Record, load: Load) -> Iterator[_Found]:
    category, name, members = load.category, store.category_id(load.category), record.members(load.category)
    if load.images != len(members):
        detail = f"images by its rows: {load.images}, by the members: {len(members)}"
        yield _Found(category, Problem("count", name, detail))
    here = set(catalog.pending(category))
    pointer = catalog.pointer(category)
    kind, where = "count", name
    if pointer:
        kind, where = "shard", store.file(category, pointer.generation)
        try:
            rows = store.load(catalog, pointer, afresh=True)
        except (ShardDamaged, OSError) as error:
            if store.is_current(pointer):  # a long check may outlive one that is replaced meanwhile
                yield _Found(category, Problem(kind, where, _detail(error, where)))
            return
        yield from (
            _Found(category, Problem(kind, where, detail), lost)
            for detail, lost in _row_faults(catalog, record, pointer, rows)
        )
        here |= set(rows.image_ids.tolist()) - set(catalog.tombstones(category).tolist())
    if here != set(members.tolist()):
        yield _Found(category, Problem(kind, where, "its images are not the members of the category"))


def _row_faults(
    catalog: Catalog, record: _Record, pointer: Pointer, rows: Rows
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield what is wrong with the rows of a shard whose file is whole, each with the images that are lost by it."""
    blocks = catalog.blocks_of(pointer.category)
    ends = [block.first + block.rows for block in blocks]
    if [block.first for block in blocks] != [0, *ends[:-1]] or ends[-1:] != [len(rows)]:
        yield "its blocks are not its rows", ()
        return
    parts = [rows.take(slice(block.first, end)) for block, end in zip(blocks, ends, strict=True)]
    if len(np.unique(rows.image_ids)) < len(rows) or not all((np.diff(part.image_ids) > 0).all() for part in parts):
        yield "its rows are not in the order of their images", ()
    differs, lost = record.compare(rows)
    if differs:
        yield "its vectors are not those of the catalog", ()
    if lost:
        yield f"{len(lost)} of its images with other categories than in the catalog", tuple(lost)
    if not all(_is_mean(block, part) for block, part in zip(blocks, parts, strict=True)):
        yield "its centroid is not the mean of its rows", ()
    if not pointer.has_parts and any((pointer.features, pointer.stride, pointer.rest)):
        yield "its features cannot lie where the catalog says", ()
    sums = [(block.checksum, checksum(part.features)) for block, part in zip(blocks, parts, strict=True)]
    if pointer.has_parts and any(known != found for known, found in sums):
        yield "the checksum of a block is not that of its rows", ()


def _is_mean(block: Centroid, rows: Rows) -> bool:
    if block.mean.shape != rows.features.shape[1:] or not block.rows:
        return False
    return bool(np.abs(block.mean - mean(rows.features)).max() <= _CLOSE)


def _detail(error: Exception, where: str) -> str:
    """Return an error's text without the path, which stands before it anyway."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or str(error)).removeprefix(f"{where}: ")


def _restore(store: Store, catalog: Catalog, image: int) -> bool:
    """Take a damaged vector back from a shard, or delete its image where none holds it whole; say which."""
    size = 2 * int(catalog.meta()["dimension"])
    is_whole = store.encoding(catalog).lossless
    known = catalog.image(image) if is_whole else None  # other rows cannot give it back
    for category in known.categories if known else ():
        pointer = catalog.pointer(category)
        with suppress(ShardDamaged, OSError):
            rows = store.load(catalog, pointer) if pointer else None
            if rows is None or image not in rows.image_ids:
                continue
            vector = rows.features[np.flatnonzero(rows.image_ids == image)[0]]
            if _fault(vector.tobytes(), checksum(vector), size) is None:
                with catalog.transaction():
                    catalog.set_vector(image, vector)
                return True
    with catalog.transaction():
        catalog.delete(image)
    return False
