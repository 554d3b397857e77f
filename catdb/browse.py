"""Looking through a database: one image, or pages of them, by number; and how much there is, as cheaply as can be.

A page ends with a cursor: the place in the order, not a count. So what comes and goes meanwhile neither repeats nor
hides an image. By folder and name the order is (root, path), in a category (probability, number).
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, TypeVar

from catdb.catalog import Image
from catdb.checksum import digest
from catdb.errors import ImageUnknown, PathNotFound
from catdb.filters import require_some
from catdb.images import Failure, Stamp, open_below
from catdb.images.find import explain
from catdb.lookup import point_of
from catdb.query import Prediction, predictions
from catdb.questions import Point
from catdb.roots import Roots
from catdb.snapshot import Snapshot
from catdb.store import Store

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image of a database. ``digest`` is of its content, and ``stamp`` of its file, when it was taken in."""

    id: int
    path: str
    width: int
    height: int
    digest: bytes
    stamp: Stamp
    categories: tuple[Prediction, ...]  # the most probable first


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the images. ``next``: the cursor after which the next page begins, None where this is the last one."""

    images: tuple[ImageInfo, ...]
    next: str | None
    total: int  # images on all pages


@dataclass(frozen=True, slots=True)
class FailurePage:
    """Some of the files that could not be read, likewise."""

    failures: tuple[Failure, ...]
    next: str | None
    total: int


@dataclass(frozen=True, slots=True)
class Status:
    """How much a database holds. ``version`` is another one whenever something has been committed."""

    images: int
    failed: int
    categories: int  # that hold images
    version: str


def image(store: Store, number: int) -> ImageInfo:
    """Return the image of a number. Raises ImageUnknown."""
    with store.snapshot() as snapshot:
        [found] = _infos(snapshot, _known(snapshot, [number]))
    return found


def image_of(store: Store, content: BinaryIO) -> ImageInfo | None:
    """Return the oldest image whose file holds exactly what a stream does, from its beginning; None: there is none."""
    content.seek(0)
    sought = digest(content)
    with store.snapshot() as snapshot:
        found = _infos(snapshot, islice(snapshot.catalog.images_of(sought), 1))
    return found[0] if found else None


def point(store: Store, number: int) -> tuple[Point, str]:
    """Return what is to be searched for an image, and its path. Raises ImageUnknown; also of a damaged vector."""
    with store.snapshot() as snapshot:
        [known] = _known(snapshot, [number])
        found = point_of(snapshot, number)
        if found is None:
            raise ImageUnknown(f"the vector of image {number} is damaged; run catdb check --repair")
        return found, Roots(snapshot.catalog.roots(), store.path).path(known.root, known.path)


def open_image(store: Store, number: int) -> BinaryIO:
    """Open the file of an image, which must lie below the folders of the database.

    Raises ImageUnknown; PathNotFound where it cannot be opened; ImageUnreadable where it lies elsewhere, or is no
    regular file.
    """
    with store.snapshot() as snapshot:
        roots = Roots(snapshot.catalog.roots(), store.path)
        [known] = _known(snapshot, [number])
    path = roots.path(known.root, known.path)
    try:
        return open_below([roots.folder(root.id) for root in roots.all], path)
    except OSError as error:
        raise PathNotFound(f"{path}: {explain(error)}") from error


def page(store: Store, after: str | None, limit: int) -> Page:
    """Return the images after a cursor (None: the first) by folder and name. Raises ValueError for no such cursor."""
    ahead, (root, path) = _ahead(limit), _place(after)
    with store.snapshot() as snapshot:
        found, more = _cut(snapshot.catalog.images_after(root, path, ahead), limit)
        end = _cursor(found[-1].root, found[-1].path) if more else None
        return Page(_infos(snapshot, found), end, snapshot.catalog.count())


def page_of(store: Store, category: int, after: str | None, limit: int) -> Page:
    """Return the images of a category after a cursor, likewise, the most probable first."""
    ahead, last = _ahead(limit), _rank(after)
    with store.snapshot() as snapshot:
        ranked, more = _cut(snapshot.catalog.probabilities(category, last, ahead), limit)
        end = f"{ranked[-1][1].hex()}_{ranked[-1][0]}" if more else None
        load = snapshot.catalog.load(category)
        found = _infos(snapshot, _known(snapshot, [image for image, _ in ranked]))
        return Page(found, end, load.images if load else 0)


def failures(store: Store, after: str | None, limit: int) -> FailurePage:
    """Return the files that could not be read after a cursor, by folder and name. Raises ValueError likewise."""
    ahead, place = _ahead(limit), _place(after)
    with store.snapshot() as snapshot:
        found, more = _cut(snapshot.catalog.failures_after(*place, ahead), limit)
        roots = Roots(snapshot.catalog.roots(), store.path)
        end = _cursor(*found[-1][:2]) if more else None
        reasons = tuple(Failure(roots.path(root, path), reason) for root, path, reason in found)
        return FailurePage(reasons, end, snapshot.catalog.failed())


def status(store: Store) -> Status:
    """Return how much there is."""
    version = store.version()  # before the snapshot: what is committed in between is told of once more, not never
    with store.snapshot() as snapshot:
        catalog = snapshot.catalog
        return Status(catalog.count(), catalog.failed(), len(snapshot.populated), version)


def _cursor(root: int, path: bytes) -> str:
    return f"{root}-{base64.urlsafe_b64encode(path).decode()}"


def _place(cursor: str | None) -> tuple[int, bytes]:
    """Read a cursor by folder and name."""
    if cursor is None:
        return -1, b""
    root, _, path = cursor.partition("-")
    try:
        return _number(root), base64.b64decode(path.encode("ascii"), b"-_", validate=True)
    except ValueError:
        raise _no_cursor() from None


def _rank(cursor: str | None) -> tuple[float, int]:
    """Read a cursor of a category."""
    if cursor is None:
        return math.inf, -1
    probability, _, image = cursor.partition("_")
    try:
        return float.fromhex(probability), _number(image)
    except (ValueError, OverflowError):
        raise _no_cursor() from None


def _ahead(limit: int) -> int:
    """Return how many rows to ask for, to know whether a page is the last. Raises ValueError for an empty page."""
    require_some("limit", limit)
    return limit + 1


def _cut(rows: list[_Row], limit: int) -> tuple[list[_Row], bool]:
    """Return the rows of a page, and whether there are more."""
    return rows[:limit], len(rows) > limit


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):  # what SQLite can hold
        raise ValueError(text)
    return int(text)


def _no_cursor() -> ValueError:
    return ValueError("after: not the cursor of a page; begin without one")


def _known(snapshot: Snapshot, numbers: Sequence[int]) -> list[Image]:
    """Return the images of these numbers, in their order. Raises ImageUnknown where one is not there."""
    known = snapshot.catalog.images_by_id(numbers)
    for number in numbers:
        if number not in known:
            raise ImageUnknown(f"the database holds no image {number}")
    return [known[number] for number in numbers]


def _infos(snapshot: Snapshot, images: Iterable[Image]) -> tuple[ImageInfo, ...]:
    roots = Roots(snapshot.catalog.roots(), snapshot.store.path)
    return tuple(
        ImageInfo(
            image.id,
            roots.path(image.root, image.path),
            image.width,
            image.height,
            image.digest,
            image.stamp,
            predictions(snapshot.store, zip(image.categories, image.probabilities, strict=True)),
        )
        for image in images
    )
