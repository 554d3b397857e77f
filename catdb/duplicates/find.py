"""From a database to its groups of copies: what the catalog knows, then the files of what may be a copy."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from catdb.catalog import Image
from catdb.checksum import checksum
from catdb.duplicates.candidates import candidates
from catdb.duplicates.groups import components, form_groups, linked
from catdb.duplicates.likeness import (
    SIDE,
    Glance,
    Sketch,
    glance,
    likeness,
    may_be_equal,
    may_be_one,
    sketch,
)
from catdb.images import Content, Decoders, Failure, Picture, Stamp, read
from catdb.images.find import explain
from catdb.roots import Roots
from catdb.search import Block
from catdb.snapshot import Snapshot
from catdb.store import Store

NEAR = 0.93
"""Likeness from which images are near. 2,000 copies of 200 photographs had 0.935 or more, other pairs 0.72 or less."""

_SKETCHES = 8192  # held, at 16 KB each
_TOGETHER = 512  # images decoded ahead of their comparison
_FULL = 4  # images decoded to their full size at once
_PAIRS = 1 << 16  # pairs of glances compared at once

Tell = Callable[[str, int, int], None]  # what is being done, how much of it is done, and of how much


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One image of a group."""

    path: str
    width: int
    height: int
    bytes: int
    modified: float  # seconds since the epoch
    similarity: float  # to the one to keep: 1 where bytes or pixels are equal
    copies: int  # further images that it stands for: those of its own group in an earlier tier
    id: int = field(default=0, compare=False)  # of the image, in this database: another one knows it by another


@dataclass(frozen=True, slots=True)
class Group:
    """Images that are copies of the first, which is the one to keep. ``tier``: "bytes", "pixels" or "near"."""

    tier: str
    images: tuple[Duplicate, ...]

    @property
    def freed(self) -> int:
        """Bytes that would be free if only the first were kept."""
        return sum(image.bytes for image in self.images[1:])


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What was found. ``unread``: files that could not be compared, and why; what is gone or changed is in no group."""

    groups: tuple[Group, ...]  # by tier, then by what they would free, the most first
    unread: tuple[Failure, ...]
    images: int  # in the database
    notes: tuple[str, ...] = ()  # what a person should know, such as a damaged shard

    @property
    def freed(self) -> int:
        """Bytes that would be free if only the first of each group were kept."""
        return sum(group.freed for group in self.groups)


@dataclass(eq=False)
class _Unit:
    """Files of the same bytes, the one to keep first; later also what has the same pixels. ``id``: its row's."""

    id: int
    files: list[tuple[str, Image]]
    digests: set[bytes] = field(default_factory=set)
    others: int = 0  # images of other units that it stands for

    @property
    def rank(self) -> tuple[int, int, str]:
        """Return the place in the order: what to keep has the least."""
        path, image = self.files[0]
        return -image.width * image.height, image.stamp.mtime_ns, path

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.files[0][1].height, self.files[0][1].width


def find(
    store: Store,
    decoders: Decoders,
    *,
    similarity: float = NEAR,
    jobs: int | None = None,
    tell: Tell = lambda step, done, of: None,
) -> Duplicates:
    """Find the groups of copies in a database; ``similarity`` is the least likeness in the near tier.

    ``decoders`` are lent and closed by the caller. Files that are missing, changed or unreadable cost themselves alone.
    """
    with store.snapshot() as snapshot:
        search = _Search(snapshot, tell)
        distinct = snapshot.catalog.distinct_pairs()
        images, notes = snapshot.catalog.count(), tuple(snapshot.notes)

    def apart(one: _Unit, other: _Unit) -> bool:
        return any((min(a, b), max(a, b)) in distinct for a in one.digests for b in other.digests)

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1, "catdb-look") as pool:
        try:
            eyes = _Eyes(decoders, pool, search.units, search.unread)
            groups = [
                *_of_bytes(search.units.values(), distinct),
                *_of_pixels(search, eyes, apart, tell),
                *_of_likeness(search, eyes, apart, similarity, tell),
            ]
        except BaseException:
            decoders.close()  # what waits for one of them ends at once
            raise
    return Duplicates(tuple(groups), tuple({f.path: f for f in search.unread}.values()), images, notes)


class _Search:
    """What the catalog and the shards say: units by id, and the pairs of them that are worth a look."""

    def __init__(self, snapshot: Snapshot, tell: Tell) -> None:
        self.unread: list[Failure] = []
        self.units: dict[int, _Unit] = {}
        self._roots = Roots(snapshot.catalog.roots(), snapshot.store.path)
        left_out: list[int] = []
        for images in snapshot.catalog.copies():
            self._take(images)
            left_out += [image.id for image in images[1:]]  # their rows are equal
        pairs = candidates(_shards(snapshot, tell), np.array(sorted(left_out), np.int64))
        for number in np.unique(pairs).tolist():
            if number not in self.units and (image := snapshot.catalog.image(number)):
                self._take([image])
        self.pairs = pairs[np.isin(pairs, list(self.units)).all(axis=1)]

    def _take(self, images: Sequence[Image]) -> None:
        """Take files of the same bytes for a unit, but for those that are not any more what the database knows."""
        files = []
        for image in images:
            path = self._roots.path(image.root, image.path)
            reason = _departed(path, image.stamp)
            if reason:
                self.unread.append(Failure(path, reason))
            else:
                files.append((path, image))
        if files:
            files = _each_once(sorted(files, key=lambda file: (file[1].stamp.mtime_ns, file[0])))
            self.units[images[0].id] = _Unit(images[0].id, files, {images[0].digest}, len(files) - 1)

    def order(self, units: Iterable[int]) -> list[int]:
        """Return units in the order in which they may become keepers."""
        return sorted(units, key=lambda unit: self.units[unit].rank)

    def stand_for(self, groups: Sequence[Sequence[tuple[int, float]]]) -> None:
        """From now on have the first of each group stand for all of it."""
        keeper = {unit: group[0][0] for group in groups for unit, _ in group}
        for unit, first in keeper.items():
            if unit != first:
                self.units[first].digests |= self.units[unit].digests
                self.units[first].others += 1 + self.units[unit].others
        pairs = np.array([keeper.get(unit, unit) for unit in self.pairs.ravel().tolist()], np.int64).reshape(-1, 2)
        self.pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)


class _Eyes:
    """What the images look like, decoded where it is not remembered: all glances, and some sketches."""

    def __init__(
        self, decoders: Decoders, pool: ThreadPoolExecutor, units: dict[int, _Unit], unread: list[Failure]
    ) -> None:
        self._decoders, self._pool, self._units, self._unread = decoders, pool, units, unread
        self._sketches: OrderedDict[int, Sketch | None] = OrderedDict()  # the one used longest ago first
        self.glances: dict[int, Glance] = {}

    def look(self, units: Iterable[int]) -> None:
        """Have glances and sketches of these at hand, of at most _SKETCHES of them."""
        new = [unit for unit in units if unit not in self._sketches]
        for unit, pixels in zip(new, self._pool.map(self._small, new), strict=True):
            self._sketches[unit] = None if pixels is None else sketch(pixels)
            if pixels is not None and unit not in self.glances:
                self.glances[unit] = glance(pixels)
            if len(self._sketches) > _SKETCHES:
                self._sketches.popitem(last=False)

    def likeness(self, one: int, other: int) -> float:
        """Return the likeness of two units, 0 where one cannot be read."""
        first, second = self._sketch(one), self._sketch(other)
        if first is None or second is None:
            return 0.0
        (height, width), (others_height, others_width) = self._units[one].size, self._units[other].size
        return likeness(first, second, ((others_width / others_height) / (width / height)) ** 0.5)

    def _sketch(self, unit: int) -> Sketch | None:
        self.look([unit])
        self._sketches.move_to_end(unit)
        return self._sketches[unit]

    def pixels(self, units: Sequence[int]) -> Iterator[int | None]:
        """Yield a checksum of each one's pixels at its full size, None where it cannot be read."""
        for start in range(0, len(units), _FULL):
            yield from self._pool.map(self._whole, units[start : start + _FULL])

    def _small(self, unit: int) -> NDArray[np.uint8] | None:
        return self._decode(self._units[unit], (SIDE, SIDE))

    def _whole(self, unit: int) -> int | None:
        pixels = self._decode(self._units[unit], self._units[unit].size)
        return None if pixels is None else checksum(pixels)

    def _decode(self, unit: _Unit, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Decode whichever of a unit's files can be read."""
        for path, image in unit.files:
            found = read(Content(path, image.stamp, image.digest), size, self._decoders.decode)
            if isinstance(found, Picture):
                return found.pixels
            self._unread.append(found)
        return None


def _shards(snapshot: Snapshot, tell: Tell) -> Iterator[tuple[int, list[Block]]]:
    loads = snapshot.catalog.loads()
    for done, load in enumerate(loads, 1):
        yield load.category, list(snapshot.blocks([load.category]))
        tell("comparing", done, len(loads))


def _departed(path: str, stamp: Stamp) -> str | None:
    """Say why a file is not what the database knows, or None where it is."""
    try:
        same = Stamp.of(os.stat(path)) == stamp
    except (OSError, ValueError) as error:
        return explain(error)
    return None if same else "changed since it was indexed; catdb build takes it in again"


def _each_once(files: Sequence[tuple[str, Image]]) -> list[tuple[str, Image]]:
    """Leave out further names of a file, which are no copies: a link kept while its target goes would be nothing."""
    once: list[tuple[str, Image]] = []
    for file in files:
        at = next((at for at, other in enumerate(once) if _are_one(file, other)), None)
        if at is None:
            once.append(file)
        elif os.path.islink(once[at][0]):
            once[at] = file  # the file rather than what points to it
    return once


def _are_one(one: tuple[str, Image], other: tuple[str, Image]) -> bool:
    """Say whether two names lead to one file. The stamps, with their inode, save asking the system of most."""
    try:
        return one[1].stamp == other[1].stamp and os.path.samefile(one[0], other[0])
    except OSError:
        return False  # gone meanwhile


# --- the three tiers --------------------------------------------------------------------------------------------------

Apart = Callable[[_Unit, _Unit], bool]


def _of_bytes(units: Iterable[_Unit], distinct: set[tuple[bytes, bytes]]) -> list[Group]:
    found = [
        Group("bytes", tuple(_duplicate(*file) for file in unit.files))
        for unit in units
        if len(unit.files) > 1 and not any((digest, digest) in distinct for digest in unit.digests)
    ]
    return _sorted(found)


def _of_pixels(search: _Search, eyes: _Eyes, apart: Apart, tell: Tell) -> list[Group]:
    """Look at every candidate once, and compare as a whole those that look the same."""
    units = search.units
    seen = np.unique(search.pairs).tolist()
    for start in range(0, len(seen), _TOGETHER):
        eyes.look(seen[start : start + _TOGETHER])
        tell("looking", min(len(seen), start + _TOGETHER), len(seen))
    pairs = _glanced(search.pairs, eyes.glances, may_be_equal)
    pairs = pairs[[units[one].size == units[other].size for one, other in pairs.tolist()]] if len(pairs) else pairs
    same = np.unique(pairs).tolist()
    sums: dict[int, int] = {}
    for done, (unit, found) in enumerate(zip(same, eyes.pixels(same), strict=True), 1):
        if found is not None:
            sums[unit] = found
        tell("comparing pixels", done, len(same))
    groups = form_groups(
        search.order(sums),
        linked(pairs),
        lambda keeper, unit: 1.0 if sums[keeper] == sums[unit] else None,
        lambda one, other: apart(units[one], units[other]),
    )
    shown = _shown("pixels", groups, units)
    search.stand_for(groups)
    return shown


def _of_likeness(search: _Search, eyes: _Eyes, apart: Apart, similarity: float, tell: Tell) -> list[Group]:
    """Compare what looks similar at a glance, a few connected sets at a time."""
    pairs = _glanced(search.pairs, eyes.glances, may_be_one)
    neighbours, sets = linked(pairs), components(pairs)
    groups: list[list[tuple[int, float]]] = []
    total, done = sum(map(len, sets)), 0

    def alike(keeper: int, unit: int) -> float | None:
        found = eyes.likeness(keeper, unit)
        return found if found >= similarity else None

    for batch in _batches(sets):
        if len(batch) <= _SKETCHES:
            eyes.look(batch)
        groups += form_groups(
            search.order(batch), neighbours, alike, lambda one, other: apart(search.units[one], search.units[other])
        )
        done += len(batch)
        tell("comparing images", done, total)
    return _shown("near", groups, search.units)


def _batches(sets: Iterable[list[int]]) -> Iterator[list[int]]:
    batch: list[int] = []
    for one in sets:
        batch += one
        if len(batch) >= _TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def _glanced(
    pairs: NDArray[np.int64],
    glances: dict[int, Glance],
    test: Callable[[NDArray[np.float16], NDArray[np.float16]], NDArray[np.bool_]],
) -> NDArray[np.int64]:
    """Return the pairs whose glances pass a test."""
    pairs = pairs[[one in glances and other in glances for one, other in pairs.tolist()]] if len(pairs) else pairs
    kept = [np.empty((0, 2), np.int64)]
    for start in range(0, len(pairs), _PAIRS):
        some = pairs[start : start + _PAIRS]
        one, other = (np.stack([glances[unit] for unit in side.tolist()]) for side in some.T)
        kept.append(some[test(one, other)])
    return np.concatenate(kept)


def _shown(tier: str, groups: Iterable[Sequence[tuple[int, float]]], units: dict[int, _Unit]) -> list[Group]:
    return _sorted(
        Group(tier, tuple(_duplicate(*units[unit].files[0], like, units[unit].others) for unit, like in group))
        for group in groups
    )


def _duplicate(path: str, image: Image, similarity: float = 1.0, copies: int = 0) -> Duplicate:
    stamp = image.stamp
    return Duplicate(path, image.width, image.height, stamp.size, stamp.mtime_ns / 1e9, similarity, copies, image.id)


def _sorted(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: (-group.freed, group.images[0].path))
