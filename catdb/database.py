"""Database: a folder of shards and a catalog, kept in step with folders of images and searched by image."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Unpack

import numpy as np
from numpy.typing import NDArray

from catdb import backbones, browse
from catdb import backup as backing_up
from catdb import check as checking
from catdb import export as exporting
from catdb import relocate as relocating
from catdb.backbones import DEFAULT, PER_IMAGE, Canary, Embedder, Engine, Recipe, canonical
from catdb.backbones.table import GRAPH
from catdb.backup import Backup
from catdb.browse import ImageInfo, Page, Status
from catdb.catalog import Catalog, is_forgotten, is_removed
from catdb.check import Check
from catdb.encoding import STORES, store_of
from catdb.errors import (
    BackboneMismatch,
    DatabaseNotFound,
    ImageUnreadable,
    PathNotFound,
    StorageError,
)
from catdb.filters import Filter
from catdb.images import Decoders, Failure
from catdb.ingest import Event
from catdb.lock import Lock
from catdb.mounts import filesystem, is_remote
from catdb.query import (
    How,
    Query,
    Reach,
    Result,
    answer,
    answer_point,
    answer_text,
    answer_together,
    answer_vector,
    embedded,
)
from catdb.questions import Point, category_named
from catdb.reconcile import Means, Progress, Report, reconcile, require
from catdb.relocate import Moved
from catdb.roots import Roots, absolute
from catdb.snapshot import Snapshot
from catdb.store import Store

if TYPE_CHECKING:
    from catdb.duplicates import Duplicates
    from catdb.quality import Measured
    from catdb.watch import Notice, Watch
    from catdb.why import Why

_OWN = frozenset(
    ("LOCK", "WATCH", "catalog.sqlite", "catalog.sqlite-journal", "catalog.sqlite-wal", "catalog.sqlite-shm", "shards")
)


@dataclass(frozen=True, slots=True)
class RootInfo:
    """A folder that the database knows. ``online``: it is there, and was not found emptied."""

    path: str
    online: bool
    images: int
    whole: bool  # kept in step with everything in it; else only single files of it are known
    reconciled: float | None  # when it last was, in seconds since the epoch


@dataclass(frozen=True, slots=True)
class Info:
    """What a database is and holds."""

    path: str
    images: int
    failed: int
    categories: int  # that hold images
    pending: int  # memberships that wait to be folded into a shard
    bytes: int  # on disk
    backbone: str
    weights_sha256: str | None
    engine: str
    precision: str
    cache: str | None  # where the converted network is, if it is
    dimension: int
    dimensions: int | None  # to which shards are to shorten vectors, None where they are to hold them whole
    shortened: bool  # whether they do so already
    store: str  # the numbers that shards hold: "float16" or "int8"
    format: int
    created: float
    roots: tuple[RootInfo, ...]
    excludes: tuple[str, ...]
    watcher: str | None  # the process that keeps it in step, if one does


@dataclass(frozen=True, slots=True)
class CategoryInfo:
    """A category that holds images."""

    id: str
    name: str
    images: int


class Database:
    """A category-partitioned image database in a directory.

    Opening an existing one needs neither network nor weights: it remembers its own. A new one comes into being with
    the first build or add, once its network has been loaded; until then nothing is written. Threads may share a
    Database; a process forked from this one must open its own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mode: str = "a",
        backbone: str | Embedder | None = None,
        weights: str | os.PathLike[str] | None = None,
        engine: str = "auto",
        precision: str = "auto",
        dimensions: int | None = None,
        store: str | None = None,
        wait: float = 10.0,
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Open the database at ``path``; with mode "r" as a reader that takes no lock and never writes.

        ``backbone`` (a name, or an :class:`~catdb.backbones.Embedder`; by default inception_resnet_v2) and ``weights``
        ("imagenet" or a file) are for a new database; an existing one raises BackboneMismatch where they are not its
        own. ``engine`` ("openvino", "tensorflow") and ``precision`` ("f32", "bf16") say what runs the network, see
        :class:`~catdb.backbones.Recipe`. ``dimensions`` (of a new database; an existing one keeps to its own) has the
        shards hold vectors shortened to so many, see :mod:`catdb.projection`, and ``store`` ("int8", likewise) has them
        hold a byte for each number instead of two, see :mod:`catdb.encoding`. ``wait``: seconds to wait for another
        writer. ``notice`` is told in a line what takes long.

        Raises DatabaseNotFound (mode "r"), DatabaseDamaged, BackboneUnknown, and StorageError where the path is a file
        or a folder that holds something else.
        """
        if mode not in ("a", "r"):
            raise ValueError(f"mode is {mode!r}: it is 'a' to read and write, or 'r' to read")
        if store not in (None, *STORES):
            raise ValueError(f"store is {store!r}: it is {' or '.join(map(repr, STORES))}")
        self.path = absolute(path)
        self._store = Store(self.path, writable=mode == "a", wait=wait)
        self._notice = notice
        self._dimensions, self._stored = dimensions, store
        self._engine: Engine
        running = Recipe(engine=engine, precision=precision)
        exists = self._store.exists()
        kind = filesystem(self.path)
        if is_remote(kind) and exists:
            notice(f"{self.path} is on a network file system ({kind}): beside other machines it is not safe there")
        if exists:
            self._open(backbone, weights, running)
        elif mode == "r":
            raise DatabaseNotFound(f"{self.path}: there is no database here; catdb build makes one")
        else:
            if is_remote(kind):
                raise StorageError(
                    f"{self.path}: on a network file system ({kind}), where a database is not safe: name a folder on a"
                    " local disk; the images may stay where they are"
                )
            _require_room(self.path)
            if backbone is None or isinstance(backbone, str):
                name = canonical(backbone or DEFAULT)
                self._engine = Engine(replace(running, backbone=name, weights=str(weights or "imagenet")), notice)
            else:
                self._engine = Engine(backbone, notice)

    def _open(self, backbone: str | Embedder | None, weights: str | os.PathLike[str] | None, running: Recipe) -> None:
        with self._store.snapshot() as snapshot:
            meta = snapshot.catalog.meta()
        own, sha256 = meta["backbone"], meta["weights_sha256"]
        asked = own if backbone is None else canonical(backbone) if isinstance(backbone, str) else backbone.backbone
        if asked != own:
            raise BackboneMismatch(
                f"{self.path} was built with {own}, not {asked}: leave --backbone out, or build another database"
            )
        if self._dimensions not in (None, meta.get("dimensions")):
            kept = meta.get("dimensions")
            has = f"keeps {kept} dimensions" if kept else "keeps whole vectors"
            raise BackboneMismatch(f"{self.path} {has}: leave --dimensions out, or build another database")
        if self._stored not in (None, store_of(meta)):
            raise BackboneMismatch(
                f"{self.path} keeps {store_of(meta)} numbers: leave --store out, or build another database"
            )
        if meta["graph"] != GRAPH:
            raise BackboneMismatch(
                f"{self.path} was built by another version of {own} in catdb: build a new one from the images"
            )
        if backbone is not None and not isinstance(backbone, str):
            if (backbone.weights_sha256, backbone.dimension) != (sha256, meta["dimension"]):
                raise BackboneMismatch(f"{self.path} was built with other weights of {own}: give those")
            self._engine = Engine(backbone, self._notice)
            return
        hint = os.fsdecode(meta["weights_path"]) if meta["weights_path"] else None
        recipe = replace(running, backbone=own, sha256=sha256, hint=hint, remembered=meta["precision"])
        if weights is not None and str(weights) != "imagenet":
            backbones.check_weights(own, str(weights), sha256)
            recipe = replace(recipe, weights=str(weights))
        vectors = np.frombuffer(meta["canary"], "<f2").reshape(-1, meta["dimension"])
        self._engine = Engine(recipe, self._notice, Canary(vectors, meta["precision"]) if len(vectors) else None)

    def close(self) -> None:
        """Close it; it can be used again all the same."""
        self._store.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what is in it ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        if not self._store.exists():
            return 0
        with self._store.snapshot() as snapshot:
            return snapshot.catalog.count()

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, str | os.PathLike) or not self._store.exists():
            return False
        with self._store.snapshot() as snapshot:
            place = self._roots(snapshot).place(absolute(path))
            return place is not None and snapshot.catalog.image_at(*place) is not None

    def __iter__(self) -> Iterator[str]:
        """Yield the absolute path of every image, by folder and name."""
        if not self._store.exists():
            return
        with self._store.snapshot() as snapshot:
            roots = self._roots(snapshot)
            for image in snapshot.catalog.images():
                yield roots.path(image.root, image.path)

    def info(self) -> Info:
        """Return what the database is and holds."""
        with self._store.snapshot() as snapshot:
            catalog, roots = snapshot.catalog, self._roots(snapshot)
            meta, loads = catalog.meta(), snapshot.populated.values()
            return Info(
                path=self.path,
                images=catalog.count(),
                failed=catalog.failed(),
                categories=len(loads),
                pending=sum(load.pending for load in loads),
                bytes=_bytes_below(self.path),
                roots=tuple(
                    RootInfo(
                        roots.folder(root.id),
                        not root.offline and os.path.isdir(roots.folder(root.id)),
                        catalog.count_of(root.id),
                        root.whole,
                        root.reconciled,
                    )
                    for root in roots.all
                    if not is_forgotten(catalog.removed(root.id))
                ),
                dimensions=meta.get("dimensions"),
                shortened=catalog.projection() is not None,
                store=store_of(meta),
                cache=backbones.cached(meta["backbone"], meta["weights_sha256"]),
                excludes=tuple(catalog.excludes()),
                watcher=self.watcher(),
                format=catalog.format(),
                **{k: meta[k] for k in ("backbone", "weights_sha256", "engine", "precision", "dimension", "created")},
            )

    def failures(self) -> list[Failure]:
        """Return the files that could not be read, with the reason of each."""
        with self._store.snapshot() as snapshot:
            roots = self._roots(snapshot)
            return [Failure(roots.path(root, path), reason) for root, path, reason in snapshot.catalog.failures()]

    def categories(self) -> list[CategoryInfo]:
        """Return the categories that hold images, the fullest first."""
        with self._store.snapshot() as snapshot:
            names = self._store.categories()
            found = [CategoryInfo(*names[x.category], x.images) for x in snapshot.populated.values()]
        return sorted(found, key=lambda category: (-category.images, category.id))

    def category(self, name: str) -> list[tuple[str, float]]:
        """Return (path, probability) of the images of a category, given by id or name, most probable first.

        Raises CategoryUnknown, with the choices, where there is none or several share the name.
        """
        with self._store.snapshot() as snapshot:
            number = self._category_number(name)
            roots = self._roots(snapshot)
            ranked = snapshot.catalog.probabilities(number)
            known = snapshot.catalog.images_by_id([image for image, _ in ranked])
            return [(roots.path(known[i].root, known[i].path), chance) for i, chance in ranked if i in known]

    def status(self) -> Status:
        """Return how much there is, and what tells whether that has changed: what is cheap of :meth:`info`."""
        return browse.status(self._store)

    def watcher(self) -> str | None:
        """Return the process that keeps the database in step, if one does."""
        return Lock.of_watcher(self.path).holder()

    def image(self, id: int) -> ImageInfo:
        """Return an image by its number, as :attr:`Match.id` says it. Raises ImageUnknown."""
        return browse.image(self._store, id)

    def image_of(self, content: BinaryIO) -> ImageInfo | None:
        """Return the oldest image whose file holds exactly what a stream does; None where there is none."""
        return browse.image_of(self._store, content)

    def images(self, *, category: str | None = None, after: str | None = None, limit: int = 100) -> Page:
        """Return a page of the images, by folder and name; of a category (id or name) the most probable first.

        ``after``: the ``next`` of the page before. Raises CategoryUnknown, and ValueError for what is no such cursor.
        """
        if limit < 1:
            raise ValueError(f"limit is {limit}: it must be at least 1")
        if category is None:
            return browse.page(self._store, after, limit)
        return browse.page_of(self._store, self._category_number(category), after, limit)

    def open_image(self, id: int) -> BinaryIO:
        """Open the file of an image for reading, if it lies below the folders of the database, links and all.

        Raises ImageUnknown, PathNotFound where it cannot be opened, and ImageUnreadable where it lies elsewhere.
        """
        return browse.open_image(self._store, id)

    def category_id(self, name: str) -> str:
        """Return the id of a category, given by id or name. Raises CategoryUnknown."""
        return self._store.category_id(self._category_number(name))

    def _category_number(self, name: str) -> int:
        return category_named(name, self._store.categories())

    def _roots(self, snapshot: Snapshot) -> Roots:
        return Roots(snapshot.catalog.roots(), self.path)

    # --- copies -------------------------------------------------------------------------------------------------

    def duplicates(
        self,
        *,
        similarity: float = 0.93,
        jobs: int | None = None,
        progress: Callable[[Progress], None] = lambda step: None,
    ) -> Duplicates:
        """Find the images that are copies of one another, as :mod:`catdb.duplicates` says; also in mode "r".

        In three tiers: equal bytes; equal pixels; and near, that is re-encoded, resized or slightly cropped, alike by
        at least ``similarity`` (0 to 1) in every part. Nothing is deleted. Files that are missing or cannot be read are
        listed in ``.unread``.
        """
        from catdb.duplicates import find  # nothing else needs it

        if not 0 < similarity <= 1:
            raise ValueError(f"similarity is {similarity}: it must be above 0 and at most 1")
        with Decoders() as decoders:
            return find(
                self._store,
                decoders,
                similarity=similarity,
                jobs=jobs,
                tell=lambda step, done, of: progress(Progress(step, done, of, 0)),
            )

    def mark_distinct(self, *paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> int:
        """Remember by their content that images are no duplicates, each of each other; return how many pairs are new.

        It holds for these contents wherever they lie, and whatever is removed, added or built again in this database.
        Files of the same bytes can be named too: they are listed as duplicates no more. Raises PathNotFound for what is
        not in the database, and ValueError for fewer than two images.
        """
        targets = _paths(paths)
        if len(targets) < 2:  # the same one named twice is one
            raise ValueError("name at least two different images")
        with self._store.writing() as catalog, catalog.transaction():
            roots = Roots(catalog.roots(), self.path)
            digests = []
            for path in targets:
                place = roots.place(path)
                image = catalog.image_at(*place) if place else None
                if image is None:
                    raise PathNotFound(f"{path}: not an image of the database; nothing was changed")
                digests.append(image.digest)
            return catalog.add_distinct_pairs(combinations(digests, 2))

    # --- keeping it in step -------------------------------------------------------------------------------------

    def build(
        self,
        *targets: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        exclude: Iterable[str] = (),
        include: Iterable[str] = (),
        prune: bool = False,
        jobs: int | None = None,
        progress: Callable[[Progress], None] = lambda step: None,
    ) -> Report:
        """Bring the database in step with folders (and single files); without any, with all that it knows.

        Adds what is new, embeds again what changed, follows what moved without a network pass, and drops what is gone,
        in the named folders only. ``exclude`` adds globs to those remembered of what not to find, ``include`` takes
        remembered ones back. ``prune`` drops the images of folders that seem to be away. Files that cannot be read
        are listed in the report. Raises PathNotFound, and on the first use WeightsNotFound or WeightsInvalid.
        """
        paths = _paths(targets) if targets else None
        if not self._store.exists():
            _require_paths(paths or ())
        self._create()
        require(self._store, paths or ())
        self._set_excludes(_globs(exclude), _globs(include))
        with Decoders() as decoders:
            means = Means(self._store, self._engine, decoders, jobs, progress)
            report = reconcile(means, paths, prune=prune)
        self._say_removed(paths or ())
        return report

    def add(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        jobs: int | None = None,
        progress: Callable[[Progress], None] = lambda step: None,
    ) -> Report:
        """Add files and folders, among them what was removed by hand before. Drops nothing. Raises as build does."""
        return self._add(_paths([paths]), jobs=jobs, progress=progress)

    def _add(self, targets: Sequence[str], **means: Any) -> Report:
        _require_paths(targets)
        self._create()
        with Decoders() as decoders:
            return reconcile(Means(self._store, self._engine, decoders, **means), targets, adding=True)

    def watch(
        self,
        *folders: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        exclude: Iterable[str] = (),
        include: Iterable[str] = (),
        prune: bool = False,
        rescan: float = 600.0,
        poll: bool = False,
        alert: float | None = None,
        jobs: int | None = None,
        announce: Callable[[Notice], None] = lambda notice: None,
        progress: Callable[[Progress], None] = lambda step: None,
    ) -> Watch:
        """Return a context manager that keeps the database in step with folders (none: all it knows) in a thread.

        ``rescan``: seconds between two looks at everything, whatever events have told. ``poll``: do without events.
        ``announce`` is told of each change, in that thread, when a search finds it; with ``alert`` (a similarity) also
        of what a new image resembles. ``prune``: at the first look. ``exclude``, ``include``, ``jobs`` and ``progress``
        as in :meth:`build`.

            with db.watch("Pictures") as watch:
                watch.wait_idle(60)

        Raises, before it begins, as :meth:`build` does; DatabaseBusy where another process watches the database.
        """
        from catdb.watch import Manner, Watch  # it takes watchdog, which nothing else needs

        paths = _paths(folders) if folders else None
        if not self._store.exists():
            _require_paths(paths or ())
        for path in paths or ():
            if os.path.lexists(path) and not os.path.isdir(path):
                raise PathNotFound(f"{path}: not a folder; name the folder it is in, or use build for single files")
        self._create()
        require(self._store, paths or ())
        self._set_excludes(_globs(exclude), _globs(include))
        self._say_removed(paths or ())
        manner = Manner(rescan=rescan, poll=poll, alert=alert, jobs=jobs, prune=prune)
        return Watch(
            self._store, self._engine, paths, manner, announce=announce, notice=self._notice, progress=progress
        )

    def remove(self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> int:
        """Remove images, or all of a folder; return how many. The files stay, and stay out until they are added.

        Raises PathNotFound, before anything is removed, for a path that no folder of the database holds, or that
        neither exists nor is known.
        """
        targets = _paths([paths])
        count = 0
        with self._store.writing() as catalog, catalog.transaction():
            roots = Roots(catalog.roots(), self.path)
            for path in targets:
                place = roots.place(path)
                if not place and not roots.inside(path):
                    raise PathNotFound(f"{path}: in no folder of the database; nothing was removed")
                if place and place[1] and not os.path.lexists(path) and not catalog.is_known(*place):
                    raise PathNotFound(f"{path}: no such file or folder; nothing was removed")
            for path in targets:
                place = roots.place(path)
                for root, below in [place] if place else [(inner.id, b"") for inner in roots.inside(path)]:
                    count += _remove(catalog, root, below)
        self._store.fold_due(at_rest=False)
        return count

    def compact(self, *, refit: bool = False, progress: Callable[[Progress], None] = lambda step: None) -> int:
        """Fold everything that waits or is dead into the shards; return how many shards were made anew.

        ``refit``: first learn from the images how vectors are best shortened, where the database has ``dimensions``,
        and make all shards anew.
        """
        if refit and not self._store.refit(force=True):
            self._notice(
                "nothing to fit: the database keeps whole vectors, or has fewer images than dimensions to keep"
            )
        return self._store.fold_all(progress=lambda done, of: progress(Progress("folding", done, of, 0)))

    def check(self, repair: bool = False) -> Check:
        """Check catalog, shards and vectors; with ``repair`` first make damaged shards anew from the catalog."""
        if not repair:
            return checking.check(self._store)
        done = checking.repair(self._store)
        return replace(checking.check(self._store), repaired=done.lines)

    def backup(
        self,
        target: str | os.PathLike[str],
        *,
        link: bool = False,
        progress: Callable[[Progress], None] = lambda step: None,
    ) -> Backup:
        """Copy the database, as it is at this moment, to a folder that is new or empty; also in mode "r".

        Writers are not held up. Every shard is verified as it arrives, and one that is damaged made anew in the copy.
        ``link``: hard links instead of copies of the shards, in no time and space, but no second copy of their bytes.
        The images stay where they are. Raises StorageError where the folder will not do or the disk is full.
        """
        path = absolute(target)
        kind = filesystem(path)
        if is_remote(kind):
            self._notice(f"{path} is on a network file system ({kind}): copy it to a local disk before it is used")
        return backing_up.backup(
            self._store, path, link=link, tell=lambda step, done, of: progress(Progress(step, done, of, 0))
        )

    def export(
        self,
        target: str | os.PathLike[str] | IO[bytes],
        *,
        form: str = "csv",
        vectors: bool = False,
        progress: Callable[[Progress], None] = lambda step: None,
    ) -> int:
        """Write a table of all images to a file or a binary stream, as "csv" or "npz"; return how many images.

        Path, size and categories of each, and with ``vectors`` its vector; the columns are listed in
        :mod:`catdb.export`. A file that exists is replaced once the new one is whole. Raises StorageError.
        """
        place = absolute(target) if isinstance(target, str | os.PathLike) else target
        return exporting.export(
            self._store, place, form, vectors=vectors, tell=lambda step, done, of: progress(Progress(step, done, of, 0))
        )

    def relocate(
        self,
        old: str | os.PathLike[str],
        new: str | os.PathLike[str],
        *,
        progress: Callable[[Progress], None] = lambda step: None,
    ) -> list[Moved]:
        """Have every folder of the database at or below ``old`` be known below ``new``, to which its images have moved.

        First a sample of each is compared by content, see :mod:`catdb.relocate`. The next build looks through the new
        place without a network pass. Raises PathNotFound and RelocationRefused; nothing has been changed then.
        """
        return relocating.relocate(
            self._store,
            absolute(old),
            absolute(new),
            tell=lambda done, of: progress(Progress("comparing", done, of, 0)),
        )

    def _create(self) -> None:
        """Bring a new database into being, once its network has proved to be at hand."""
        if self._store.exists():
            return
        from importlib.metadata import version  # slow to import, and needed just once

        embedder = self._engine.get()
        for category in embedder.categories:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", category.id):
                raise ValueError(f"{category.id!r} cannot be a category's id: it names a folder")
        if self._dimensions is not None and not 0 < self._dimensions <= embedder.dimension:
            raise BackboneMismatch(
                f"{embedder.backbone} has {embedder.dimension} dimensions: --dimensions {self._dimensions} must be"
                " from 1 to that"
            )
        path = self._engine.weights_path
        canary = self._engine.canary().vectors.tobytes() if path or embedder.backbone in backbones.names() else b""
        meta = {
            "backbone": embedder.backbone,
            "weights_sha256": embedder.weights_sha256,
            "weights_path": os.fsencode(path) if path else None,
            "canary": canary,
            "graph": GRAPH,
            "engine": embedder.engine,
            "precision": embedder.precision,
            "dimension": embedder.dimension,
            "dimensions": self._dimensions,
            "store": self._stored or STORES[0],
            "created": time.time(),
            "catdb": version("catdb"),
        }
        self._store.create(meta, [(category.id, category.name) for category in embedder.categories])
        with self._store.snapshot() as snapshot:
            found = snapshot.catalog.meta()
        properties = ("backbone", "weights_sha256", "graph", "dimension", "dimensions", "store")
        if any(found[name] != meta[name] for name in properties):
            raise BackboneMismatch(
                f"{self.path} was made by another process meanwhile, with {found['backbone']}; run it again"
            )

    def _set_excludes(self, exclude: set[str], include: set[str]) -> None:
        if exclude or include:
            with self._store.writing() as catalog, catalog.transaction():
                known = set(catalog.excludes()) | exclude
                catalog.set_excludes(known - include)
            for glob in sorted(include - known):
                self._notice(f"{glob} was not excluded; catdb info lists what is")

    def _say_removed(self, paths: Iterable[str]) -> None:
        """Say of what was named and stays out nevertheless how it comes back."""
        with self._store.snapshot() as snapshot:
            roots = self._roots(snapshot)
            for path in paths:
                place = roots.place(path)
                if place and is_removed(place[1], snapshot.catalog.removed(place[0])):
                    self._notice(f"{path} was removed by hand and stays out; catdb add takes it back")

    # --- searching ----------------------------------------------------------------------------------------------

    def search(
        self,
        query: Query,
        *,
        k: int = 10,
        probes: int = PER_IMAGE,
        exact: bool = False,
        recall: float | None = None,
        category: str | None = None,
        under: str | os.PathLike[str] | None = None,
        min_similarity: float | None = None,
        without: Query | Iterable[Query] = (),
        add: bool = False,
    ) -> Result:
        """Return the k images most like a query: a path, a PIL image, or uint8 RGB pixels (h, w, 3).

        Searched are the shards of the query's own four categories; ``probes`` says how many instead (the further ones
        by the nearness of their centroids), ``exact`` all. ``recall`` (0.95): instead, in the order in which blocks of
        them are near, as far as it takes to find that share of the ten nearest, as measured on the collection itself
        (see :mod:`catdb.recall`). A query whose bytes are in the database needs no network.

        ``category`` (id or name): return images of that category only; its shard is searched whole, and it alone,
        whatever the query's own are. ``under``: return images at or below that path only; searched further, by
        centroids, until k of them were compared, or all. ``min_similarity``: return none with a lower cosine.
        ``without``: images that the query is turned away from, see :func:`catdb.questions.without`. ``add``: the
        query, a file, joins the database first, as by :meth:`add` and with no second network pass; it then finds
        itself.

        Raises ImageUnreadable, CategoryUnknown, PathNotFound (``under``), and with ``add`` as that does.
        """
        how = How(
            probes=probes, exact=exact, recall=recall, category=category, under=under, min_similarity=min_similarity
        )
        [result] = self.search_many([query], k=k, without=without, add=add, **how)
        return _readable(result)

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
        if not add:
            return answer(self._store, self._engine, queries, self._reach(k, **how), _several(without))
        queries = list(queries)
        joined = self._join(queries)
        answers = answer(self._store, self._engine, queries, self._reach(k, **how), _several(without))
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
        queries = list(queries)
        joined = self._join(queries) if add else _Joined()
        result = answer_together(self._store, self._engine, queries, self._reach(k, **how), _several(without))
        return _readable(joined.mark(result))

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
        with self._store.snapshot() as snapshot:
            meta, embedder = snapshot.catalog.meta(), self._engine.get()
        if (meta["backbone"], meta["weights_sha256"]) != (embedder.backbone, embedder.weights_sha256):
            raise BackboneMismatch(f"{self.path} was made anew with {meta['backbone']}: open it again")
        return answer_point(self._store, point, self._reach(k, **how))

    def load(self) -> tuple[int, int]:
        """Load the network now, not with the first image; return the (height, width) of the pixels that it takes.

        Raises WeightsNotFound, WeightsInvalid, EngineFailed and what else may be wrong with a network.
        """
        return self._engine.get().input_size

    def embed(self, pixels: NDArray[np.uint8]) -> list[Point]:
        """Return what one network pass makes of images (n, height, width, 3) of the size that :meth:`load` says."""
        return embedded(self._engine, pixels)

    def recall(
        self, *, sample: int = 1000, k: int = 10, progress: Callable[[Progress], None] = lambda step: None
    ) -> tuple[Measured, ...]:
        """Measure what searches of each kind find of what an exact one does, on images of this collection.

        For the default, for several ``probes`` and for several recall targets: the share of the k nearest that is
        found, how often the nearest is, and the share of the images that is compared. Each of ``sample`` images is a
        query, and left out of its own answer. Raises ValueError where there are not more than k images.
        """
        from catdb.quality import measure

        return measure(self._store, sample, k, lambda done, of: progress(Progress("measuring", done, of, 0)))

    def why(self, a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Why:
        """Say how alike two images are, in which shards they meet, and whether a search with one finds the other.

        They are paths of images that are in the database or not; one that is not costs a network pass. Raises
        PathNotFound where one neither exists nor is known. One that cannot be read is told of in the answer.
        """
        from catdb.why import why

        return why(self._store, self._engine, absolute(a), absolute(b))

    def _reach(
        self,
        k: int = 10,
        probes: int = PER_IMAGE,
        exact: bool = False,
        recall: float | None = None,
        category: str | None = None,
        under: str | os.PathLike[str] | None = None,
        min_similarity: float | None = None,
    ) -> Reach:
        number = None if category is None else self._category_number(category)
        only = Filter(number, None if under is None else absolute(under), min_similarity)
        return Reach(k, probes, exact, recall, only)

    def _join(self, queries: Iterable[Query]) -> _Joined:
        """Have queries join the database, so far as they are files."""
        paths = []
        for query in queries:
            if not isinstance(query, str | os.PathLike):
                raise TypeError(f"only a file can be added, not a query of type {type(query).__name__}")
            if os.path.lexists(absolute(query)) and not os.path.isdir(absolute(query)):
                paths.append(absolute(query))
        joined = _Joined()
        if paths:
            report = self._add(_paths(paths), announce=joined.announce)
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


def _readable(result: Result | Failure) -> Result:
    if isinstance(result, Failure):
        raise ImageUnreadable(f"{result.path}: {result.reason}" if result.path else result.reason)
    return result


def _several(queries: Query | Iterable[Query]) -> list[Query]:
    one = isinstance(queries, str | os.PathLike | np.ndarray) or not isinstance(queries, Iterable)
    return [queries] if one else list(queries)  # type: ignore[list-item, arg-type]


def _remove(catalog: Catalog, root: int, below: bytes) -> int:
    """Remove what is at and below a path in the running transaction."""
    images = catalog.ids_below(root, below)
    for image in images:
        catalog.delete(image)
    catalog.set_removed(root, below)
    return len(images)


def _require_room(path: str) -> None:
    """Raise StorageError where a database can only be made among the files of someone else."""
    try:
        names = set(os.listdir(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; a database is a folder of its own, name another") from error
    if names - _OWN:
        raise StorageError(f"{path}: a folder with other files in it, and no database; name a new one")


def _require_paths(paths: Iterable[str]) -> None:
    for path in paths:
        if not os.path.lexists(path):
            raise PathNotFound(f"{path}: no such file or folder; nothing was changed")


def _globs(globs: str | Iterable[str]) -> set[str]:
    return {globs} if isinstance(globs, str) else set(globs)


def _paths(targets: Iterable[Any]) -> list[str]:
    """Flatten paths and lists of paths into absolute paths, each once."""
    found: list[str] = []
    for target in targets:
        found += [absolute(target)] if isinstance(target, str | os.PathLike) else _paths(target)
    return list(dict.fromkeys(found))


def _bytes_below(folder: str) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # collected meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total
