"""What a database holds, taken as a whole: how much of what, from which folders, in which categories, and what failed.

One image at a time, and pages of them, are in :mod:`catdb.browse`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from catdb import backbones
from catdb.catalog import is_forgotten
from catdb.encoding import store_of
from catdb.images import Failure
from catdb.lock import Lock
from catdb.questions import category_named
from catdb.roots import Roots
from catdb.snapshot import Snapshot
from catdb.store import Store


@dataclass(frozen=True, slots=True)
class RootInfo:
    """A folder that the database knows. ``online``: it is there, and was not found emptied."""

    path: str
    online: bool
    images: int
    whole: bool  # kept in step with everything in it; else only single files of it are known
    reconciled: float | None  # when it last was, in seconds since the epoch


@dataclass(frozen=True, slots=True)
class Info:
    """What a database is and holds."""

    path: str
    images: int
    failed: int
    categories: int  # that hold images
    pending: int  # memberships that wait to be folded into a shard
    bytes: int  # on disk
    backbone: str
    weights_sha256: str | None
    engine: str
    precision: str
    cache: str | None  # where the converted network is, if it is
    dimension: int
    dimensions: int | None  # to which shards are to shorten vectors, None where they are to hold them whole
    shortened: bool  # whether they do so already
    store: str  # the numbers that shards hold: "float16" or "int8"
    format: int
    created: float
    roots: tuple[RootInfo, ...]
    excludes: tuple[str, ...]
    watcher: str | None  # the process that keeps it in step, if one does


@dataclass(frozen=True, slots=True)
class CategoryInfo:
    """A category that holds images."""

    id: str
    name: str
    images: int


def info(store: Store) -> Info:
    """Return what the database is and holds. Raises DatabaseNotFound."""
    with store.snapshot() as snapshot:
        catalog, loads = snapshot.catalog, snapshot.populated.values()
        meta = catalog.meta()
        return Info(
            path=store.path,
            images=catalog.count(),
            failed=catalog.failed(),
            categories=len(loads),
            pending=sum(load.pending for load in loads),
            bytes=_bytes_below(store.path),
            roots=tuple(_folders(snapshot)),
            dimensions=meta.get("dimensions"),
            shortened=catalog.projection() is not None,
            store=store_of(meta),
            cache=backbones.cached(meta["backbone"], meta["weights_sha256"]),
            excludes=tuple(catalog.excludes()),
            watcher=watcher(store),
            format=catalog.format(),
            **{k: meta[k] for k in ("backbone", "weights_sha256", "engine", "precision", "dimension", "created")},
        )


def _folders(snapshot: Snapshot) -> Iterator[RootInfo]:
    """Yield the folders that are known, but for those of which everything was removed by hand."""
    catalog, roots = snapshot.catalog, _roots(snapshot)
    for root in roots.all:
        if not is_forgotten(catalog.removed(root.id)):
            folder = roots.folder(root.id)
            online = not root.offline and os.path.isdir(folder)
            yield RootInfo(folder, online, catalog.count_of(root.id), root.whole, root.reconciled)


def watcher(store: Store) -> str | None:
    """Return the process that keeps the database in step, if one does."""
    return Lock.of_watcher(store.path).holder()


def count(store: Store) -> int:
    """Return how many images there are; none before the database has been made."""
    if not store.exists():
        return 0
    with store.snapshot() as snapshot:
        return snapshot.catalog.count()


def holds(store: Store, path: str) -> bool:
    """Say whether an absolute path is that of an image."""
    if not store.exists():
        return False
    with store.snapshot() as snapshot:
        place = _roots(snapshot).place(path)
        return place is not None and snapshot.catalog.image_at(*place) is not None


def paths(store: Store) -> Iterator[str]:
    """Yield the absolute path of every image, by folder and name."""
    if not store.exists():
        return
    with store.snapshot() as snapshot:
        roots = _roots(snapshot)
        for image in snapshot.catalog.images():
            yield roots.path(image.root, image.path)


def failures(store: Store) -> list[Failure]:
    """Return the files that could not be read and the folders that could not be listed, with the reason of each."""
    with store.snapshot() as snapshot:
        roots = _roots(snapshot)
        return [Failure(roots.path(root, path), reason) for root, path, reason in snapshot.catalog.failures()]


def categories(store: Store) -> list[CategoryInfo]:
    """Return the categories that hold images, the fullest first."""
    with store.snapshot() as snapshot:
        names = store.categories()
        found = [CategoryInfo(*names[load.category], load.images) for load in snapshot.populated.values()]
    return sorted(found, key=lambda category: (-category.images, category.id))


def category(store: Store, name: str) -> list[tuple[str, float]]:
    """Return (path, probability) of the images of a category, given by id or name, most probable first.

    Raises CategoryUnknown.
    """
    with store.snapshot() as snapshot:
        number = category_named(name, store.categories())
        roots = _roots(snapshot)
        ranked = snapshot.catalog.probabilities(number)
        known = snapshot.catalog.images_by_id([image for image, _ in ranked])
        return [(roots.path(known[i].root, known[i].path), chance) for i, chance in ranked if i in known]


def _roots(snapshot: Snapshot) -> Roots:
    return Roots(snapshot.catalog.roots(), snapshot.store.path)


def _bytes_below(folder: str) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # collected meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total
