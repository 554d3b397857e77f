"""What is measured of a collection at the end of a build, and again when it has changed by a quarter since.

What was measured is kept in the catalog's ``meta``. It is no part of the record: it follows from the images and can be
measured again at any time, so a damaged one counts as none. A reader that finds none measures for itself, from fewer
images, and keeps that in memory.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from catdb import recall as recalling
from catdb import search
from catdb.catalog import Catalog
from catdb.errors import DatabaseBusy
from catdb.recall import Recall
from catdb.scores import LEAST, SAMPLE, Chance, recorded
from catdb.snapshot import Snapshot
from catdb.store import Store

_CHANCE = "chance"  # the keys in meta
_RECALL = "recall"
_READER = 500  # images in the sample of a reader that has to measure: 125,000 pairs
_DAMAGED = -2.0  # below any cosine: of an image without a sound vector nothing is learned
_WORK = 200_000_000  # products of an image and a query that a reader measures recall with: some seconds


def refresh(store: Store) -> None:
    """Measure and record what is missing or stale."""
    found: dict[str, str] = {}
    with store.snapshot() as snapshot:
        images, meta = snapshot.catalog.count(), snapshot.catalog.meta()
        known = recorded(meta.get(_CHANCE))
        if images >= LEAST and (known is None or known.is_stale(images)):
            chance = _measure(snapshot.catalog, SAMPLE, images)
            found |= {_CHANCE: chance.to_text()} if chance else {}
        if images >= recalling.LEAST:
            learned = recalling.recorded(meta.get(_RECALL))
            if learned is None or learned.is_stale(images, len(snapshot.regions())):
                learned = _learn(snapshot, recalling.SAMPLE, images)
                found |= {_RECALL: learned.to_text()} if learned else {}
    if found:
        with suppress(DatabaseBusy), store.writing() as catalog, catalog.transaction():  # no reason to fail a build
            for key, text in found.items():
                catalog.set_meta(key, text)


def recall(snapshot: Snapshot, images: int) -> Recall | None:
    """Return how far a search must go in the collection of so many images; None where an exact one costs nothing."""
    if images < recalling.LEAST:
        return None
    catalog = snapshot.catalog
    known = catalog.once("recall", lambda: recalling.recorded(catalog.meta().get(_RECALL)))
    if known:
        return known
    cache = snapshot.store.cache
    with cache.measuring:
        known = cache.recall
        if known is None or known.is_stale(images, len(snapshot.regions())):
            known = _learn(snapshot, max(100, min(recalling.SAMPLE, _WORK // images)), images)
            cache.recall = known or cache.recall
    return known


def _learn(snapshot: Snapshot, count: int, images: int) -> Recall | None:
    sample = snapshot.catalog.sample(count)
    own = np.array([image for image, _ in sample], np.int64)
    regions, encoding = snapshot.regions(), snapshot.encoding
    queries = encoding.short(np.array([vector for _, vector in sample], np.float16))
    nearest = search.neighbours(queries, own, snapshot.blocks(snapshot.populated), encoding.candidates(recalling.K))
    if not encoding.lossless:  # then answers are ranked by whole vectors in the end, and so are these
        pairs = zip(sample, nearest, strict=True)
        nearest = np.array([_by_whole_vectors(snapshot, vector, images) for (_, vector), images in pairs], np.int64)
    homes = snapshot.homes(regions, np.unique(np.append(nearest, own)))
    return recalling.learn(queries, nearest, homes, regions, own, images)


def _by_whole_vectors(snapshot: Snapshot, vector: NDArray[np.float16], images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the K images (K,) nearest to a whole vector, of some (-1 for none), best first; -1 for none."""
    images = images[images >= 0]
    best, cosines = snapshot.nearest(vector, images, recalling.K, np.full(len(images), _DAMAGED, np.float32))
    best = best[cosines > _DAMAGED]
    return np.append(best, np.full(recalling.K - len(best), -1, np.int64))


def chance(snapshot: Snapshot, images: int) -> Chance | None:
    """Return how alike random pairs of the collection of so many images are; None of fewer than LEAST."""
    if images < LEAST:
        return None
    catalog = snapshot.catalog
    known = catalog.once("chance", lambda: recorded(catalog.meta().get(_CHANCE)))
    if known:
        return known
    cache = snapshot.store.cache
    with cache.measuring:
        known = cache.chance
        if known is None or known.is_stale(images):
            known = _measure(catalog, _READER, images)
            cache.chance = known or cache.chance
    return known


def _measure(catalog: Catalog, count: int, images: int) -> Chance | None:
    vectors = [vector for _, vector in catalog.sample(count)]
    return Chance.of(np.array(vectors, np.float16), images) if vectors else None
