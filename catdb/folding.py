"""When a category's shard is made anew, and what it holds then: which rows, of what kind, in which order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from catdb.blocks import arrange
from catdb.catalog import Catalog, Centroid, Load
from catdb.checksum import checksum
from catdb.encoding import Stored, directions
from catdb.projection import Projection, fit
from catdb.shard import Rows

FIT_SAMPLE = 20_000  # images from which a projection is fitted
FIT_LEAST = 2_000  # images below which shards hold whole vectors; or ten times the dimensions that are to be kept
_LEAST = 64  # waiting rows below which an existing shard is left alone
_SHARE = Fraction(1, 4)  # waiting rows, as a share of the shard, that are worth a new file
_DEAD = Fraction(1, 5)  # dead rows, likewise


def due(load: Load, has_shard: bool, *, at_rest: bool) -> bool:
    """Say whether a category is to be folded: while images still come in, or ``at_rest`` when a build has ended."""
    if load.dead and load.dead >= _DEAD * load.rows:
        return True
    if at_rest and not has_shard:
        return load.pending > 0
    least = 1 if at_rest else _LEAST
    return load.pending >= least and load.pending >= _SHARE * load.rows


def fitted(catalog: Catalog, *, force: bool) -> Projection | None:
    """Return a projection fitted to the images of a catalog; None where it is to have none.

    Nor has one that is not large enough, unless with ``force``: then as many images do as dimensions are to be kept.
    """
    dimension, dimensions = catalog.meta()["dimension"], catalog.meta().get("dimensions") or 0
    least = dimensions if force else max(FIT_LEAST, 10 * dimensions)
    if not dimensions or catalog.count() < least:
        return None
    return fit(map(catalog.vectors_of, catalog.spread(FIT_SAMPLE)), dimension, dimensions)


def merged(old: Rows, dead: NDArray[np.bool_] | None, new: Rows) -> Rows:
    """Return the rows of a shard that are not ``dead`` (None: all live), and new ones, in order of id."""
    alive = slice(None) if dead is None else ~dead
    rows = Rows(
        np.concatenate([old.features[alive], new.features]) if len(new) else old.features[alive],
        np.concatenate([old.image_ids[alive], new.image_ids]),
        np.concatenate([old.categories[alive], new.categories]),
    )
    return rows.take(np.argsort(rows.image_ids))


def in_blocks(category: int, rows: Rows, images: int) -> tuple[Rows, list[Centroid]]:
    """Order the rows of a category's shard, given in order of id, into blocks; ``images``: how many there are in all.

    What a shard holds is therefore a function of its rows and of that number.
    """
    order, starts = arrange(rows.features, images)
    rows = rows if len(starts) == 1 else rows.take(order)
    ends = [*starts[1:].tolist(), len(rows)]
    ranges = enumerate(zip(starts.tolist(), ends, strict=True))
    blocks = ((n, a, rows.features[a:b]) for n, (a, b) in ranges)
    return rows, [
        Centroid(category, n, first, len(part), mean(part).astype(np.float16), checksum(part))
        for n, first, part in blocks
    ]


def mean(features: Stored) -> NDArray[np.float32]:
    """Return the mean (d,) of what rows (n, d) stand for, n >= 1; a few at a time, with no float32 copy of all."""
    total = np.zeros(features.shape[1], np.float64)
    for start in range(0, len(features), 1024):
        total += directions(features[start : start + 1024]).sum(axis=0)
    return (total / len(features)).astype(np.float32)
