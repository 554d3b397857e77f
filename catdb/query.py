"""Answer a query image: find its vector, route it to shards, search them, and say what was searched.

query ─ look up, or decode and embed ─▶ Point(vector, its own categories)
      ─ route ─▶ categories to probe ─ blocks ─ top-k ─▶ Result(matches, scanned of total)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as PILImage

from catdb import search
from catdb.backbones import PER_IMAGE, Engine
from catdb.errors import ImageUnreadable
from catdb.images import Content, Failure, Stamp, decode, fingerprint, fit
from catdb.roots import Roots, absolute
from catdb.store import Snapshot, Store

Query = str | os.PathLike[str] | PILImage | NDArray[np.uint8]
_CANDIDATES = 8  # times as many images are taken from shards of shortened vectors, and compared again by whole ones
_TOGETHER = 32  # query images embedded in one pass


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


@dataclass(frozen=True, slots=True)
class Result(Sequence[Match]):
    """The answer to one query: a sequence of matches, the best first."""

    query: str | None  # the path, where the query was a file
    categories: tuple[Prediction, ...]  # the query's own
    matches: tuple[Match, ...]
    scanned: int  # distinct images compared, of...
    total: int
    probed: int  # categories with images that were searched, of...
    populated: int
    widened: bool  # the query's own categories hold nothing, so further ones were searched
    notes: tuple[str, ...] = ()  # what a person should know, such as a damaged shard

    def __len__(self) -> int:
        return len(self.matches)

    def __iter__(self) -> Iterator[Match]:
        return iter(self.matches)

    def __getitem__(self, index: Any) -> Any:
        return self.matches[index]


@dataclass(frozen=True, slots=True)
class Reach:
    """How much to return, and how far to look: ``probes`` categories, or with ``exact`` all."""

    k: int = 10
    probes: int = PER_IMAGE
    exact: bool = False

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("probes", self.probes)):
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")


@dataclass(frozen=True, slots=True)
class _Point:
    """A query as the search needs it: a unit vector and its own categories, most probable first."""

    vector: NDArray[np.float16]
    categories: tuple[tuple[int, float], ...]


def answer(store: Store, engine: Engine, queries: Iterable[Query], reach: Reach) -> Iterator[Result | Failure]:
    """Yield the answer to each query in order, a Failure for one that cannot be read; network passes are shared."""
    store.categories()  # raises DatabaseNotFound, before a network is loaded for nothing
    waiting: list[Query] = []
    for query in queries:
        waiting.append(query)
        if len(waiting) == _TOGETHER:
            yield from _answer(store, engine, waiting, reach)
            waiting = []
    yield from _answer(store, engine, waiting, reach)


def answer_vector(store: Store, vector: NDArray[np.floating[Any]], reach: Reach) -> Result:
    """Return the answer to a vector (d,) of any length. It has no categories, so centroids alone route it."""
    values = np.asarray(vector, np.float64)
    with store.snapshot() as snapshot:
        dimension = snapshot.catalog.meta()["dimension"]
    if values.shape != (dimension,):
        raise ValueError(f"the vector has shape {values.shape}: it must have ({dimension},)")
    length = np.linalg.norm(values)
    if not (np.isfinite(length) and length > 0):
        raise ValueError("the vector has no direction: it is zero or not finite")
    return _nearest(store, None, _Point((values / length).astype(np.float16), ()), reach)


def alike(store: Store, path: str, k: int = 3) -> list[Match]:
    """Return the k images most like an indexed one (an absolute path), itself left out; none where it is not known."""
    with store.snapshot() as snapshot:
        place = Roots(snapshot.catalog.roots(), store.path).place(path)
        image = snapshot.catalog.image_at(*place) if place else None
        point = _point(snapshot, image.id) if image else None
    if point is None:
        return []
    return [match for match in _nearest(store, path, point, Reach(k + 1)) if match.path != path][:k]


def _answer(store: Store, engine: Engine, queries: Sequence[Query], reach: Reach) -> Iterator[Result | Failure]:
    points: list[Any] = [_look_up(store, engine, query) for query in queries]
    new = [place for place, point in enumerate(points) if isinstance(point, np.ndarray)]
    if new:
        embedding = engine.embed(np.stack([points[place] for place in new]))
        for row, place in enumerate(new):
            ranked = zip(embedding.categories[row].tolist(), embedding.probabilities[row].tolist(), strict=True)
            points[place] = _Point(embedding.features[row].astype(np.float16), tuple(ranked))
    for query, point in zip(queries, points, strict=True):
        if isinstance(point, Failure):
            yield point
        else:
            label = absolute(query) if isinstance(query, str | os.PathLike) else None
            yield _nearest(store, label, point, reach)


def _look_up(store: Store, engine: Engine, query: Query) -> _Point | Failure | NDArray[np.uint8]:
    """Return what the database knows of a query image, else its pixels, for the network."""
    if isinstance(query, PILImage | np.ndarray):
        try:
            return fit(query, engine.input_size)[0]
        except ImageUnreadable as error:
            return Failure("", str(error))
    if not isinstance(query, str | os.PathLike):
        raise TypeError(f"a query is a path, a PIL image or uint8 pixels (h, w, 3), not {type(query).__name__}")
    path = absolute(query)
    with store.snapshot() as snapshot:
        stored = _stored(snapshot, store.path, path)
    if stored:
        return stored
    content = fingerprint(path)
    if not isinstance(content, Content):
        return content
    with store.snapshot() as snapshot:
        for image in snapshot.catalog.images_of(content.digest):
            stored = _point(snapshot, image.id)
            if stored:
                return stored
    try:
        return decode(path, engine.input_size)[0]
    except ImageUnreadable as error:
        return Failure(path, str(error))


def _stored(snapshot: Snapshot, database: str, path: str) -> _Point | None:
    """Return what is stored of an indexed file that has not changed since."""
    place = Roots(snapshot.catalog.roots(), database).place(path)
    image = snapshot.catalog.image_at(*place) if place else None
    try:
        return _point(snapshot, image.id) if image and Stamp.of(os.stat(path)) == image.stamp else None
    except OSError:
        return None


def _point(snapshot: Snapshot, image: int) -> _Point | None:
    known, vector = snapshot.catalog.image(image), snapshot.catalog.vector(image)
    if known is None or vector is None:
        return None
    return _Point(vector, tuple(zip(known.categories, known.probabilities, strict=True)))


def _nearest(store: Store, label: str | None, point: _Point, reach: Reach) -> Result:
    """Route a query and search, widening until there is something to compare."""
    own = [category for category, _ in point.categories]
    with store.snapshot() as snapshot:
        populated = [load.category for load in snapshot.catalog.loads() if load.images]
        total = snapshot.catalog.count()
        everything = list(dict.fromkeys([*own, *populated]))
        probes = len(everything) if reach.exact else reach.probes
        vector, depth, projection = point.vector, reach.k, snapshot.projection
        if projection:
            vector, depth = projection.apply(vector[None])[0], _CANDIDATES * reach.k
        widened = False
        while True:
            if probes >= len(everything):
                probed = everything  # in no order: nothing is left out
            elif probes <= len(own):
                probed = own[:probes]
            else:
                probed = search.route(own, *snapshot.centroids(), vector, probes)
            hits = search.nearest(vector, snapshot.blocks(probed), probed, depth)
            if hits.scanned or probes >= len(everything):
                break
            widened, probes = True, probes + PER_IMAGE
        if projection:
            hits = _by_whole_vectors(snapshot, point.vector, hits, reach.k)
        return Result(
            query=label,
            categories=_predictions(store, point.categories),
            matches=tuple(_matches(store, snapshot, hits)),
            scanned=hits.scanned,
            total=total,
            probed=len(set(probed) & set(populated)),
            populated=len(populated),
            widened=widened,
            notes=tuple(dict.fromkeys(snapshot.notes)),
        )


def _by_whole_vectors(snapshot: Snapshot, vector: NDArray[np.float16], hits: search.Hits, k: int) -> search.Hits:
    """Return the k best of hits by their whole vectors. One that is damaged keeps what its short one says."""
    found = hits.similarities.copy()
    for place, image in enumerate(hits.image_ids.tolist()):
        whole = snapshot.catalog.vector(image)
        if whole is not None:
            found[place] = search.similarities(whole[None], vector)[0]
    return search.Hits(*search.top(hits.image_ids, np.clip(found, -1.0, 1.0), k), hits.scanned)


def _matches(store: Store, snapshot: Snapshot, hits: search.Hits) -> Iterator[Match]:
    roots = Roots(snapshot.catalog.roots(), store.path)
    pairs = zip(hits.image_ids.tolist(), hits.similarities.tolist(), strict=True)
    for rank, (number, similarity) in enumerate(pairs, 1):
        image = snapshot.catalog.image(number)
        if image is None:
            raise RuntimeError(f"{store.path}: a row of image {number}, which the same snapshot does not hold")
        members = zip(image.categories, image.probabilities, strict=True)
        yield Match(rank, roots.path(image.root, image.path), similarity, _predictions(store, members))


def _predictions(store: Store, ranked: Iterable[tuple[int, float]]) -> tuple[Prediction, ...]:
    names = store.categories()
    return tuple(Prediction(*names[category], probability) for category, probability in ranked)
