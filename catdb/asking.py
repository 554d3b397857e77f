"""The searches of a database: what may be asked, with which options, and how a query joins the database first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from catdb import browse, curate
from catdb.backbones import PER_IMAGE, Engine
from catdb.filters import Filter
from catdb.images import Failure
from catdb.ingest import Event
from catdb.lookup import Query, embedded, readable
from catdb.opening import Wanted
from catdb.query import Result, answer, answer_point, answer_text, answer_together, answer_vector
from catdb.questions import Point, category_named
from catdb.reach import Reach
from catdb.reconcile import Tell, told
from catdb.roots import AnyPath, absolute
from catdb.store import Store

if TYPE_CHECKING:
    from catdb.quality import Measured
    from catdb.why import Why


class How(TypedDict, total=False):
    """The options of every kind of search beside ``k``, as :meth:`catdb.Database.search` explains them."""

    probes: int
    exact: bool
    recall: float | None
    category: str | None
    under: str | os.PathLike[str] | None
    min_similarity: float | None


class Searches:
    """The half of :class:`~catdb.Database` that is asked: with images, a vector or words."""

    _store: Store
    _engine: Engine
    _wanted: Wanted

    def search(
        self,
        query: Query,
        *,
        k: int = 10,
        probes: int = PER_IMAGE,
        exact: bool = False,
        recall: float | None = None,
        category: str | None = None,
        under: AnyPath | None = None,
        min_similarity: float | None = None,
        without: Query | Iterable[Query] = (),
        add: bool = False,
    ) -> Result:
        """Return the k images most like a query: a path, a PIL image, or uint8 RGB pixels (h, w, 3).

        Searched are the shards of the query's own four categories; ``probes`` says how many instead (the further ones
        by the nearness of their centroids), ``exact`` all. ``recall`` (0.95): instead, in the order in which blocks of
        them are near, as far as it takes to find that share of the ten nearest, as measured on the collection itself
        (see :mod:`catdb.recall`). At most one of the three. A query whose bytes are in the database needs no network,
        and one whose file is not there but known to the database is searched with by what is stored of it; the notes
        say so.

        ``category`` (id or name): return images of that category only; its shard is searched whole, and it alone,
        whatever the query's own are. ``under``: return images at or below that path only; searched further, by
        centroids, until k of them were compared, or all. ``min_similarity``: return none with a lower cosine.
        ``without``: images that the query is turned away from, see :func:`catdb.questions.without`. ``add``: the
        query, a file, joins the database first, as by :meth:`add` and with no second network pass; it then finds
        itself.

        Raises ImageUnreadable, CategoryUnknown, PathNotFound (``under``), ValueError for an option that is out of its
        range, TypeError for one of another kind, and with ``add`` as that does.
        """
        how = How(
            probes=probes, exact=exact, recall=recall, category=category, under=under, min_similarity=min_similarity
        )
        [result] = self.search_many([query], k=k, without=without, add=add, **how)
        return readable(result)

    def search_many(
        self,
        queries: Iterable[Query],
        *,
        k: int = 10,
        without: Query | Iterable[Query] = (),
        add: bool = False,
        **how: Unpack[How],
    ) -> Iterator[Result | Failure]:
        """Yield the answer to each query in order, a Failure for one that cannot be read (its path is empty where the
        query is no file). Shares network passes. The options are those of :meth:`search`.
        """
        queries, reach = _require_several(queries), self._reach(k, **how)
        if add:
            queries = list(queries)
        joined = self._join(queries) if add else _Joined()
        answers = answer(self._store, self._engine, queries, reach, _several(without))
        return (joined.mark(result) for result in answers)

    def search_together(
        self,
        queries: Iterable[Query],
        *,
        k: int = 10,
        without: Query | Iterable[Query] = (),
        add: bool = False,
        **how: Unpack[How],
    ) -> Result:
        """Return the k images most like several images at once, with the options of :meth:`search`.

        Asked is for the mean of their unit vectors (d,), in the four categories with the highest mean probability.
        Raises as :meth:`search` does, and ValueError where there are none or they cancel each other out.
        """
        queries, reach = list(_require_several(queries)), self._reach(k, **how)
        joined = self._join(queries) if add else _Joined()
        result = answer_together(self._store, self._engine, queries, reach, _several(without))
        return readable(joined.mark(result))

    def search_text(
        self, text: str, *, k: int = 10, without: Query | Iterable[Query] = (), **how: Unpack[How]
    ) -> Result:
        """Return the k images most typical of the categories whose names share the most words with a text.

        There is no text model: asked is for the mean of these categories' centroids, in all of their shards, and the
        notes say which they are. The options are those of :meth:`search`. Raises CategoryUnknown, with near names.
        """
        return answer_text(self._store, self._engine, text, self._reach(k, **how), _several(without))

    def search_vector(self, vector: NDArray[np.floating[Any]], *, k: int = 10, **how: Unpack[How]) -> Result:
        """Return the k images nearest to a vector (d,), of any length; it has no categories, so centroids route it.

        The options are those of :meth:`search`.
        """
        return answer_vector(self._store, vector, self._reach(k, **how))

    def search_image(self, id: int, *, k: int = 10, **how: Unpack[How]) -> Result:
        """Return the k images most like one of the database, given by its number; it needs no network and no file.

        The options are those of :meth:`search`. Raises ImageUnknown.
        """
        point, path = browse.point(self._store, id)
        return answer_point(self._store, point, self._reach(k, **how), path)

    def search_point(self, point: Point, *, k: int = 10, **how: Unpack[How]) -> Result:
        """Return the k images most like what :meth:`embed` has made of an image, with the options of :meth:`search`.

        Raises BackboneMismatch where the database was made anew, with another network, since this one was opened.
        """
        self._store.require_maker(self._engine.maker)
        return answer_point(self._store, point, self._reach(k, **how))

    def load(self) -> tuple[int, int]:
        """Load the network now, not with the first image; return the (height, width) of the pixels that it takes.

        Raises WeightsNotFound, WeightsInvalid, EngineFailed and what else may be wrong with a network.
        """
        return self._engine.get().input_size

    def embed(self, pixels: NDArray[np.uint8]) -> list[Point]:
        """Return what one network pass makes of images (n, height, width, 3) of the size that :meth:`load` says."""
        return embedded(self._engine, pixels)

    def recall(self, *, sample: int = 1000, k: int = 10, progress: Tell = lambda step: None) -> tuple[Measured, ...]:
        """Measure what searches of each kind find of what an exact one does, on images of this collection.

        For the default, for several ``probes`` and for several recall targets: the share of the k nearest that is
        found, how often the nearest is, and the share of the images that is compared. Each of ``sample`` images is a
        query, and left out of its own answer. Raises ValueError where there are not more than k images.
        """
        from catdb.quality import measure

        return measure(self._store, sample, k, partial(told(progress), "measuring"))

    def why(self, a: AnyPath, b: AnyPath) -> Why:
        """Say how alike two images are, in which shards they meet, and whether a search with one finds the other.

        They are paths of images that are in the database or not; one that is not costs a network pass. Raises
        PathNotFound where one neither exists nor is known. One that cannot be read is told of in the answer.
        """
        from catdb.why import why

        return why(self._store, self._engine, absolute(a), absolute(b))

    def _reach(
        self,
        k: int,
        *,
        category: str | None = None,
        under: AnyPath | None = None,
        min_similarity: float | None = None,
        **far: Any,
    ) -> Reach:
        """Return how far a search with these options goes. Raises as :meth:`search` does for what is amiss."""
        number = None if category is None else self._category_number(category)
        return Reach(k, **far, only=Filter(number, None if under is None else absolute(under), min_similarity))

    def _category_number(self, name: str) -> int:
        with self._store.snapshot():  # else the names might be those of a database that was there before
            return category_named(name, self._store.categories())

    def _join(self, queries: Iterable[Query]) -> _Joined:
        """Have queries join the database, so far as they are files. Raises TypeError for one that is no path."""
        paths = []
        for query in queries:
            if not isinstance(query, str | os.PathLike):
                raise TypeError(f"only a file can be added, not a query of type {type(query).__name__}")
            if os.path.lexists(absolute(query)) and not os.path.isdir(absolute(query)):
                paths.append(absolute(query))
        joined = _Joined()
        if paths:
            report = curate.add(self._store, self._engine, self._wanted, curate.named(paths), announce=joined.announce)
            joined.refused.update({failure.path: failure.reason for failure in report.failed})
        return joined


@dataclass(frozen=True, slots=True)
class _Joined:
    """Which queries have joined the database, and why others could not."""

    paths: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)

    def announce(self, event: Event) -> None:
        if event.kind in ("added", "changed", "moved"):
            self.paths.add(event.path)

    def mark(self, result: Result | Failure) -> Result | Failure:
        """Return an answer that says whether its query has joined."""
        if isinstance(result, Failure) or not (self.paths or self.refused):
            return result
        asked = [path for path in (result.query, *result.together) if path]
        refused = [f"{path} was not added: {self.refused[path]}" for path in asked if path in self.refused]
        return replace(result, added=any(path in self.paths for path in asked), notes=(*result.notes, *refused))


def _require_several(queries: Iterable[Query]) -> Iterable[Query]:
    """Return several queries as they are. Raises TypeError for one alone: a path would be taken for its letters."""
    if isinstance(queries, str | os.PathLike) or not isinstance(queries, Iterable):
        raise TypeError(f"several queries are asked for, not one {type(queries).__name__}: put it in a list")
    return queries


def _several(queries: Query | Iterable[Query]) -> list[Query]:
    """Return one query, or several, as a list."""
    one = isinstance(queries, str | os.PathLike | np.ndarray) or not isinstance(queries, Iterable)
    return [queries] if one else list(queries)  # type: ignore[list-item, arg-type]
