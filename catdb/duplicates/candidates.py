"""Which pairs of images are worth a look: the nearest of each by cosine, within shared categories. Pure numbers.

An image stands in four shards, and a copy nearly always in one of them (of 2,000 copies of 200 photographs 1,996 did,
and of those that were not both cropped and halved, all). Rows are compared in tiles, so that no matrix is larger than a
tile; every pair is taken in one category only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from catdb.encoding import unit
from catdb.search import Block

FLOOR = 0.7
"""Cosine below which nothing is a candidate. With mobilenet_v2 the least of copies changed in one way was 0.82."""

MOST = 8
"""Candidates of an image: the original of a copy was among the nearest three."""

_TILE = 1024  # rows compared with as many at a time
_BUFFER = 1 << 20  # pairs found before they are cut down to each image's nearest


def candidates(
    shards: Iterable[tuple[int, Sequence[Block]]],
    left_out: NDArray[np.int64],
    *,
    floor: float = FLOOR,
    most: int = MOST,
) -> NDArray[np.int64]:
    """Return the pairs (p, 2) of image ids, smaller id first, that are worth a look, in rising order.

    Those whose cosine is at least ``floor``, and of which one is among the ``most`` nearest of the other; equal cosines
    (to 4 decimals) by id. ``shards`` are categories with their blocks, one at a time; a pair that shares several is
    taken in the least of them. ``left_out``: ids, sorted, that are not to be seen.
    """
    pairs, cosines, held = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)], 0
    for category, blocks in shards:
        for found, values in _within(category, blocks, left_out, floor):
            pairs.append(found)
            cosines.append(values)
            held += len(found)
            if held > _BUFFER:
                near, close = _nearest(np.concatenate(pairs), np.concatenate(cosines), most)
                pairs, cosines, held = [near], [close], 0
    near, _ = _nearest(np.concatenate(pairs), np.concatenate(cosines), most)
    return near[np.lexsort((near[:, 1], near[:, 0]))]


def _within(
    category: int, blocks: Sequence[Block], left_out: NDArray[np.int64], floor: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the pairs of one category and their cosines, a tile of rows against another at a time."""
    seen = [_seen(block, left_out) for block in blocks]
    if sum(int(mask.sum()) for mask in seen) < 2:
        return
    features, ids, categories = (
        np.concatenate([getattr(block.rows, name)[mask] for block, mask in zip(blocks, seen, strict=True)])
        for name in ("features", "image_ids", "categories")
    )
    for top in range(0, len(ids), _TILE):
        above = unit(features[top : top + _TILE])
        for left in range(top, len(ids), _TILE):
            cosines = above @ (above if left == top else unit(features[left : left + _TILE])).T
            rows, columns = np.nonzero(np.triu(cosines >= floor, 1) if left == top else cosines >= floor)
            here = _least_common(categories[top + rows], categories[left + columns]) == category
            rows, columns = rows[here], columns[here]
            found = np.sort(np.stack([ids[top + rows], ids[left + columns]], 1), axis=1)
            yield found, np.round(cosines[rows, columns], 4)


def _seen(block: Block, left_out: NDArray[np.int64]) -> NDArray[np.bool_]:
    seen = ~np.isin(block.rows.image_ids, left_out)
    return seen if block.dead is None else seen & ~block.dead


def _least_common(one: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the least category (m,) that rows (m, 4) have in common with others; every pair has one."""
    common = (one[:, :, None] == other[:, None, :]).any(axis=2) & (one >= 0)
    least: NDArray[np.int32] = np.where(common, one, np.iinfo(np.int32).max).min(axis=1, initial=np.iinfo(np.int32).max)
    return least


def _nearest(
    pairs: NDArray[np.int64], cosines: NDArray[np.float32], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Keep the pairs of which one is among the other's nearest. What is dropped here would be so of more pairs, too."""
    owner, other = np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([pairs[:, 1], pairs[:, 0]])
    order = np.lexsort((other, -np.concatenate([cosines, cosines]), owner))
    first = np.searchsorted(owner[order], owner[order])  # where the owner's own begin
    kept = np.unique(order[np.arange(len(order)) - first < most] % max(1, len(pairs)))
    return pairs[kept], cosines[kept]
