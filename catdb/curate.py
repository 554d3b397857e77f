"""What a person decides about a collection, and no build may undo: what is taken in, taken out, left out, and no copy.

All of it is remembered by the catalog. What is removed stays out until it is added; an exclude, until it is included
again; and of two contents that are no copies of one another that is so for good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

from catdb.backbones import Engine
from catdb.catalog import Catalog, is_forgotten, is_removed
from catdb.errors import PathNotFound
from catdb.images import Decoders
from catdb.opening import Wanted, create
from catdb.reconcile import Means, Report, reconcile, require
from catdb.roots import Roots, absolute
from catdb.store import Store


def named(targets: Iterable[Any]) -> list[str]:
    """Flatten paths and lists of paths into absolute paths, each once. Raises TypeError for what is neither."""
    found: list[str] = []
    for target in targets:
        found += [absolute(target)] if isinstance(target, str | os.PathLike) else named(target)
    return list(dict.fromkeys(found))


def begin(store: Store, engine: Engine, wanted: Wanted, paths: Sequence[str], *, folders: bool = False) -> None:
    """Have there be a database, and these absolute paths be such as can be brought in step with it.

    Raises PathNotFound for one that neither exists nor is known, or is there and none of ``folders``; nothing has been
    written then. Raises as :func:`catdb.opening.create` does.
    """
    if not store.exists():
        _require_there(paths)
    if folders:
        _require_folders(paths)
    create(store, engine, wanted)
    require(store, paths)


def add(store: Store, engine: Engine, wanted: Wanted, paths: Sequence[str], **means: Any) -> Report:
    """Take in what lies at absolute paths, also what was removed before, by :class:`~catdb.reconcile.Means` like these.

    Raises PathNotFound for one where nothing lies, and as :func:`catdb.opening.create` does.
    """
    _require_there(paths)
    create(store, engine, wanted)
    with Decoders() as decoders:
        return reconcile(Means(store, engine, decoders, **means), paths, adding=True)


def _require_there(paths: Iterable[str]) -> None:
    for path in paths:
        if not os.path.lexists(path):
            raise PathNotFound(f"{path}: no such file or folder; nothing was changed")


def _require_folders(paths: Iterable[str]) -> None:
    for path in paths:
        if os.path.lexists(path) and not os.path.isdir(path):
            raise PathNotFound(f"{path}: not a folder; name the folder it is in, or use build for single files")


def set_excludes(
    store: Store, exclude: str | Iterable[str], include: str | Iterable[str], notice: Callable[[str], None]
) -> None:
    """Remember globs of what not to find, and forget others; ``notice`` is told of one that was not remembered."""
    new, back = _globs(exclude), _globs(include)
    if new or back:
        with store.writing() as catalog, catalog.transaction():
            known = set(catalog.excludes()) | new
            catalog.set_excludes(known - back)
        for glob in sorted(back - known):
            notice(f"{glob} was not excluded; catdb info lists what is")


def _globs(globs: str | Iterable[str]) -> set[str]:
    return {globs} if isinstance(globs, str) else set(globs)


def remove(store: Store, paths: Sequence[str]) -> int:
    """Remove the images at and below absolute paths; return how many. They stay out until they are added.

    Raises PathNotFound, before anything is removed, for a path that no folder of the database holds, or that neither
    exists nor is known.
    """
    count = 0
    with store.writing() as catalog, catalog.transaction():
        roots = Roots(catalog.roots(), store.path)
        for path in paths:
            place = roots.place(path)
            if not place and not roots.inside(path):
                raise PathNotFound(f"{path}: in no folder of the database; nothing was removed")
            if place and place[1] and not os.path.lexists(path) and not catalog.is_known(*place):
                raise PathNotFound(f"{path}: no such file or folder; nothing was removed")
        for path in paths:
            place = roots.place(path)
            for root, below in [place] if place else [(inner.id, b"") for inner in roots.inside(path)]:
                count += _remove(catalog, root, below)
    store.fold_due(at_rest=False)
    return count


def _remove(catalog: Catalog, root: int, below: bytes) -> int:
    """Remove what is at and below a path in the running transaction."""
    images = catalog.ids_below(root, below)
    for image in images:
        catalog.delete(image)
    catalog.set_removed(root, below)
    return len(images)


def say_removed(store: Store, paths: Iterable[str], notice: Callable[[str], None]) -> None:
    """Say of what was named and stays out nevertheless how it comes back."""
    with store.snapshot() as snapshot:
        roots = Roots(snapshot.catalog.roots(), store.path)
        for path in paths:
            place = roots.place(path)
            if place and is_removed(place[1], snapshot.catalog.removed(place[0])):
                notice(f"{path} was removed by hand and stays out; catdb add takes it back")


def say_twice(store: Store, paths: Iterable[str], notice: Callable[[str], None]) -> None:
    """Say of what was named with which other folder of the database it shares its files, by way of a link."""
    with store.snapshot() as snapshot:
        roots = Roots(snapshot.catalog.roots(), store.path)
        removed = {root.id: snapshot.catalog.removed(root.id) for root in roots.all}
    kept = [root.id for root in roots.all if root.whole and not is_forgotten(removed[root.id])]
    for path in paths:
        place = roots.place(path)
        if place and is_removed(place[1], removed[place[0]]):
            continue
        real = os.path.realpath(path)
        for folder in (roots.folder(root) for root in kept if place is None or root != place[0]):
            if os.path.commonpath((real, os.path.realpath(folder))) in (real, os.path.realpath(folder)):
                notice(
                    f"{path} and {folder} share files by way of a link, so the database holds those under both names;"
                    " catdb remove takes one of the two out"
                )


def mark_distinct(store: Store, paths: Sequence[str]) -> int:
    """Remember of the images at absolute paths that they are no copies of one another; return how many pairs are new.

    Raises PathNotFound for what is not in the database, and ValueError for fewer than two.
    """
    if len(paths) < 2:  # the same one named twice is one
        raise ValueError("name at least two different images")
    with store.writing() as catalog, catalog.transaction():
        roots = Roots(catalog.roots(), store.path)
        digests = []
        for path in paths:
            place = roots.place(path)
            image = catalog.image_at(*place) if place else None
            if image is None:
                raise PathNotFound(f"{path}: not an image of the database; nothing was changed")
            digests.append(image.digest)
        return catalog.add_distinct_pairs(combinations(digests, 2))
