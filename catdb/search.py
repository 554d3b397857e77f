"""Routing and exact top-k over blocks of rows: pure numbers, no files, no tables.

An image stands in the shard of each of its four categories, so several of the blocks that are searched may hold it. Its
row is compared where it is met first, and skipped in the others; thus each image is compared once, and a search of all
categories is an exact search without a second copy of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numkong
import numpy as np
from numpy.typing import NDArray

from catdb.shard import Rows

_CHUNK = 4096  # rows compared at a time: 12 MB at d = 1536, and a copy of that size where only some of them are wanted


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one category. ``dead`` says, where it is given, which of them are not to be seen."""

    category: int
    rows: Rows
    dead: NDArray[np.bool_] | None = None  # (b,)


@dataclass(frozen=True, slots=True)
class Hits:
    """The nearest images of one query, best first; equal similarities in order of image id."""

    image_ids: NDArray[np.int64]  # (m,), m <= k
    similarities: NDArray[np.float32]  # (m,), cosine
    scanned: int  # distinct images compared
    rows: int  # rows looked at for that: an image can stand in several


@dataclass(frozen=True)
class Regions:
    """Every block of every shard, by category, as a query is routed to them. ``rows`` is 0 for waiting images alone."""

    categories: NDArray[np.int64]  # (m,)
    first: NDArray[np.int64]  # (m,) the block's first row in its shard
    rows: NDArray[np.int64]  # (m,)
    means: NDArray[np.float16]  # (m, d)

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def shards(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The categories (s,), and the mean of all rows (s, d) of each."""
        categories, place = np.unique(self.categories, return_inverse=True)
        weights = np.maximum(self.rows, 1).astype(np.float32)
        means = np.zeros((len(categories), self.means.shape[1]), np.float32)
        for start in range(0, len(self), _CHUNK):
            piece = slice(start, start + _CHUNK)
            np.add.at(means, place[piece], self.means[piece] * weights[piece, None])
        return categories, means / np.bincount(place, weights).astype(np.float32)[:, None]

    def ordered(self, query: NDArray[np.float16]) -> NDArray[np.int64]:
        """Return all blocks (m,) in the order in which their mean points the way of a query (d,)."""
        return np.argsort(-similarities(self.means, query), kind="stable")


def similarities(features: NDArray[np.float16], query: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the cosine (b,) of rows (b, d) with a query (d,), to 2e-6 (held by a test) or better.

    The lengths are divided by, though rows are of unit length: rounded to float16 they are that no more, and an
    image would not quite resemble itself. float16 rows are compared as they lie; numpy would first make a float32 copy.
    """
    if not len(features):
        return np.empty(0, np.float32)
    return 1 - np.asarray(numkong.cdist(features, query[None], "angular"), np.float32).ravel()


def nearest(query: NDArray[np.float16], blocks: Iterable[Block], k: int) -> Hits:
    """Return the k images nearest to a unit query (d,) in blocks, each compared once though several may hold it."""
    best_ids, best = np.empty(0, np.int64), np.empty(0, np.float32)
    seen, scanned, rows = np.zeros(0, np.bool_), 0, 0
    for block in blocks:
        seen, fresh = _first_met(seen, block)
        image_ids = block.rows.image_ids[fresh]
        scanned += len(image_ids)
        rows += len(block.rows)
        found = _compare(block.rows.features, fresh, query)
        best_ids, best = top(np.concatenate([best_ids, image_ids]), np.concatenate([best, found]), k)
    return Hits(best_ids, np.clip(best, -1.0, 1.0), scanned, rows)


def _first_met(seen: NDArray[np.bool_], block: Block) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which images have been seen, by id, after a block; and which of its rows (b,) are the first of theirs."""
    ids = block.rows.image_ids
    last = int(ids.max(initial=-1))
    if last >= len(seen):
        seen = np.concatenate([seen, np.zeros(max(last + 1 - len(seen), len(seen)), np.bool_)])
    fresh = ~seen[ids]
    if block.dead is not None:
        fresh &= ~block.dead
    seen[ids[fresh]] = True
    return seen, fresh


def _compare(
    features: NDArray[np.float16], wanted: NDArray[np.bool_], query: NDArray[np.float16]
) -> NDArray[np.float32]:
    """Return the similarities of the wanted rows only, in their order."""
    if wanted.all():
        return similarities(features, query)
    chosen = np.flatnonzero(wanted)
    pieces = [similarities(features[chosen[i : i + _CHUNK]], query) for i in range(0, len(chosen), _CHUNK)]
    return np.concatenate(pieces) if pieces else np.empty(0, np.float32)


def neighbours(
    queries: NDArray[np.float16], own: NDArray[np.int64], blocks: Iterable[Block], k: int
) -> NDArray[np.int64]:
    """Return the ids (m, k) of the images nearest to each of many queries (m, d) at once, best first; -1 for none.

    ``own`` (m,) is an image that is left out of each answer. Rows are compared in float32, by one matrix product for
    a few thousand of them.
    """
    wanted = np.ascontiguousarray(queries.astype(np.float32).T)
    ids, best = np.full((len(own), k), -1, np.int64), np.full((len(own), k), -2.0, np.float32)
    seen = np.zeros(0, np.bool_)
    for block in blocks:
        seen, fresh = _first_met(seen, block)
        chosen = np.flatnonzero(fresh)
        for start in range(0, len(chosen), _CHUNK):
            rows = chosen[start : start + _CHUNK]
            names = block.rows.image_ids[rows]
            piece = block.rows.features[rows].astype(np.float32)
            piece /= np.linalg.norm(piece, axis=1, keepdims=True)
            found = (piece @ wanted).T
            found[own[:, None] == names] = -2.0
            if len(names) > k:
                places = np.argpartition(-found, k - 1, axis=1)[:, :k]
                found, names = np.take_along_axis(found, places, 1), names[places]
            else:
                names = np.broadcast_to(names, found.shape)
            ids, best = np.concatenate([ids, names], axis=1), np.concatenate([best, found], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            ids, best = np.take_along_axis(ids, order, 1), np.take_along_axis(best, order, 1)
    ids[best <= -2.0] = -1
    return ids


def top(
    image_ids: NDArray[np.int64], found: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k highest similarities and their image ids, best first; ties by id. k >= 1."""
    if len(found) > k:
        # Keep all that tie with the k-th, so that the cut is made by id and not by the order of partition.
        kth = np.partition(found, len(found) - k)[len(found) - k]
        keep = found >= kth
        image_ids, found = image_ids[keep], found[keep]
    order = np.lexsort((image_ids, -found))[:k]
    return image_ids[order], found[order]


def route(
    own: Sequence[int],
    regions: Regions,
    query: NDArray[np.float16],
    probes: int,
) -> list[int]:
    """Return the categories to probe: the query's own, most probable first, then those whose centroid is nearest.

    At most ``probes`` in all. Beyond the own four the centroid routes better than the classifier's next guesses.
    """
    probed = list(dict.fromkeys(int(category) for category in own))[:probes]
    if len(probed) < probes and len(regions):
        categories, centroids = regions.shards
        lengths = np.linalg.norm(centroids, axis=1)
        closeness = centroids @ query.astype(np.float32) / np.where(lengths > 0, lengths, 1)
        taken = set(probed)
        nearest_first = (int(categories[i]) for i in np.argsort(-closeness, kind="stable"))
        probed += [category for category in nearest_first if category not in taken][: probes - len(probed)]
    return probed
