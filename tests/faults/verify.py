"""What every database must be like, whatever befell it: the one verification behind kills, full disks and power loss.

A database of these tests holds images by number: vector and categories follow from it (see stock), so its whole
content can be said as {path: number}, and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import stock

from catdb.check import check
from catdb.search import nearest
from catdb.store import Store

Content = dict[str, int]  # what a database holds, as {path: number}
EVERY = range(len(stock.CATEGORIES))
ANOTHER = 9999  # the image that every database must be able to take in


class Bad(AssertionError):
    """What is wrong with a database."""


def verify(place: Path, allowed: Sequence[Content | None]) -> None:
    """Raise Bad unless the database holds one of these contents wholly, for a reader and for the writer after it.

    None among the contents: that there is no database yet. Whatever it holds, it must check clean and take one more.
    """
    reader = Store(str(place), writable=False)
    try:
        seen = _seen(reader) if reader.exists() else None
    finally:
        reader.close()
    if seen not in allowed:
        raise Bad(f"holds {_differences(seen, allowed)}")
    writer = Store(str(place), wait=0.0)
    try:
        if None in allowed:
            writer.create(stock.META, stock.CATEGORIES)
        with writer.writing() as catalog:
            if writer.leftovers(catalog):
                raise Bad(f"the writer left {writer.leftovers(catalog)}")
            root = catalog.roots()
            if not root and seen:
                raise Bad("its root is gone")
            if not root:
                with catalog.transaction():
                    catalog.add_root(b"/photos", b"../photos", True)
        then = _seen(writer)
        if then != (seen or {}):
            raise Bad(f"the writer found {_differences(then, [seen])}")
        outcome = writer.commit([stock.put(ANOTHER)])
        writer.fold_all()
        if outcome != ["added"] or _seen(writer) != {**then, _path(ANOTHER): ANOTHER}:
            raise Bad("does not take one more image")
    finally:
        writer.close()


def _path(number: int) -> str:
    return stock.put(number).path.decode()


def _seen(store: Store) -> Content:
    """Return what a store holds, by its record and by search alike, once it has been checked."""
    problems = check(store).problems
    if problems:
        raise Bad("; ".join(f"{problem.kind} {problem.where}: {problem.detail}" for problem in problems[:3]))
    with store.snapshot() as snapshot:
        images = {image.id: image for image in snapshot.catalog.images()}
        content = {image.path.decode(): int.from_bytes(image.digest, "big") for image in images.values()}
        blocks = list(snapshot.blocks(EVERY))
        if snapshot.notes:
            raise Bad(str(snapshot.notes))
        for image in images.values():
            number = int.from_bytes(image.digest, "big")
            vector, wanted = snapshot.catalog.vector(image.id), stock.put(number)
            if vector is None or not np.array_equal(vector, wanted.vector):
                raise Bad(f"the vector of {image.path!r} is another one")
            if list(image.categories) != list(wanted.categories):
                raise Bad(f"the categories of {image.path!r} are {image.categories}")
            hits = nearest(wanted.vector, blocks, EVERY, 1)
            if hits.image_ids.tolist() != [image.id] or hits.similarities[0] < 0.99999:
                raise Bad(f"{image.path!r} is not found by its vector")
            if hits.scanned != len(images):
                raise Bad(f"a search compares {hits.scanned} images of {len(images)}")
    return content


def _differences(found: Content | None, allowed: Sequence[Content | None]) -> str:
    """Say in what a content differs from the last of those that are allowed."""
    wanted = allowed[-1]
    if found is None or wanted is None:
        return f"{found} where {wanted} should be"
    lost = {path: number for path, number in wanted.items() if found.get(path) != number}
    more = {path: number for path, number in found.items() if wanted.get(path) != number}
    return f"all but {lost} and, besides, {more}"
