"""Routing and exact top-k over blocks of rows: pure numbers, no files, no tables.

An image stands in the shard of each of its four categories, so several of the blocks that are searched may hold it. Its
row counts where it is met first, and not in the others; thus each image is compared once, and a search of all
categories is an exact search without a second copy of the vectors.

Rows are compared as they lie, by as many threads as there are cores; one of them gathers what is to be compared, and
puts in order what was found. Several queries are answered in one go: each row is read once for all that ask for it, and
compared with them by one matrix product. That rounds otherwise, so what may be among the best by it is compared once
more as for a query alone: an answer does not depend on what else was asked. A query is of the same numbers as the rows,
float16 or int8. Beyond the rows a search holds a byte for each image id, which says who has seen it, or up to four for
several queries; and for each thread a few copied rows, 1 MB, and the similarities of 32,000 rows, 0.1 MB a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import chain
from typing import Literal

import numkong
import numpy as np
from numpy.typing import NDArray

from catdb import threads
from catdb.encoding import Encoding, Stored, unit
from catdb.shard import Rows

_CHUNK = 4096  # rows compared at a time by one thread: 12 MB at d = 1536
_BATCH = 2048  # rows that are worth a thread's while, where those of several blocks are compared
MOST = 32  # queries of one search: each is a bit of what says who has seen an image
ALL = (1 << MOST) - 1
_SEVERAL = 3  # queries from which a matrix product is faster than a pass for each
_FEW = 0.3  # of a piece's rows, below which the wanted ones are copied: three are read in the time that one is copied
_FEW_OF_SEVERAL = 0.6  # likewise where several queries are compared with each: reading is the less of it then
_COPIED = 256  # rows copied at a time: they stay in a core's cache
_COARSE = Encoding(store="int8")
_BELOW = -2.0  # less than any similarity
_ROUNDED = 8e-6  # by which two rows may change places: either way of comparing gives each similarity to 2e-6

_Metric = Literal["angular", "dot"]
_Comparison = Callable[[Stored, Stored], NDArray[np.float32]]
_Found = tuple[int, NDArray[np.int64], NDArray[np.float32]]  # of a query: ids, similarities
_Bits = NDArray[np.unsignedinteger]  # whose numbers have a bit for each query of a search


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one category. ``dead`` says, where it is given, which of them are not to be seen.

    ``asked``: which queries they are compared with, a bit for each.
    """

    category: int
    rows: Rows
    dead: NDArray[np.bool_] | None = None  # (b,)
    asked: int = ALL


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

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """The lengths (s,) of the means of the shards, to divide by: 1 for a mean of zeros."""
        lengths = np.linalg.norm(self.shards[1], axis=1)
        return np.where(lengths > 0, lengths, np.float32(1))

    def nearest(self, query: NDArray[np.float16]) -> Callable[[int], NDArray[np.int64]]:
        """Return what gives the first blocks in the order in which their mean points the way of a query (d,)."""
        return self.nearest_to_each(query[None])[0]

    @cached_property
    def _rounded(self) -> tuple[Stored, NDArray[np.float32]]:
        """The means as int8 (m, d), and their lengths (m, 1)."""
        pieces = (self.means[start : start + _BATCH] for start in range(0, max(1, len(self)), _BATCH))
        rounded, lengths = zip(*chain.from_iterable(threads.side_by_side(_rounded, pieces)), strict=True)
        return np.concatenate(rounded), np.concatenate(lengths)

    def nearest_to_each(self, queries: NDArray[np.float16]) -> list[Callable[[int], NDArray[np.int64]]]:
        """Return that for each of several queries (m, d).

        All are rounded to int8: half as much is to be read, and what order that gives is as good to search in.
        """
        every = np.arange(len(self))
        rounded, lengths = self._rounded
        closeness = np.ascontiguousarray((_shared(rounded, _COARSE.rows_of_short(queries), _dots) / lengths).T)
        return [partial(_first, every, row) for row in closeness]


def _rounded(means: NDArray[np.float16]) -> tuple[Stored, NDArray[np.float32]]:
    rounded = _COARSE.rows_of_short(means)
    lengths = np.linalg.norm(rounded.astype(np.float32), axis=1, keepdims=True)
    return rounded, np.where(lengths > 0, lengths, np.float32(1))


def _first(places: NDArray[np.int64], closeness: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    return top(places, closeness, count)[0]


def similarities(features: Stored, query: Stored) -> NDArray[np.float32]:
    """Return the cosine (b,) of rows (b, d) with a query (d,), to 2e-6 (held by a test) or better."""
    return cosines(features, query[None])[:, 0]


def cosines(features: Stored, queries: Stored) -> NDArray[np.float32]:
    """Return the cosine (b, m) of rows (b, d) with each of several queries (m, d), to 2e-6 or better.

    The lengths are divided by, though rows are of unit length: rounded to float16 they are that no more, and an
    image would not quite resemble itself. Rows are compared as they lie; numpy would first make a float32 copy.
    """
    return _shared(features, queries, _cosines)


def _shared(features: Stored, queries: Stored, compare: _Comparison) -> NDArray[np.float32]:
    """Compare rows (b, d) with queries (m, d), many rows by all threads."""
    if len(features) <= _CHUNK:
        return compare(features, queries)
    turns = -(-len(features) // (_CHUNK * threads.COUNT))  # of all threads, each with as much as the others
    size = -(-len(features) // (turns * threads.COUNT))
    pieces = (features[start : start + size] for start in range(0, len(features), size))
    return np.concatenate(
        list(chain.from_iterable(threads.side_by_side(lambda piece: compare(piece, queries), pieces)))
    )


def _cosines(features: Stored, queries: Stored) -> NDArray[np.float32]:
    return 1 - _angular(features, queries)


def _compare(metric: _Metric, features: Stored, queries: Stored) -> NDArray[np.float32]:
    """Return what numkong says of rows (b, d) and queries (m, d) in a metric (b, m)."""
    if not len(features):
        return np.empty((0, len(queries)), np.float32)
    if len(queries) < _SEVERAL:
        return _one_by_one(metric, features, queries)
    return np.asarray(_PACKED[metric](features, numkong.dots_pack(queries)), np.float32)


def _one_by_one(metric: _Metric, features: Stored, queries: Stored) -> NDArray[np.float32]:
    return np.asarray(numkong.cdist(features, queries, metric), np.float32)


_PACKED = {"angular": numkong.angulars_packed, "dot": numkong.dots_packed}
_angular = partial(_compare, "angular")  # what is left to 1 of the cosines
_dots = partial(_compare, "dot")  # the dot products, for which the lengths of rows are not computed anew


@dataclass(frozen=True, slots=True)
class _Piece:
    """At most _CHUNK rows of a block, and which of them are met for the first time, by which queries."""

    features: Stored  # (n, d)
    image_ids: NDArray[np.int64]  # (n,)
    asked: int  # queries, a bit for each
    fresh: _Bits  # (n,) likewise
    count: int  # rows that any of them meets first


def nearest(query: Stored, blocks: Iterable[Block], k: int) -> Hits:
    """Return the k images nearest to a unit query (d,) in blocks, each compared once though several may hold it."""
    return nearest_to_each(query[None], blocks, k)[0]


def nearest_to_each(queries: Stored, blocks: Iterable[Block], k: int, *, last: int = 0) -> list[Hits]:
    """Return for each of at most MOST unit queries (m, d) the k images nearest to it in the blocks that it asks for.

    ``last``: the greatest image id, where it is known; room is then made for all of them at once.
    """
    count = len(queries)
    scanned, rows = [0] * count, [0] * count
    best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * count
    bars = np.full(count, _BELOW, np.float32)  # what an image must reach to be among the best, as far as is known

    def pieces() -> Iterator[_Piece]:
        for piece in _pieces(blocks, (1 << count) - 1, last):
            asking = _bits(piece.asked)
            for number in asking:
                own = piece.count if len(asking) == 1 else np.count_nonzero(piece.fresh & (1 << number))
                scanned[number] += int(own)
                rows[number] += len(piece.image_ids)
            yield piece

    def compare(batch: list[_Piece]) -> list[tuple[_Piece, NDArray[np.float32]]]:
        return [(piece, _distances(piece, queries[_bits(piece.asked)])) for piece in batch]

    for window in threads.side_by_side(compare, _batches(pieces())):
        alike: dict[int, list[tuple[_Piece, NDArray[np.float32]]]] = {}  # by who asks
        for piece, distances in chain.from_iterable(window):
            alike.setdefault(piece.asked, []).append((piece, distances))
        for compared in alike.values():
            for number, image_ids, values in _good(compared, queries, bars, k):
                known_ids, known = best[number]
                best[number] = top(np.concatenate([known_ids, image_ids]), np.concatenate([known, values]), k)
                if len(best[number][1]) == k:
                    bars[number] = best[number][1][-1]
    return [
        Hits(image_ids, np.clip(values, -1.0, 1.0), scanned[number], rows[number])
        for number, (image_ids, values) in enumerate(best)
    ]


@lru_cache
def _bits(asked: int) -> list[int]:
    """Return the numbers of the queries whose bits are set."""
    return [number for number in range(asked.bit_length()) if asked >> number & 1]


def _pieces(blocks: Iterable[Block], queries: int, last: int = 0) -> Iterator[_Piece]:
    """Yield the rows of blocks that any of ``queries`` ask for. Fresh is what each meets first, and is not dead."""
    unseen: _Bits = np.full(last + 1, queries, np.min_scalar_type(queries))  # by whom, for each image by its id
    for block in blocks:
        asked = block.asked & queries
        for start in range(0, len(block.rows) if asked else 0, _CHUNK):
            part = slice(start, start + _CHUNK)
            image_ids = block.rows.image_ids[part]
            try:
                before = unseen[image_ids]
            except IndexError:
                more = max(int(image_ids.max()) + 1 - len(unseen), len(unseen))
                unseen = np.concatenate([unseen, np.full(more, queries, unseen.dtype)])
                before = unseen[image_ids]
            fresh = before if asked == queries else before & unseen.dtype.type(asked)
            if block.dead is not None:
                fresh = np.where(block.dead[part], unseen.dtype.type(0), fresh)
            unseen[image_ids] = 0 if fresh is before else before & ~fresh
            yield _Piece(block.rows.features[part], image_ids, asked, fresh, int(np.count_nonzero(fresh)))


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Yield pieces in groups of which each is worth a thread's while, for a block may have but a few rows."""
    batch: list[_Piece] = []
    rows = 0
    for piece in pieces:
        if batch and rows + len(piece.fresh) > _BATCH:
            yield batch
            batch, rows = [], 0
        batch.append(piece)
        rows += len(piece.fresh)
    if batch:
        yield batch


def _good(
    compared: Sequence[tuple[_Piece, NDArray[np.float32]]], queries: Stored, bars: NDArray[np.float32], k: int
) -> Iterator[_Found]:
    """Yield of pieces for which the same queries ask, and their distances, what may be among each one's k best.

    That is (query, ids, similarities), in no order, and of an image only the row in which the query met it first.
    """
    pieces, distances = zip(*compared, strict=True)
    asking = _bits(pieces[0].asked)
    image_ids = np.concatenate([piece.image_ids for piece in pieces])
    fresh = np.concatenate([piece.fresh for piece in pieces])
    found = 1 - np.concatenate(distances)
    for number, row in zip(asking, found.T, strict=True):
        first = fresh if len(asking) == 1 else fresh & fresh.dtype.type(1 << number)
        margin = np.float32(0 if len(asking) < _SEVERAL else _ROUNDED)
        good = np.flatnonzero((row >= bars[number] - margin) & (first != 0))
        if margin and len(good):
            good = good[row[good] >= _kth(row[good], k) - margin]
            yield number, image_ids[good], _alone(pieces, good, queries[number])
        elif len(good):
            yield number, image_ids[good], row[good]


def _alone(pieces: Sequence[_Piece], rows: NDArray[np.int64], query: Stored) -> NDArray[np.float32]:
    """Return the similarities (m,) of some rows (m,) of pieces, counted through all of them, as of a query alone."""
    sizes = [len(piece.image_ids) for piece in pieces]
    starts = np.cumsum([0, *sizes[:-1]])
    which = np.searchsorted(starts, rows, side="right") - 1
    places = list(zip(which.tolist(), (rows - starts[which]).tolist(), strict=True))
    found = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _COPIED):
        some = np.array([pieces[piece].features[row] for piece, row in places[start : start + _COPIED]])
        found[start : start + _COPIED] = 1 - _one_by_one("angular", some, query[None])[:, 0]
    return found


def _distances(piece: _Piece, queries: Stored) -> NDArray[np.float32]:
    """Return what is left to 1 of the cosines (n, m) of a piece's rows with queries; anything for what nobody wants."""
    if piece.count >= (_FEW if len(queries) < _SEVERAL else _FEW_OF_SEVERAL) * len(piece.fresh):
        return _angular(piece.features, queries)
    chosen = np.flatnonzero(piece.fresh)
    copied = np.empty((min(len(chosen), _COPIED), piece.features.shape[1]), piece.features.dtype)
    found = np.zeros((len(piece.fresh), len(queries)), np.float32)
    for start in range(0, len(chosen), _COPIED):
        part = chosen[start : start + _COPIED]
        np.take(piece.features, part, axis=0, out=copied[: len(part)], mode="clip")  # "raise" would copy once more
        found[part] = _angular(copied[: len(part)], queries)
    return found


def neighbours(
    queries: NDArray[np.float16], own: NDArray[np.int64], blocks: Iterable[Block], k: int
) -> NDArray[np.int64]:
    """Return the ids (m, k) of the images nearest to each of many queries (m, d) at once, best first; -1 for none.

    ``own`` (m,) is an image that is left out of each answer. Rows are compared in float32, by one matrix product for
    a few thousand of them.
    """
    wanted = np.ascontiguousarray(queries.astype(np.float32).T)
    ids, best = np.full((len(own), k), -1, np.int64), np.full((len(own), k), -2.0, np.float32)
    for batch in _batches(_pieces(blocks, 1)):
        names = np.concatenate([piece.image_ids[piece.fresh != 0] for piece in batch])
        rows = unit(np.concatenate([piece.features[piece.fresh != 0] for piece in batch]))
        found = (rows @ wanted).T
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
        keep = found >= _kth(found, k)
        image_ids, found = image_ids[keep], found[keep]
    order = np.lexsort((image_ids, -found))[:k]
    return image_ids[order], found[order]


def _kth(found: NDArray[np.float32], k: int) -> np.float32:
    """Return the k-th highest of values (n,), or what is below all where they are no more."""
    if len(found) <= k:
        return np.float32(_BELOW)
    kth: np.float32 = np.partition(found, len(found) - k)[len(found) - k]
    return kth


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
        closeness = centroids @ query.astype(np.float32) / regions.lengths
        taken = set(probed)
        nearest_first = (int(categories[i]) for i in np.argsort(-closeness, kind="stable"))
        probed += [category for category in nearest_first if category not in taken][: probes - len(probed)]
    return probed
