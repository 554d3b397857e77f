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
from catdb.snapshot import Snapshot
from catdb.store import Store

Query = str | os.PathLike[str] | PILImage | NDArray[np.uint8]
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
        asked = [
            (questions.without(point, away), _label(query))
            for query, point in zip(waiting, found[len(first) :], strict=True)
            if isinstance(point, Point)
        ]
        results = iter(_nearest(store, asked, reach))
        for point in found[len(first) :]:
            yield point if isinstance(point, Failure) else replace(next(results), without=tuple(map(_label, without)))

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
    [result] = _nearest(store, [(questions.without(whole, _readable(found[len(queries) :])), None)], reach)
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
    [result] = _nearest(store, [(questions.without(point, away), None)], reach)
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
    return answer_point(store, Point((values / length).astype(np.float16), ()), reach)


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
        found = iter(_search(snapshot, [point for point in points if point], reach))
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


def _nearest(store: Store, asked: Sequence[tuple[Point, str | None]], reach: Reach) -> list[Result]:
    """Route at most MOST queries, each with its label, and search, widening until there is something to compare.

    With a filter by folder it is widened until k images of that folder have been compared, or all that there are.
    """
    only = reach.only
    results = []
    with store.snapshot() as snapshot:
        found = _search(snapshot, [point for point, _ in asked], reach)
        for (point, label), (hits, way) in zip(asked, found, strict=True):
            field = way.field
            scores = chance(snapshot, field.total)
            matches = tuple(_matches(store, snapshot, hits, scores, only.min_similarity))
            notes = [*snapshot.notes_on(way.probed), *_none_so_similar(hits, matches)]
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
                    notes=tuple(notes),
                    admitted=hits.scanned if only.category is not None else field.admits.images,
                    ceiling=scores.ceiling if scores else None,
                )
            )
    return results


def _search(snapshot: Snapshot, points: Sequence[Point], reach: Reach) -> list[tuple[search.Hits, _Way]]:
    """Search as far as is asked for, and further for those that find nothing there to be compared."""
    if not points:
        return []
    field, encoding = _Field(snapshot, reach), snapshot.encoding
    short = encoding.short(np.array([point.vector for point in points], np.float16))
    rows, depth = encoding.rows_of_short(short), encoding.candidates(reach.k)
    ways = field.ways(points, short)
    found: dict[int, search.Hits] = {}
    searching = list(range(len(points)))
    while searching:
        blocks = field.blocks([ways[number] for number in searching])
        hits = search.nearest_to_each(rows[searching], field.admits.blocks(blocks), depth)
        found |= dict(zip(searching, hits, strict=True))
        searching = [n for n in searching if found[n].scanned < field.enough and ways[n].widen()]
    # A product of several queries rounds the last digit otherwise; an answer shall not depend on what else was asked.
    if not encoding.lossless or len(points) > 1:
        for number, point in enumerate(points):
            found[number] = _by_whole_vectors(snapshot, point.vector, found[number], reach.k)
    return [(found[number], way) for number, way in enumerate(ways)]


def _by_whole_vectors(snapshot: Snapshot, vector: NDArray[np.float16], hits: search.Hits, k: int) -> search.Hits:
    """Return the k best of hits by their whole vectors. One that is damaged keeps what its row says."""
    found = snapshot.cosines(hits.image_ids.tolist(), vector)
    image_ids, best = search.top(hits.image_ids, np.where(np.isnan(found), hits.similarities, found), k)
    return replace(hits, image_ids=image_ids, similarities=best)


class _Field:
    """What is there to be searched, as far as it is the same for every query of one search."""

    def __init__(self, snapshot: Snapshot, reach: Reach) -> None:
        self.snapshot, self.reach = snapshot, reach
        self.admits = admitted(reach.only, snapshot)
        self.populated = snapshot.populated
        self.total = snapshot.catalog.count()
        self.enough = min(reach.k, self.admits.images) if reach.only.under else 1
        target = None if reach.exact or reach.only.category is not None else reach.recall
        known = recall(snapshot, self.total) if target and target < 1 else None
        self.regions: search.Regions | None = None  # where it is searched by blocks
        self.first = 0  # of which so many at first
        if known and target:
            self.regions = snapshot.regions()
            self.first = known.blocks_for(target, len(self.regions))

    def ways(self, points: Sequence[Point], short: NDArray[np.float16]) -> list[_Way]:
        """Return how far each query goes at first; ``short`` (m, D) are their vectors as means are compared with."""
        by_blocks = [None] * len(points) if self.regions is None else self.regions.nearest_to_each(short)
        return [_Way(self, point, *how) for point, *how in zip(points, short, by_blocks, strict=True)]

    def blocks(self, ways: Sequence[_Way]) -> Iterator[search.Block]:
        """Yield what is to be compared now, each block with the queries that ask for it, as bits by their place."""
        if self.regions is not None:
            bits = np.zeros(len(self.regions), np.uint32)
            for number, way in enumerate(ways):
                bits[way.chosen()] |= np.uint32(1 << number)
            chosen = np.flatnonzero(bits)
            return self.snapshot.parts(self.regions, chosen, bits[chosen])
        asked: dict[int, int] = {}
        for number, way in enumerate(ways):
            for category in way.categories():
                asked[category] = asked.get(category, 0) | 1 << number
        return self.snapshot.blocks(asked, asked)


class _Way:
    """How far one query goes: at first as far as was asked for, and further each time that it is widened."""

    def __init__(
        self,
        field: _Field,
        point: Point,
        short: NDArray[np.float16],
        nearest: Callable[[int], NDArray[np.int64]] | None,
    ) -> None:
        only, reach = field.reach.only, field.reach
        self.field, self._short, self._nearest = field, short, nearest
        self._alone = only.category is not None
        self._own = [category for category, _ in point.categories] if only.category is None else [only.category]
        unknown = sum(category not in field.populated for category in set(self._own))
        self._most = 1 if self._alone else len(field.populated) + unknown
        # Of so few images, or of one category, everything is what a target asks for.
        self._count = field.first or (self._most if reach.exact or reach.recall else reach.probes)
        self.widened, self.centroids, self.probed = False, 0, set[int]()

    def chosen(self) -> NDArray[np.int64]:
        """Return the blocks that are to be compared now, by their place among all; they say what is ``probed``."""
        regions = self.field.regions
        assert regions is not None and self._nearest is not None
        chosen = self._nearest(self._count)
        self.centroids, self.probed = len(regions), set(regions.categories[chosen].tolist())
        return chosen

    def categories(self) -> list[int]:
        """Return the categories that are to be compared now, and say so by ``probed``."""
        if self._count >= self._most:
            everything = [*self._own, *self.field.populated]  # in no order
            probed = list(dict.fromkeys(self._own if self._alone else everything))
        elif self._count <= len(self._own):
            probed = self._own[: self._count]
        else:
            regions = self.field.snapshot.regions()
            self.centroids = len(regions.shards[0])
            probed = search.route(self._own, regions, self._short, self._count)
        self.probed = set(probed)
        return probed

    def widen(self) -> bool:
        """Go further the next time; say whether there is anything left."""
        regions = self.field.regions
        if self._count >= (self._most if regions is None else len(regions)):
            return False
        faster = self.field.reach.only.under or regions is not None
        self._count = 2 * self._count if faster else self._count + PER_IMAGE
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
