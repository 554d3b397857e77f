"""Routing and exact top-k over blocks of rows: pure numbers, no files, no tables.

An image stands in the shard of each of its four categories, so several of the blocks that are searched may hold it. Its
row counts where it is met first, and not in the others; thus each image is compared once, and a search of all
categories is an exact search without a second copy of the vectors.

Rows are compared as they lie, by as many threads as there are cores, in pieces of which each keeps its best k. Several
queries are answered in one go: each row is read once for all that ask for it, and compared with them by one matrix
product. A query is of the same numbers as the rows, float16 or int8. Beyond the rows a search holds a byte for each
image id, which says what has been seen, or up to four for several queries; and for each thread a few copied rows: 1 MB.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from itertools import chain, islice
from typing import Generic, TypeVar

import numkong
import numpy as np
from numpy.typing import NDArray

from catdb.encoding import Encoding, Stored, unit
from catdb.shard import Rows

_CHUNK = 4096  # rows compared at a time by one thread: 12 MB at d = 1536
MOST = 32  # queries of one search: each is a bit of what says who has seen an image
ALL = (1 << MOST) - 1
_SEVERAL = 3  # queries from which a matrix product is faster than a pass for each
_FEW = 0.3  # of a piece's rows, below which the wanted ones are copied: three are read in the time that one is copied
_FEW_OF_SEVERAL = 0.6  # likewise where several queries are compared with each: reading is the less of it then
_COPIED = 256  # rows copied at a time: they stay in a core's cache
_THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
_AHEAD = 4  # pieces waiting for each thread: what they hold in memory is bounded
_SPARE = 64  # blocks, beyond twice as many as are asked for, of which the nearest are chosen by their means as they are
_COARSE = Encoding(store="int8")
_NOT, _BELOW = -3.0, -2.0  # no similarity, and less than any: where nothing is compared

_Bits = NDArray[np.unsignedinteger]  # whose numbers have a bit for each query of a search
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


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
    by_product: bool = False  # with those of other queries, by which a similarity can differ in its last digit


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
    def _rounded(self) -> Stored:
        """The means as int8 (m, d): half of what is to be read, and close enough to leave most of them out."""
        return _COARSE.rows_of_short(self.means)

    def nearest_to_each(self, queries: NDArray[np.float16]) -> list[Callable[[int], NDArray[np.int64]]]:
        """Return that for each of several queries (m, d)."""
        every = np.arange(len(self))
        closeness = np.ascontiguousarray(cosines(self._rounded, _COARSE.rows_of_short(queries)).T)

        def first(query: NDArray[np.float16], rough: NDArray[np.float32], count: int) -> NDArray[np.int64]:
            places, _ = top(every, rough, _SPARE + 2 * count)
            return top(places, similarities(self.means[places], query), count)[0]

        return [partial(first, *one) for one in zip(queries, closeness, strict=True)]


def similarities(features: Stored, query: Stored) -> NDArray[np.float32]:
    """Return the cosine (b,) of rows (b, d) with a query (d,), to 2e-6 (held by a test) or better."""
    return cosines(features, query[None])[:, 0]


def cosines(features: Stored, queries: Stored) -> NDArray[np.float32]:
    """Return the cosine (b, m) of rows (b, d) with each of several queries (m, d), to 2e-6 or better.

    The lengths are divided by, though rows are of unit length: rounded to float16 they are that no more, and an
    image would not quite resemble itself. Rows are compared as they lie; numpy would first make a float32 copy.
    """
    if len(features) <= _CHUNK:
        return _cosines(features, queries)
    turns = -(-len(features) // (_CHUNK * _THREADS))  # of all threads, each with as much as the others
    size = -(-len(features) // (turns * _THREADS))
    pieces = (features[start : start + size] for start in range(0, len(features), size))
    return np.concatenate(list(_side_by_side(lambda piece: _cosines(piece, queries), pieces)))


def _cosines(features: Stored, queries: Stored) -> NDArray[np.float32]:
    if not len(features):
        return np.empty((0, len(queries)), np.float32)
    if len(queries) < _SEVERAL:  # which it compares one by one
        return 1 - np.asarray(numkong.cdist(features, queries, "angular"), np.float32)
    return 1 - np.asarray(numkong.angulars_packed(features, numkong.dots_pack(queries)), np.float32)


@dataclass(frozen=True, slots=True)
class _Piece:
    """At most _CHUNK rows, and which of them are met for the first time, by which queries."""

    features: Stored  # (n, d)
    image_ids: NDArray[np.int64]  # (n,)
    asked: int  # queries, a bit for each
    fresh: _Bits  # (n,) likewise
    wanted: NDArray[np.bool_]  # (n,) by any of them


def nearest(query: Stored, blocks: Iterable[Block], k: int) -> Hits:
    """Return the k images nearest to a unit query (d,) in blocks, each compared once though several may hold it."""
    return nearest_to_each(query[None], blocks, k)[0]


def nearest_to_each(queries: Stored, blocks: Iterable[Block], k: int, *, last: int = 0) -> list[Hits]:
    """Return for each of at most MOST unit queries (m, d) the k images nearest to it in the blocks that it asks for.

    ``last``: the greatest image id, where it is known; room is then made for all of them at once.
    """
    count = len(queries)
    scanned, rows, by_product = [0] * count, [0] * count, [False] * count
    best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * count
    bars = np.full(count, _BELOW, np.float32)  # what an image must reach to be among the best, as far as is known

    def pieces() -> Iterator[_Piece]:
        for piece in _pieces(blocks, (1 << count) - 1, last):
            asking = _bits(piece.asked)
            for number in asking:
                own = piece.wanted if len(asking) == 1 else piece.fresh & piece.fresh.dtype.type(1 << number)
                scanned[number] += int(np.count_nonzero(own))
                rows[number] += len(own)
                by_product[number] |= len(asking) >= _SEVERAL
            yield piece

    for several in _side_by_side(lambda batch: list(_best(batch, queries, bars, k)), _batches(pieces())):
        for number, image_ids, values in several:
            known_ids, known = best[number]
            best[number] = top(np.concatenate([known_ids, image_ids]), np.concatenate([known, values]), k)
            if len(best[number][1]) == k:
                bars[number] = best[number][1][-1]
    return [
        Hits(image_ids, np.clip(values, -1.0, 1.0), scanned[number], rows[number], by_product[number])
        for number, (image_ids, values) in enumerate(best)
    ]


@lru_cache
def _bits(asked: int) -> list[int]:
    """Return the numbers of the queries whose bits are set."""
    return [number for number in range(asked.bit_length()) if asked >> number & 1]


def _pieces(blocks: Iterable[Block], queries: int, last: int = 0) -> Iterator[_Piece]:
    """Yield the rows of blocks that any of ``queries`` ask for. Fresh is what each meets first, and is not dead."""
    seen: _Bits = np.zeros(last + 1, np.min_scalar_type(queries))
    for block in blocks:
        asked = block.asked & queries
        for start in range(0, len(block.rows) if asked else 0, _CHUNK):
            part = slice(start, start + _CHUNK)
            image_ids = block.rows.image_ids[part]
            seen, fresh = _first_met(seen, image_ids, None if block.dead is None else block.dead[part], asked)
            yield _Piece(block.rows.features[part], image_ids, asked, fresh, fresh != 0)


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Yield pieces in groups of which each is worth a thread's while, for a block may have but a few rows."""
    batch: list[_Piece] = []
    rows, enough = 0, _CHUNK // 4  # at first fewer: the threads wait for it
    for piece in pieces:
        if batch and rows + len(piece.wanted) > enough:
            yield batch
            batch, rows, enough = [], 0, min(_CHUNK, 2 * enough)
        batch.append(piece)
        rows += len(piece.wanted)
    if batch:
        yield batch


def _best(
    batch: Sequence[_Piece], queries: Stored, bars: NDArray[np.float32], k: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the best k of the rows that each query meets first, but none below its bar: (query, ids, similarities)."""
    alike: dict[int, list[_Piece]] = {}  # by who asks
    for piece in batch:
        alike.setdefault(piece.asked, []).append(piece)
    for asked, pieces in alike.items():
        asking = _bits(asked)
        image_ids = np.concatenate([piece.image_ids[piece.wanted] for piece in pieces])
        own = queries[asking]
        found = np.concatenate([_compared(piece, asking, own) for piece in pieces], axis=1)
        for number, row in zip(asking, found, strict=True):
            good = row >= bars[number]
            if good.any():
                yield number, *top(image_ids[good], row[good], k)


def _compared(piece: _Piece, asking: list[int], queries: Stored) -> NDArray[np.float32]:
    """Return the similarities (m, n) of n wanted rows with the m queries that ask; _NOT where one has met it before."""
    compared = _compare(piece.features, piece.wanted, queries).T
    if len(asking) > 1:
        fresh = piece.fresh[piece.wanted]
        if (fresh != piece.asked).any():
            compared[(fresh >> np.array(asking, fresh.dtype)[:, None]) & 1 == 0] = _NOT
    return compared


def _side_by_side(function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[_Found]:
    """Yield function(item) for each item in order, computed by several threads; items are taken by this one only."""
    items = iter(items)
    first = list(islice(items, 2))
    if len(first) < 2 or _THREADS == 1:
        yield from map(function, chain(first, items))
        return
    waiting: deque[_Task[_Item, _Found]] = deque()

    def next_found() -> _Found:
        task = waiting.popleft()
        if not task.take_up():
            while not task.is_done() and any(other.take_up() for other in waiting):
                pass  # there was something better to do than to wait
        return task.result()

    for item in chain(first, items):
        waiting.append(_Task(function, item))
        if len(waiting) > _AHEAD * _THREADS:
            yield next_found()
    while waiting:
        yield next_found()


class _Task(Generic[_Item, _Found]):
    """A piece of work for whichever thread comes first: one of the pool, or the one that asks for its result."""

    def __init__(self, function: Callable[[_Item], _Found], item: _Item) -> None:
        self._function, self._item = function, item
        self._future = _pool().submit(function, item)
        self._found: list[_Found] = []

    def take_up(self) -> bool:
        """Do it in this thread, unless another has begun it; say whether it was done now."""
        if self._found or not self._future.cancel():
            return False
        self._found.append(self._function(self._item))
        return True

    def is_done(self) -> bool:
        return bool(self._found) or self._future.done()

    def result(self) -> _Found:
        return self._found[0] if self._found else self._future.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS - 1, "catdb-search")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not carried across a fork


def _first_met(seen: _Bits, ids: NDArray[np.int64], dead: NDArray[np.bool_] | None, asked: int) -> tuple[_Bits, _Bits]:
    """Return who has seen which image, by id, after some rows (n,) that ``asked`` look at; and who sees which first."""
    try:
        before = seen[ids]
    except IndexError:
        more = int(ids.max()) + 1 - len(seen)
        seen = np.concatenate([seen, np.zeros(max(more, len(seen)), seen.dtype)])
        before = seen[ids]
    fresh = ~before & seen.dtype.type(asked)
    if dead is not None:
        fresh[dead] = 0
    seen[ids] = before | fresh
    return seen, fresh


def _compare(features: Stored, wanted: NDArray[np.bool_], queries: Stored) -> NDArray[np.float32]:
    """Return the similarities (n, m) of the n wanted rows only, in their order; at most _CHUNK rows (b, d)."""
    count = int(np.count_nonzero(wanted))
    if count >= (_FEW if len(queries) < _SEVERAL else _FEW_OF_SEVERAL) * len(wanted):
        found = _cosines(features, queries)
        return found if count == len(wanted) else np.compress(wanted, found, axis=0)
    chosen = np.flatnonzero(wanted)
    copied = np.empty((min(count, _COPIED), features.shape[1]), features.dtype)
    found = np.empty((count, len(queries)), np.float32)
    for start in range(0, count, _COPIED):
        part = chosen[start : start + _COPIED]
        np.take(features, part, axis=0, out=copied[: len(part)], mode="clip")  # "raise" would copy once more
        found[start : start + _COPIED] = _cosines(copied[: len(part)], queries)
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
        names = np.concatenate([piece.image_ids[piece.wanted] for piece in batch])
        rows = unit(np.concatenate([piece.features[piece.wanted] for piece in batch]))
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
        closeness = centroids @ query.astype(np.float32) / regions.lengths
        taken = set(probed)
        nearest_first = (int(categories[i]) for i in np.argsort(-closeness, kind="stable"))
        probed += [category for category in nearest_first if category not in taken][: probes - len(probed)]
    return probed
