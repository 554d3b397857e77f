"""What is measured of a collection at the end of a build, and again when it has changed by a quarter since.

What was measured is kept in the catalog's ``meta``. It is no part of the record: it follows from the images and can be
measured again at any time, so a damaged one counts as none. A reader that finds none measures for itself, from fewer
images, and keeps that in memory.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from weakref import WeakKeyDictionary

import numpy as np

from catdb.catalog import Catalog
from catdb.errors import DatabaseBusy
from catdb.scores import LEAST, SAMPLE, Chance, recorded
from catdb.store import Snapshot, Store

_CHANCE = "chance"  # the key in meta
_READER = 500  # images in the sample of a reader that has to measure: 125,000 pairs

_measured: WeakKeyDictionary[Store, Chance] = WeakKeyDictionary()  # by readers
_turn = threading.Lock()


def refresh(store: Store) -> None:
    """Measure and record what is missing or stale."""
    with store.snapshot() as snapshot:
        images = snapshot.catalog.count()
        known = recorded(snapshot.catalog.meta().get(_CHANCE))
        if images < LEAST or (known and not known.is_stale(images)):
            return
        chance = _measure(snapshot.catalog, SAMPLE, images)
    if chance:
        with suppress(DatabaseBusy), store.writing() as catalog, catalog.transaction():  # no reason to fail a build
            catalog.set_meta(_CHANCE, chance.to_text())


def chance(snapshot: Snapshot, images: int) -> Chance | None:
    """Return how alike random pairs of the collection of so many images are; None of fewer than LEAST."""
    if images < LEAST:
        return None
    known = recorded(snapshot.catalog.meta().get(_CHANCE))
    if known:
        return known
    with _turn:
        known = _measured.get(snapshot.store)
        if known is None or known.is_stale(images):
            known = _measure(snapshot.catalog, _READER, images)
            if known:
                _measured[snapshot.store] = known
    return known


def _measure(catalog: Catalog, count: int, images: int) -> Chance | None:
    vectors = catalog.sample(count)
    return Chance.of(np.array(vectors, np.float16), images) if vectors else None
