"""What proves that images have moved as a whole: the content of a sample of them, before anything is changed.

Of each folder that moves up to 20 images are looked at in the new place, chosen by a seed. All must be there with the
bytes that the catalog knows, but for one in ten, which somebody may have edited or deleted since the last build. Then
every folder of the database at or below the old place is known at the new one, in one commit, with its images,
failures and removed paths. No network pass is needed, nor for the next build, which finds new times and inodes and
compares the bytes of each file with the digest that is known.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

from catdb.catalog import Catalog, Image
from catdb.errors import DatabaseBusy, PathNotFound, RelocationRefused
from catdb.images import Failure, fingerprint
from catdb.roots import Roots
from catdb.store import Store

SAMPLE = 20  # images of each folder that are compared
_MAY_DIFFER = 10  # one in so many

Tell = Callable[[int, int], None]  # images compared, of how many


@dataclass(frozen=True, slots=True)
class Moved:
    """A folder of the database that was moved. Of ``images`` ``sampled`` were compared, and ``same`` are unchanged."""

    source: str
    path: str
    images: int
    sampled: int
    same: int


def relocate(store: Store, old: str, new: str, *, tell: Tell = lambda done, of: None) -> list[Moved]:
    """Have every root at or below an absolute path be known below another, where its images have moved to.

    Raises PathNotFound where no root lies there, or nothing at the new place; RelocationRefused where other images do,
    or where roots would come to lie inside one another. Nothing has been changed then.
    """
    with store.snapshot() as snapshot:
        places = _places(snapshot.catalog, store.path, old, new)
        moved = _compare(snapshot.catalog, store.path, places, tell)
    with store.writing() as catalog, catalog.transaction():
        if _places(catalog, store.path, old, new) != places:
            raise DatabaseBusy(f"{store.path}: its folders were changed meanwhile; run it again")
        for root in places:  # first out of one another's way, for each of their paths is there once
            catalog.move_root(root, b"\0%d" % root, b"")
        for root, place in places.items():
            name = os.fsencode(place)
            catalog.move_root(root, name, os.path.relpath(name, os.fsencode(store.path)))
            if os.path.isdir(place):
                catalog.mark_root(root, offline=False, device=os.stat(place).st_dev)
    return moved


def _places(catalog: Catalog, database: str, old: str, new: str) -> dict[int, str]:
    """Return where each root that moves will lie, by number. Raises PathNotFound, RelocationRefused."""
    roots = Roots(catalog.roots(), database)
    moving = [root for root in roots.all if roots.folder(root.id) == old] + roots.inside(old)
    if not moving:
        holder = roots.place(old)
        raise PathNotFound(
            f"{old}: only a part of the folder {roots.folder(holder[0])}; name that, or let catdb build follow files"
            if holder
            else f"{old}: no folder of the database lies there or below; catdb info lists them"
        )
    if old == new:
        raise RelocationRefused(f"{new}: known there already; nothing was changed")
    if not os.path.isdir(new):
        raise PathNotFound(f"{new}: no such folder; nothing was changed")
    places = {
        root.id: os.path.normpath(os.path.join(new, os.path.relpath(roots.folder(root.id), old))) for root in moving
    }
    _require_apart(roots, places)
    return places


def _require_apart(roots: Roots, places: dict[int, str]) -> None:
    """Raise RelocationRefused where a root would come to lie in a whole one, or two in one place."""
    staying = [root for root in roots.all if root.id not in places]
    for root, place in places.items():
        for other in staying:
            folder = roots.folder(other.id)
            inside = (other.whole and _holds(folder, place)) or (roots.get(root).whole and _holds(place, folder))
            if inside or place in (folder, os.fsdecode(other.path)):
                raise RelocationRefused(
                    f"{roots.folder(root)} would come to lie at {place}, where the database has its folder {folder};"
                    " nothing was changed"
                )


def _holds(outer: str, inner: str) -> bool:
    return os.path.commonpath([outer, inner]) == outer


def _compare(catalog: Catalog, database: str, places: dict[int, str], tell: Tell) -> list[Moved]:
    """Compare a sample of each root with what lies in its new place. Raises RelocationRefused where it is not that."""
    roots = Roots(catalog.roots(), database)
    samples = {root: _sample(catalog, root) for root in places}
    of, done = sum(map(len, samples.values())), 0
    moved = []
    for root, place in places.items():
        wrong = []
        for image in samples[root]:
            fault = _difference(image, os.path.join(place, os.fsdecode(image.path)))
            wrong += [fault] if fault else []
            done += 1
            tell(done, of)
        sampled = len(samples[root])
        if len(wrong) * _MAY_DIFFER > sampled:
            missing = "is not there as it was" if len(wrong) == 1 else "are not there as they were"
            raise RelocationRefused(
                f"{place}: {len(wrong)} of {sampled} sampled images of {roots.folder(root)} {missing}"
                f" ({wrong[0]}); nothing was changed"
            )
        moved.append(Moved(roots.folder(root), place, catalog.count_of(root), sampled, sampled - len(wrong)))
    return moved


def _difference(image: Image, path: str) -> str | None:
    """Say how the file at a path is not this image; None where it is."""
    found = fingerprint(path)
    if isinstance(found, Failure):
        return f"{path}: {found.reason}"
    return None if found.digest == image.digest else f"{path}: another content"


def _sample(catalog: Catalog, root: int) -> list[Image]:
    """Return up to SAMPLE images of a root, the same ones each time."""
    numbers = catalog.ids_below(root, b"")
    chosen = random.Random(0).sample(numbers, min(SAMPLE, len(numbers)))
    return [image for image in map(catalog.image, sorted(chosen)) if image]
