"""Answer a query image: find its vector, route it to shards, search them, and say what was searched.

query ─ look up, or decode and embed ─▶ Point(vector, its own categories), or several made one
      ─ route ─▶ categories to probe ─ blocks ─ top-k ─▶ Result(matches, scanned of total)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from catdb import questions, search, threads
from catdb.backbones import Engine
from catdb.calibration import chance
from catdb.filters import EVERYTHING
from catdb.images import Failure
from catdb.lookup import Query, path_of, point_of, points, readable
from catdb.questions import Point
from catdb.reach import Reach, search_each
from catdb.roots import Roots
from catdb.scores import Chance
from catdb.snapshot import Snapshot
from catdb.store import Store

_TOGETHER = search.MOST  # query images embedded in one pass, and searched with in one go


@dataclass(frozen=True, slots=True)
class Prediction:
    """A category with the probability that the network gives it for an image."""

    id: str
    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Match:
    """One image that was found. ``similarity`` is the cosine of the two features."""

    rank: int  # from 1
    path: str
    similarity: float
    categories: tuple[Prediction, ...]
    percentile: float | None = None  # the share of random pairs that are less alike; None of fewer than 50 images
    id: int = 0  # of the image, in this database


@dataclass(frozen=True, slots=True)
class Result(Sequence[Match]):
    """The answer to one query: a sequence of matches, the best first."""

    query: str | None  # the path, where the query was one file
    categories: tuple[Prediction, ...]  # the query's own
    matches: tuple[Match, ...]
    scanned: int  # distinct images compared, of...
    total: int
    probed: int  # categories with images that were searched, of...
    populated: int
    widened: bool  # the query's own categories hold nothing, so further ones were searched
    notes: tuple[str, ...] = ()  # what a person should know, such as a damaged shard
    rows: int = 0  # rows compared: an image stands in up to four categories, and may be met in each
    centroids: int = 0  # means of blocks or shards compared, to route it
    admitted: int = 0  # images that the filters let through, all of them without a filter
    ceiling: float | None = None  # the greatest percentile that so many images can tell: it means "or more"
    together: tuple[str | None, ...] = ()  # the paths of several images that were one query
    without: tuple[str | None, ...] = ()  # of those that it was turned away from
    text: str | None = None  # the words, where those were the query
    added: bool = False  # the query joined the database, by this search

    def __len__(self) -> int:
        return len(self.matches)

    def __iter__(self) -> Iterator[Match]:
        return iter(self.matches)

    @overload
    def __getitem__(self, index: int) -> Match: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Match, ...]: ...
    def __getitem__(self, index: int | slice) -> Match | tuple[Match, ...]:
        return self.matches[index]


def answer(
    store: Store, engine: Engine, queries: Iterable[Query], reach: Reach, without: Sequence[Query] = ()
) -> Iterator[Result | Failure]:
    """Yield the answer to each query in order, a Failure for one that cannot be read; network passes are shared.

    Each is turned away from the images to be ``without``; raises ImageUnreadable where one of those cannot be read.
    """
    store.categories()  # raises DatabaseNotFound, before a network is loaded for nothing
    away: list[Point] | None = None if without else []
    waiting: list[Query] = []

    def answers() -> Iterator[Result | Failure]:
        nonlocal away
        first = without if away is None else ()
        found = points(store, engine, [*first, *waiting])
        away = list(map(readable, found[: len(first)])) if away is None else away
        asked = [
            (questions.without(point, away), path_of(query))
            for query, point in zip(waiting, found[len(first) :], strict=True)
            if isinstance(point, Point)
        ]
        results = iter(_nearest(store, asked, reach))
        for point in found[len(first) :]:
            yield point if isinstance(point, Failure) else replace(next(results), without=tuple(map(path_of, without)))

    for query in queries:
        waiting.append(query)
        if len(waiting) == _TOGETHER:
            yield from answers()
            waiting = []
    if waiting:
        yield from answers()


def answer_together(
    store: Store, engine: Engine, queries: Sequence[Query], reach: Reach, without: Sequence[Query] = ()
) -> Result | Failure:
    """Return the answer to several images that are one query, or the first Failure; see :mod:`catdb.questions`."""
    if not queries:
        raise ValueError("there is no image to search with")
    store.categories()
    found = points(store, engine, [*queries, *without])
    for point in found[: len(queries)]:
        if isinstance(point, Failure):
            return point
    sound = list(map(readable, found))
    whole = questions.without(questions.together(sound[: len(queries)]), sound[len(queries) :])
    [result] = _nearest(store, [(whole, None)], reach)
    return replace(result, together=tuple(map(path_of, queries)), without=tuple(map(path_of, without)))


def answer_text(store: Store, engine: Engine, text: str, reach: Reach, without: Sequence[Query] = ()) -> Result:
    """Return the answer to words, which the names of categories give a meaning. Raises CategoryUnknown."""
    names = store.categories()
    away = list(map(readable, points(store, engine, without)))
    with store.snapshot() as snapshot:
        meant = questions.meaning(text, names, snapshot.populated)
        categories, means = snapshot.regions().shards
        centroids = dict(zip(categories.tolist(), snapshot.encoding.back(means), strict=True))
    point = questions.of_categories({category: centroids[category] for category in meant.categories})
    if not reach.exact and reach.recall is None:
        reach = replace(reach, probes=max(reach.probes, len(meant.categories)))  # all that it means
    [result] = _nearest(store, [(questions.without(point, away), None)], reach)
    return replace(result, text=text, without=tuple(map(path_of, without)), notes=(meant.note, *result.notes))


def answer_vector(store: Store, vector: NDArray[np.floating[Any]], reach: Reach) -> Result:
    """Return the answer to a vector (d,) of any length. It has no categories, so centroids alone route it."""
    values = np.array(vector, np.float64)
    with store.snapshot() as snapshot:
        dimension = snapshot.catalog.meta()["dimension"]
    if values.shape != (dimension,):
        raise ValueError(f"the vector has shape {values.shape}: it must have ({dimension},)")
    largest = np.abs(values).max()
    if not (np.isfinite(largest) and largest > 0):
        raise ValueError("the vector has no direction: it is zero or not finite")
    values /= largest  # else the square of its length might be beyond what a float can hold
    return answer_point(store, Point((values / np.linalg.norm(values)).astype(np.float16), ()), reach)


def answer_point(store: Store, point: Point, reach: Reach, label: str | None = None) -> Result:
    """Return the answer to a vector with categories of its own. ``label``: the path of what it stands for."""
    [result] = _nearest(store, [(point, label)], reach)
    return result


def answer_points(store: Store, points: Sequence[Point], reach: Reach) -> list[Result]:
    """Return the answers to several at once: rows that many of them ask for are read but once, see catdb.search."""
    return [
        result
        for start in range(0, len(points), search.MOST)
        for result in _nearest(store, [(point, None) for point in points[start : start + search.MOST]], reach)
    ]


def answer_images(store: Store, images: Sequence[int], reach: Reach) -> list[tuple[search.Hits, int] | None]:
    """Return what searches with at most MOST indexed images find, by id, and how many means each compared.

    Each is among what it finds; None stands for one that is there no more.
    """
    with store.snapshot() as snapshot:
        points = [point_of(snapshot, image) for image in images]
        found = iter(search_each(snapshot, [point for point in points if point], reach))
        answers = [next(found) if point else None for point in points]
        return [(answer[0], answer[1].centroids) if answer else None for answer in answers]


def alike(store: Store, path: str, k: int = 3) -> list[Match]:
    """Return the k images most like an indexed one (an absolute path), itself left out; none where it is not known."""
    with store.snapshot() as snapshot:
        place = Roots(snapshot.catalog.roots(), store.path).place(path)
        image = snapshot.catalog.image_at(*place) if place else None
        point = point_of(snapshot, image.id) if image else None
    if point is None:
        return []
    return [match for match in answer_point(store, point, Reach(k + 1), path) if match.path != path][:k]


def _nearest(store: Store, asked: Sequence[tuple[Point, str | None]], reach: Reach) -> list[Result]:
    """Route at most MOST queries, each with its label, and search, widening until there is something to compare.

    With a filter by folder it is widened until k images of that folder have been compared, or all that there are.
    """
    only = reach.only
    results = []
    with threads.turn(), store.snapshot() as snapshot:
        found = search_each(snapshot, [point for point, _ in asked], reach)
        for (point, label), (hits, way) in zip(asked, found, strict=True):
            field = way.field
            scores = chance(snapshot, field.total)
            matches = tuple(_matches(store, snapshot, hits, scores, only.min_similarity))
            notes = (*point.notes, *snapshot.notes_on(way.probed), *_too_few(hits, matches, field.total, reach))
            results.append(
                Result(
                    query=label,
                    categories=predictions(store, point.categories),
                    matches=matches,
                    scanned=hits.scanned,
                    total=field.total,
                    probed=sum(category in field.populated for category in way.probed),
                    populated=len(field.populated),
                    widened=way.widened,
                    rows=hits.rows,
                    centroids=way.centroids,
                    notes=notes,
                    admitted=hits.scanned if only.category is not None else field.admits.images,
                    ceiling=scores.ceiling if scores else None,
                )
            )
    return results


def _too_few(hits: search.Hits, matches: Sequence[Match], total: int, reach: Reach) -> Iterator[str]:
    """Yield why there are fewer matches than were asked for, where that is not plain from what was asked."""
    if len(hits.similarities) and not matches:
        yield f"no image is so similar: the nearest of those compared has {float(hits.similarities[0]):.4f}"
    elif reach.only == EVERYTHING and not reach.exact and len(matches) < reach.k and hits.scanned < total:
        further = "a higher recall" if reach.recall else "a recall target"  # which the page offers too
        yield (
            f"only {hits.scanned:,} of {total:,} images were compared, too few for k = {reach.k:,}:"
            f" search with {further}, or exact"
        )


def _matches(
    store: Store, snapshot: Snapshot, hits: search.Hits, scores: Chance | None, least: float | None
) -> Iterator[Match]:
    roots = Roots(snapshot.catalog.roots(), store.path)
    numbers, similarities = hits.image_ids.tolist(), hits.similarities.tolist()
    percentiles = scores.percentiles(similarities) if scores else [None] * len(numbers)
    images = snapshot.catalog.images_by_id(numbers)
    for rank, (number, similarity, percentile) in enumerate(zip(numbers, similarities, percentiles, strict=True), 1):
        if least is not None and similarity < least:
            return
        image = images.get(number)
        if image is None:
            raise RuntimeError(f"{store.path}: a row of image {number}, which the same snapshot does not hold")
        members = predictions(store, zip(image.categories, image.probabilities, strict=True))
        yield Match(rank, roots.path(image.root, image.path), similarity, members, percentile, number)


def predictions(store: Store, ranked: Iterable[tuple[int, float]]) -> tuple[Prediction, ...]:
    """Return categories, given by number with their probabilities, under their names."""
    names = store.categories()
    return tuple(Prediction(*names[category], probability) for category, probability in ranked)
