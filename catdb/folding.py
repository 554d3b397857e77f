"""When a category's shard is made anew, and in which order its rows lie in it then: pure numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from catdb.blocks import arrange
from catdb.catalog import Centroid, Load
from catdb.encoding import Stored, directions
from catdb.shard import Rows

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


def in_blocks(category: int, rows: Rows, images: int) -> tuple[Rows, list[Centroid]]:
    """Order the rows of a category's shard, given in order of id, into blocks; ``images``: how many there are in all.

    What a shard holds is therefore a function of its rows and of that number.
    """
    order, starts = arrange(rows.features, images)
    rows = rows if len(starts) == 1 else rows.take(order)
    ends = [*starts[1:].tolist(), len(rows)]
    ranges = enumerate(zip(starts.tolist(), ends, strict=True))
    return rows, [Centroid(category, n, a, b - a, mean(rows.features[a:b]).astype(np.float16)) for n, (a, b) in ranges]


def mean(features: Stored) -> NDArray[np.float32]:
    """Return the mean (d,) of what rows (n, d) stand for, n >= 1; a few at a time, with no float32 copy of all."""
    total = np.zeros(features.shape[1], np.float64)
    for start in range(0, len(features), 1024):
        total += directions(features[start : start + 1024]).sum(axis=0)
    return (total / len(features)).astype(np.float32)
