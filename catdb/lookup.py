"""From a query image to its point: what the database knows of it, or else what the network makes of its pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as PILImage

from catdb.backbones import Engine
from catdb.errors import ImageUnreadable
from catdb.images import Content, Failure, Stamp, decode, fingerprint, fit
from catdb.images.find import explain
from catdb.questions import Point
from catdb.roots import Roots, absolute
from catdb.snapshot import Snapshot
from catdb.store import Store

Readable = TypeVar("Readable")
Query = str | os.PathLike[str] | PILImage | NDArray[np.uint8]


def points(store: Store, engine: Engine, queries: Sequence[Query]) -> list[Point | Failure]:
    """Return the point of each query, a Failure for one that cannot be read; new images share one network pass.

    An image of the database whose file is not there is no failure: the notes of its point say that it is away. Raises
    BackboneMismatch where the database was made anew with another network since it was opened.
    """
    found: list[Any] = [_look_up(store, engine, query) for query in queries]
    new = [place for place, point in enumerate(found) if isinstance(point, np.ndarray)]
    if new:
        store.require_maker(engine.maker)
        made = embedded(engine, np.stack([found[place] for place in new]))
        for place, point in zip(new, made, strict=True):
            found[place] = point
    return found


def embedded(engine: Engine, pixels: NDArray[np.uint8]) -> list[Point]:
    """Return the points of images (n, h, w, 3), all of one network pass."""
    made = engine.embed(pixels)
    rows = zip(made.features, made.categories.tolist(), made.probabilities.tolist(), strict=True)
    return [Point(vector.astype(np.float16), tuple(zip(*ranked, strict=True))) for vector, *ranked in rows]


def readable(found: Readable | Failure) -> Readable:
    """Return what was made of an image that could be read. Raises ImageUnreadable for another one."""
    if isinstance(found, Failure):
        raise ImageUnreadable(found.reason, found.path)
    return found


def path_of(query: Query) -> str | None:
    return absolute(query) if isinstance(query, str | os.PathLike) else None


def _look_up(store: Store, engine: Engine, query: Query) -> Point | Failure | NDArray[np.uint8]:
    """Return what the database knows of a query image, else its pixels, for the network."""
    if isinstance(query, PILImage | np.ndarray):
        try:
            return fit(query, engine.input_size)[0]
        except ImageUnreadable as error:
            return Failure("", str(error))
    if not isinstance(query, str | os.PathLike):
        raise TypeError(f"a query is a path, a PIL image or uint8 pixels (h, w, 3), not {type(query).__name__}")
    path = absolute(query)
    with store.snapshot() as snapshot:
        stored = _stored(snapshot, store.path, path)
    if stored:
        return stored
    content = fingerprint(path)
    if not isinstance(content, Content):
        return content
    with store.snapshot() as snapshot:
        for image in snapshot.catalog.images_of(content.digest):
            stored = point_of(snapshot, image.id)
            if stored:
                return stored
    try:
        return decode(path, engine.input_size)[0]
    except ImageUnreadable as error:
        return Failure(path, str(error))


def _stored(snapshot: Snapshot, database: str, path: str) -> Point | None:
    """Return what is stored of an indexed file that has not changed since, or with a note of one that is away."""
    place = Roots(snapshot.catalog.roots(), database).place(path)
    image = snapshot.catalog.image_at(*place) if place else None
    if image is None:
        return None
    try:
        return point_of(snapshot, image.id) if Stamp.of(os.stat(path)) == image.stamp else None
    except OSError as error:
        point = None if os.path.lexists(path) else point_of(snapshot, image.id)
        note = f"{path} cannot be read ({explain(error)}): searched by what the database knows of it"
        return point and replace(point, notes=(note,))


def point_of(snapshot: Snapshot, image: int) -> Point | None:
    """Return what is stored of an image; None where it is not there or damaged."""
    known, vector = snapshot.catalog.image(image), snapshot.catalog.vector(image)
    if known is None or vector is None:
        return None
    return Point(vector, tuple(zip(known.categories, known.probabilities, strict=True)))
