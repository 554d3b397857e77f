"""Why one image is found with another, or is not: how alike they are, where they meet, what stands between them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from catdb import search
from catdb.backbones import PER_IMAGE, Engine
from catdb.calibration import chance
from catdb.catalog import is_removed
from catdb.errors import PathNotFound
from catdb.images import Content, Failure, Stamp, excluded, fingerprint
from catdb.lookup import points
from catdb.query import Prediction, answer_point
from catdb.questions import Point
from catdb.reach import Reach
from catdb.roots import Roots
from catdb.snapshot import Snapshot
from catdb.store import Store

if TYPE_CHECKING:
    from catdb.catalog import Image

_RANKS = (100, 1000)  # how far down the matches the other is looked for: first so far, then so far


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two images, and what the database knows of it.

    ``state``: "indexed", "changed" or "away" (indexed; its file is another now, or not there), "removed", "failed",
    "excluded", "unknown" (no build has seen it), "outside" (it is in no folder of the database), or "unreadable".
    """

    path: str
    state: str
    detail: str  # what that means, where it is not simply indexed
    stands: bool  # it stands in shards, so searches can find it
    categories: tuple[Prediction, ...]  # none where it cannot be read


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a search with one image finds the other: ``by_default``, else with so many ``probes`` (or exact).

    ``probes`` is None where the other is in no shard. ``rank`` is among ``scanned`` images, searched with the default
    or so many probes; None where it is not among the first ``looked``.
    """

    by_default: bool = False
    probes: int | None = None
    rank: int | None = None
    scanned: int = 0
    looked: int = 0


@dataclass(frozen=True, slots=True)
class Why:
    """What connects two images and what stands between them. The numbers are None where one cannot be read."""

    a: Side
    b: Side
    similarity: float | None
    percentile: float | None  # the share of random pairs that are less alike, as in Match
    ceiling: float | None
    shared: tuple[Prediction, ...]  # categories of both, with the probability that A has of them
    a_finds_b: Finding
    b_finds_a: Finding


def why(store: Store, engine: Engine, a: str, b: str) -> Why:
    """Compare two images, given as absolute paths. Raises PathNotFound where one neither exists nor is known."""
    with store.snapshot() as snapshot:
        for path in (a, b):
            if not os.path.lexists(path) and _look(store, snapshot, path)[1] is None:
                raise PathNotFound(f"{path}: no such file, and the database knows no image of that name")
    one, other = points(store, engine, [a, b])
    of_a, of_b = _side(store, a, one), _side(store, b, other)
    if isinstance(one, Failure) or isinstance(other, Failure):
        return Why(of_a, of_b, None, None, None, (), Finding(), Finding())
    [similarity] = search.similarities(other.vector[None], one.vector).tolist()
    with store.snapshot() as snapshot:
        scores = chance(snapshot, snapshot.catalog.count())
    theirs = {category.id for category in of_b.categories}
    return Why(
        of_a,
        of_b,
        min(similarity, 1.0),
        scores.percentile(similarity) if scores else None,
        scores.ceiling if scores else None,
        tuple(category for category in of_a.categories if category.id in theirs),
        _finding(store, one, other, of_b),
        _finding(store, other, one, of_a),
    )


def _look(store: Store, snapshot: Snapshot, path: str) -> tuple[tuple[int, bytes] | None, Image | None]:
    place = Roots(snapshot.catalog.roots(), store.path).place(path)
    return place, snapshot.catalog.image_at(*place) if place else None


def _side(store: Store, path: str, point: Point | Failure) -> Side:
    """Say what the database knows of an image, and what keeps it out if it is not in."""
    names, ranked = store.categories(), () if isinstance(point, Failure) else point.categories
    categories = tuple(Prediction(*names[category], probability) for category, probability in ranked)
    with store.snapshot() as snapshot:
        place, known = _look(store, snapshot, path)
        if known:
            state, detail = _of_indexed(known, path)
        else:
            state, detail = _of_missing(store, snapshot, path, place)
    if isinstance(point, Failure):
        state, detail = ("unreadable" if state == "unknown" else state), point.reason
    return Side(path, state, detail, known is not None, categories)


def _of_indexed(known: Image, path: str) -> tuple[str, str]:
    try:
        if Stamp.of(os.stat(path)) == known.stamp:
            return "indexed", ""
    except OSError:
        return "away", "its file is not there now; what is stored of it is compared"
    content = fingerprint(path)
    if isinstance(content, Content) and content.digest == known.digest:
        return "indexed", ""  # it was only touched
    return "changed", "the file has changed since it was indexed; catdb build takes that in"


def _of_missing(store: Store, snapshot: Snapshot, path: str, place: tuple[int, bytes] | None) -> tuple[str, str]:
    catalog = snapshot.catalog
    if place is None:
        return "outside", f"it is in no folder of the database{_copies(store, snapshot, path)}"
    root, below = place
    if is_removed(below, catalog.removed(root)):
        return "removed", "it was removed by hand; catdb add takes it back"
    reason = next((reason for *at, reason in catalog.failures() if tuple(at) == place), None)
    if reason is not None:
        return "failed", f"it could not be read: {reason}"
    for glob in catalog.excludes():
        if excluded(os.fsdecode(below), [glob]):
            return "excluded", f"it is left out by --exclude {glob}; catdb build --include {glob} takes that back"
    return "unknown", f"no build has taken it in yet; catdb build does{_copies(store, snapshot, path)}"


def _copies(store: Store, snapshot: Snapshot, path: str) -> str:
    """Say of which indexed image a file is a copy, if it is one."""
    content = fingerprint(path)
    known = next(snapshot.catalog.images_of(content.digest), None) if isinstance(content, Content) else None
    if not known:
        return ""
    return f"; a copy of {Roots(snapshot.catalog.roots(), store.path).path(known.root, known.path)}, which is"


def _finding(store: Store, one: Point, other: Point, side: Side) -> Finding:
    """Find out whether a search with one point finds the image of another, at the rank of its place."""
    if not side.stands:
        return Finding()
    own = [category for category, _ in one.categories]
    with store.snapshot() as snapshot:
        _, known = _look(store, snapshot, side.path)
        homes = set(known.categories) if known else set()
        regions = snapshot.regions()
        order = search.route(own, regions, snapshot.short(one.vector), len(regions) + len(own))
    probes = next((place for place, category in enumerate(order, 1) if category in homes), None)
    if probes is None:
        return Finding()
    for k in _RANKS:
        result = answer_point(store, one, Reach(k, max(probes, PER_IMAGE)))
        rank = next((match.rank for match in result if match.path == side.path), None)
        if rank or result.scanned <= k:
            break
    finding = Finding(probes <= PER_IMAGE, max(probes, PER_IMAGE), rank, result.scanned, len(result))
    # Where its own categories hold nothing a search widens by itself, and may come upon the other after all.
    return replace(finding, by_default=True) if result.widened and rank else finding
