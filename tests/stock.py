"""A store of made-up vectors, for the tests that stand below the level of images and networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catdb.catalog import Put
from catdb.images import Stamp
from catdb.search import nearest
from catdb.snapshot import Snapshot
from catdb.store import Store

DIMENSION = 12
CATEGORIES = [(f"c{number}", f"category {number}") for number in range(10)]
META = {"dimension": DIMENSION, "backbone": "made up"}


def unit(seed: int) -> NDArray[np.float16]:
    """Return the unit vector (12,) of a seed."""
    values = np.random.default_rng(seed).normal(size=DIMENSION)
    return (values / np.linalg.norm(values)).astype(np.float16)


def put(number: int, categories: Sequence[int] | None = None, *, root: int = 1, path: bytes | None = None) -> Put:
    """Return the image of a number: its file, its vector, and four categories (by default from the number too)."""
    chosen = [(number + step) % 10 for step in (0, 1, 3, 6)] if categories is None else categories
    return Put(
        root=root,
        path=b"%04d.png" % number if path is None else path,
        stamp=Stamp(100 + number, 10**18 + number, 500 + number),
        digest=number.to_bytes(16, "big"),
        width=40,
        height=30,
        vector=unit(number),
        categories=chosen,
        probabilities=[0.5, 0.25, 0.125, 0.0625][: len(chosen)],
    )


def make(path: Path) -> Store:
    """Make an empty database with one whole root, number 1."""
    store = Store(str(path), wait=0.0)
    store.create(META, CATEGORIES)
    with store.writing() as catalog, catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    return store


def fill(store: Store, numbers: Sequence[int]) -> None:
    """Store the images of these numbers; they wait to be folded."""
    assert store.commit([put(number) for number in numbers]) == ["added"] * len(numbers)


def delete(store: Store, *images: int) -> None:
    with store.writing() as catalog, catalog.transaction():
        for image in images:
            catalog.delete(image)


def answers(store: Store, seed: int = 0, k: int = 1000) -> tuple[list[int], list[float], list[str]]:
    """Search everything for the vector of a seed; return the ids, the similarities, and the notes."""
    with store.snapshot() as snapshot:
        return found_in(snapshot, seed, k)


def found_in(snapshot: Snapshot, seed: int = 0, k: int = 1000) -> tuple[list[int], list[float], list[str]]:
    """Do the same in a snapshot."""
    hits = nearest(unit(seed), snapshot.blocks(range(10)), k)
    return hits.image_ids.tolist(), hits.similarities.tolist(), snapshot.notes


def shards(store: Store) -> dict[str, bytes]:
    """Return every file below ``shards``, by its path from there."""
    top = Path(store.path, "shards")
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
