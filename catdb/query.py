"""Answer a query image: find its vector, route it to shards, search them, and say what was searched.

query ─ look up, or decode and embed ─▶ Point(vector, its own categories), or several made one
      ─ route ─▶ categories to probe ─ blocks ─ top-k ─▶ Result(matches, scanned of total)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as PILImage

from catdb import questions, search
from catdb.backbones import PER_IMAGE, Engine
from catdb.calibration import chance, recall
from catdb.errors import ImageUnreadable
from catdb.filters import EVERYTHING, Filter, admitted
from catdb.images import Content, Failure, Stamp, decode, fingerprint, fit
from catdb.questions import Point
from catdb.roots import Roots, absolute
from catdb.scores import Chance
from catdb.store import Snapshot, Store

Query = str | os.PathLike[str] | PILImage | NDArray[np.uint8]
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
    rows: int = (
        0  # rows compared: an image stands in up to four categories, and in a search by recall may be met in each
    )
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

    def __getitem__(self, index: Any) -> Any:
        return self.matches[index]


@dataclass(frozen=True, slots=True)
class Reach:
    """How much to return, ``only`` of what, and how far to look: ``probes`` categories, with ``exact`` all of them.

    With ``recall`` instead as far as it takes for that share of the ten nearest to be found, see :mod:`catdb.recall`.
    """

    k: int = 10
    probes: int = PER_IMAGE
    exact: bool = False
    recall: float | None = None
    only: Filter = EVERYTHING

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("probes", self.probes)):
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if self.recall is not None and not 0 < self.recall <= 1:
            raise ValueError(f"recall is {self.recall}: it must be above 0, and at most 1")


class How(TypedDict, total=False):
    """The options of every kind of search beside ``k``, as :meth:`catdb.Database.search` explains them."""

    probes: int
    exact: bool
    recall: float | None
    category: str | None
    under: str | os.PathLike[str] | None
    min_similarity: float | None


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
        away = _readable(found[: len(first)]) if away is None else away
        for query, point in zip(waiting, found[len(first) :], strict=True):
            if isinstance(point, Failure):
                yield point
            else:
                result = _nearest(store, _label(query), questions.without(point, away), reach)
                yield replace(result, without=tuple(map(_label, without))) if without else result

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
    whole = questions.together(_readable(found[: len(queries)]))
    result = _nearest(store, None, questions.without(whole, _readable(found[len(queries) :])), reach)
    return replace(result, together=tuple(map(_label, queries)), without=tuple(map(_label, without)))


def answer_text(store: Store, engine: Engine, text: str, reach: Reach, without: Sequence[Query] = ()) -> Result:
    """Return the answer to words, which the names of categories give a meaning. Raises CategoryUnknown."""
    names = store.categories()
    away = _readable(points(store, engine, without))
    with store.snapshot() as snapshot:
        meant = questions.meaning(text, names, snapshot.populated)
        categories, means = snapshot.regions().shards
        centroids = dict(zip(categories.tolist(), snapshot.encoding.back(means), strict=True))
    point = questions.of_categories({category: centroids[category] for category in meant.categories})
    reach = replace(reach, probes=max(reach.probes, len(meant.categories)))  # all that it means
    result = _nearest(store, None, questions.without(point, away), reach)
    return replace(result, text=text, without=tuple(map(_label, without)), notes=(meant.note, *result.notes))


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
    return _nearest(store, None, Point((values / length).astype(np.float16), ()), reach)


def answer_point(store: Store, point: Point, reach: Reach, label: str | None = None) -> Result:
    """Return the answer to a vector with categories of its own. ``label``: the path of what it stands for."""
    return _nearest(store, label, point, reach)


def answer_image(store: Store, image: int, reach: Reach) -> tuple[search.Hits, int] | None:
    """Return what a search with an indexed image finds, itself among it, by id, and how many means were compared.

    None where the image is there no more.
    """
    with store.snapshot() as snapshot:
        point = point_of(snapshot, image)
        if point is None:
            return None
        hits, way = _search(snapshot, point, reach)
        return hits, way.centroids


def alike(store: Store, path: str, k: int = 3) -> list[Match]:
    """Return the k images most like an indexed one (an absolute path), itself left out; none where it is not known."""
    with store.snapshot() as snapshot:
        place = Roots(snapshot.catalog.roots(), store.path).place(path)
        image = snapshot.catalog.image_at(*place) if place else None
        point = point_of(snapshot, image.id) if image else None
    if point is None:
        return []
    return [match for match in _nearest(store, path, point, Reach(k + 1)) if match.path != path][:k]


def points(store: Store, engine: Engine, queries: Sequence[Query]) -> list[Point | Failure]:
    """Return the point of each query, a Failure for one that cannot be read; new images share one network pass."""
    found: list[Any] = [_look_up(store, engine, query) for query in queries]
    new = [place for place, point in enumerate(found) if isinstance(point, np.ndarray)]
    if new:
        made = embedded(engine, np.stack([found[place] for place in new]))
        for place, point in zip(new, made, strict=True):
            found[place] = point
    return found


def embedded(engine: Engine, pixels: NDArray[np.uint8]) -> list[Point]:
    """Return the points of images (n, h, w, 3), all of one network pass."""
    made = engine.embed(pixels)
    rows = zip(made.features, made.categories.tolist(), made.probabilities.tolist(), strict=True)
    return [Point(vector.astype(np.float16), tuple(zip(*ranked, strict=True))) for vector, *ranked in rows]


def _readable(found: Iterable[Point | Failure]) -> list[Point]:
    """Return the points, where all of them are. Raises ImageUnreadable."""
    sound = []
    for point in found:
        if isinstance(point, Failure):
            raise ImageUnreadable(f"{point.path}: {point.reason}" if point.path else point.reason)
        sound.append(point)
    return sound


def _label(query: Query) -> str | None:
    return absolute(query) if isinstance(query, str | os.PathLike) else None


def _look_up(store: Store, engine: Engine, query: Query) -> Point | Failure | NDArray[np.uint8]:
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
            stored = point_of(snapshot, image.id)
            if stored:
                return stored
    try:
        return decode(path, engine.input_size)[0]
    except ImageUnreadable as error:
        return Failure(path, str(error))


def _stored(snapshot: Snapshot, database: str, path: str) -> Point | None:
    """Return what is stored of an indexed file that has not changed since."""
    place = Roots(snapshot.catalog.roots(), database).place(path)
    image = snapshot.catalog.image_at(*place) if place else None
    try:
        return point_of(snapshot, image.id) if image and Stamp.of(os.stat(path)) == image.stamp else None
    except OSError:
        return None


def point_of(snapshot: Snapshot, image: int) -> Point | None:
    """Return what is stored of an image; None where it is not there or damaged."""
    known, vector = snapshot.catalog.image(image), snapshot.catalog.vector(image)
    if known is None or vector is None:
        return None
    return Point(vector, tuple(zip(known.categories, known.probabilities, strict=True)))


def _nearest(store: Store, label: str | None, point: Point, reach: Reach) -> Result:
    """Route a query and search, widening until there is something to compare.

    With a filter by folder it is widened until k images of that folder have been compared, or all that there are.
    """
    only = reach.only
    with store.snapshot() as snapshot:
        hits, way = _search(snapshot, point, reach)
        scores = chance(snapshot, way.total)
        matches = tuple(_matches(store, snapshot, hits, scores, only.min_similarity))
        return Result(
            query=label,
            categories=predictions(store, point.categories),
            matches=matches,
            scanned=hits.scanned,
            total=way.total,
            probed=sum(category in way.populated for category in way.probed),
            populated=len(way.populated),
            widened=way.widened,
            rows=hits.rows,
            centroids=way.centroids,
            notes=tuple(dict.fromkeys([*snapshot.notes, *_none_so_similar(hits, matches)])),
            admitted=hits.scanned if only.category is not None else way.admits.images,
            ceiling=scores.ceiling if scores else None,
        )


def _search(snapshot: Snapshot, point: Point, reach: Reach) -> tuple[search.Hits, _Way]:
    """Search as far as is asked for, and further where nothing is there to be compared."""
    way = _Way(snapshot, point, reach)
    encoding = snapshot.encoding
    row, depth = encoding.rows_of_short(way.vector[None])[0], encoding.candidates(reach.k)
    while True:
        hits = search.nearest(row, way.admits.blocks(way.blocks()), depth)
        if hits.scanned >= way.enough or not way.widen():
            return hits if encoding.lossless else _by_whole_vectors(snapshot, point.vector, hits, reach.k), way


def _by_whole_vectors(snapshot: Snapshot, vector: NDArray[np.float16], hits: search.Hits, k: int) -> search.Hits:
    """Return the k best of hits by their whole vectors. One that is damaged keeps what its row says."""
    found = snapshot.cosines(hits.image_ids.tolist(), vector)
    image_ids, best = search.top(hits.image_ids, np.where(np.isnan(found), hits.similarities, found), k)
    return replace(hits, image_ids=image_ids, similarities=best)


class _Way:
    """How far one search goes: at first as far as was asked for, and further each time that it is widened."""

    def __init__(self, snapshot: Snapshot, point: Point, reach: Reach) -> None:
        only = reach.only
        self._snapshot, self.vector, self._faster = snapshot, snapshot.short(point.vector), bool(only.under)
        self.admits = admitted(only, snapshot)
        self.populated = snapshot.populated
        self.total = snapshot.catalog.count()
        self.enough = min(reach.k, self.admits.images) if only.under else 1
        self._own = [category for category, _ in point.categories] if only.category is None else [only.category]
        self._alone = only.category is not None
        self._most = 1 if self._alone else len(self.populated) + sum(c not in self.populated for c in set(self._own))
        self._regions: search.Regions | None = None
        self._nearest: Callable[[int], NDArray[np.int64]] | None = None
        self.widened, self.centroids, self.probed = False, 0, set[int]()
        target = None if reach.exact or only.category is not None else reach.recall
        known = recall(snapshot, self.total) if target and target < 1 else None
        if target and known:
            self._regions = snapshot.regions()
            self._nearest = self._regions.nearest(self.vector)
            self._count = known.blocks_for(target, len(self._regions))
            self.centroids = len(self._regions)
        else:  # of so few images, or of one category, everything is what a target asks for
            self._count = self._most if reach.exact or reach.recall else reach.probes

    def blocks(self) -> Iterator[search.Block]:
        """Yield what is to be compared now, and say by ``probed`` which categories that is in."""
        if self._regions is not None and self._nearest is not None:
            chosen = self._nearest(self._count)
            self.probed = set(self._regions.categories[chosen].tolist())
            return self._snapshot.parts(self._regions, chosen)
        if self._count >= self._most:
            probed = list(dict.fromkeys(self._own if self._alone else [*self._own, *self.populated]))  # in no order
        elif self._count <= len(self._own):
            probed = self._own[: self._count]
        else:
            regions = self._snapshot.regions()
            self.centroids = len(regions.shards[0])
            probed = search.route(self._own, regions, self.vector, self._count)
        self.probed = set(probed)
        return self._snapshot.blocks(probed)

    def widen(self) -> bool:
        """Go further the next time; say whether there is anything left."""
        if self._count >= (self._most if self._regions is None else len(self._regions)):
            return False
        self._count = 2 * self._count if self._faster or self._regions is not None else self._count + PER_IMAGE
        self.widened = True
        return True


def _none_so_similar(hits: search.Hits, matches: Sequence[Match]) -> Iterator[str]:
    if len(hits.similarities) and not matches:
        yield f"no image is so similar: the nearest of those compared has {float(hits.similarities[0]):.4f}"


def _matches(
    store: Store, snapshot: Snapshot, hits: search.Hits, scores: Chance | None, least: float | None
) -> Iterator[Match]:
    roots = Roots(snapshot.catalog.roots(), store.path)
    pairs = zip(hits.image_ids.tolist(), hits.similarities.tolist(), strict=True)
    images = snapshot.catalog.images_by_id(hits.image_ids.tolist())
    for rank, (number, similarity) in enumerate(pairs, 1):
        if least is not None and similarity < least:
            return
        image = images.get(number)
        if image is None:
            raise RuntimeError(f"{store.path}: a row of image {number}, which the same snapshot does not hold")
        members = predictions(store, zip(image.categories, image.probabilities, strict=True))
        percentile = scores.percentile(similarity) if scores else None
        yield Match(rank, roots.path(image.root, image.path), similarity, members, percentile, number)


def predictions(store: Store, ranked: Iterable[tuple[int, float]]) -> tuple[Prediction, ...]:
    """Return categories, given by number with their probabilities, under their names."""
    names = store.categories()
    return tuple(Prediction(*names[category], probability) for category, probability in ranked)
