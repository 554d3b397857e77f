"""Database: a folder of shards and a catalog, kept in step with folders of images and searched by image.

What stands here is what a user types, and what it means; how it is done is in the room that each method hands over to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Unpack

import numpy as np
from numpy.typing import NDArray

from catdb import backup as backing_up
from catdb import browse, curate, inventory
from catdb import check as checking
from catdb import export as exporting
from catdb import relocate as relocating
from catdb.asking import Joined, join, reach, readable, several, spelt_out
from catdb.backbones import Embedder, Recipe
from catdb.backup import Backup
from catdb.browse import ImageInfo, Page, Status
from catdb.check import Check
from catdb.curate import named
from catdb.encoding import STORES
from catdb.images import Decoders, Failure
from catdb.inventory import CategoryInfo, Info, RootInfo
from catdb.mounts import filesystem, is_remote
from catdb.opening import Wanted, create, engine_of, require_unchanged
from catdb.query import (
    How,
    Query,
    Result,
    answer,
    answer_point,
    answer_text,
    answer_together,
    answer_vector,
    embedded,
)
from catdb.questions import Point, category_named
from catdb.reconcile import Means, Progress, Report, Tell, reconcile, require
from catdb.relocate import Moved
from catdb.roots import AnyPath, Paths, absolute
from catdb.store import Store

if TYPE_CHECKING:
    from catdb.duplicates import Duplicates
    from catdb.quality import Measured
    from catdb.watch import Notice, Watch
    from catdb.why import Why

__all__ = ["CategoryInfo", "Database", "ImageInfo", "Info", "Page", "RootInfo", "Status"]


class Database:
    """A category-partitioned image database in a directory.

    Opening an existing one needs neither network nor weights: it remembers its own. A new one comes into being with
    the first build or add, once its network has been loaded; until then nothing is written. Threads may share a
    Database; a process forked from this one must open its own.
    """

    def __init__(
        self,
        path: AnyPath,
        *,
        mode: str = "a",
        backbone: str | Embedder | None = None,
        weights: AnyPath | None = None,
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
        self._wanted = Wanted(backbone, weights, Recipe(engine=engine, precision=precision), dimensions, store)
        self._engine = engine_of(self._store, self._wanted, notice, writable=mode == "a")

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
        return inventory.count(self._store)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and inventory.holds(self._store, absolute(path))

    def __iter__(self) -> Iterator[str]:
        """Yield the absolute path of every image, by folder and name."""
        return inventory.paths(self._store)

    def info(self) -> Info:
        """Return what the database is and holds."""
        return inventory.info(self._store)

    def failures(self) -> list[Failure]:
        """Return the files that could not be read, with the reason of each."""
        return inventory.failures(self._store)

    def categories(self) -> list[CategoryInfo]:
        """Return the categories that hold images, the fullest first."""
        return inventory.categories(self._store)

    def category(self, name: str) -> list[tuple[str, float]]:
        """Return (path, probability) of the images of a category, given by id or name, most probable first.

        Raises CategoryUnknown, with the choices, where there is none or several share the name.
        """
        return inventory.category(self._store, name)

    def status(self) -> Status:
        """Return how much there is, and what tells whether that has changed: what is cheap of :meth:`info`."""
        return browse.status(self._store)

    def watcher(self) -> str | None:
        """Return the process that keeps the database in step, if one does."""
        return inventory.watcher(self._store)

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

    # --- copies -------------------------------------------------------------------------------------------------

    def duplicates(
        self, *, similarity: float = 0.93, jobs: int | None = None, progress: Tell = lambda step: None
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
            return find(self._store, decoders, similarity=similarity, jobs=jobs, tell=_told(progress))

    def mark_distinct(self, *paths: Paths) -> int:
        """Remember by their content that images are no duplicates, each of each other; return how many pairs are new.

        It holds for these contents wherever they lie, and whatever is removed, added or built again in this database.
        Files of the same bytes can be named too: they are listed as duplicates no more. Raises PathNotFound for what is
        not in the database, and ValueError for fewer than two images.
        """
        return curate.mark_distinct(self._store, named(paths))

    # --- keeping it in step -------------------------------------------------------------------------------------

    def build(
        self,
        *targets: Paths,
        exclude: Iterable[str] = (),
        include: Iterable[str] = (),
        prune: bool = False,
        jobs: int | None = None,
        progress: Tell = lambda step: None,
    ) -> Report:
        """Bring the database in step with folders (and single files); without any, with all that it knows.

        Adds what is new, embeds again what changed, follows what moved without a network pass, and drops what is gone,
        in the named folders only. ``exclude`` adds globs to those remembered of what not to find, ``include`` takes
        remembered ones back. ``prune`` drops the images of folders that seem to be away. Files that cannot be read
        are listed in the report. Raises PathNotFound, and on the first use WeightsNotFound or WeightsInvalid.
        """
        paths = self._begin(targets, exclude, include)
        with Decoders() as decoders:
            report = reconcile(Means(self._store, self._engine, decoders, jobs, progress), paths, prune=prune)
        curate.say_removed(self._store, paths or (), self._notice)
        return report

    def add(self, paths: Paths, *, jobs: int | None = None, progress: Tell = lambda step: None) -> Report:
        """Add files and folders, among them what was removed by hand before. Drops nothing. Raises as build does."""
        return self._add(named([paths]), jobs=jobs, progress=progress)

    def _add(self, paths: Sequence[str], **means: Any) -> Report:
        curate.require_there(paths)
        create(self._store, self._engine, self._wanted)
        with Decoders() as decoders:
            return reconcile(Means(self._store, self._engine, decoders, **means), paths, adding=True)

    def _begin(
        self, targets: Iterable[Any], exclude: Iterable[str], include: Iterable[str], *, folders: bool = False
    ) -> list[str] | None:
        """Have a database with these excludes; return the targets, each of which can be brought in step; None: all."""
        paths = named(targets) if targets else None
        if not self._store.exists():
            curate.require_there(paths or ())
        if folders:
            curate.require_folders(paths or ())
        create(self._store, self._engine, self._wanted)
        require(self._store, paths or ())
        curate.set_excludes(self._store, exclude, include, self._notice)
        return paths

    def watch(
        self,
        *folders: Paths,
        exclude: Iterable[str] = (),
        include: Iterable[str] = (),
        prune: bool = False,
        rescan: float = 600.0,
        poll: bool = False,
        alert: float | None = None,
        jobs: int | None = None,
        announce: Callable[[Notice], None] = lambda notice: None,
        progress: Tell = lambda step: None,
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

        paths = self._begin(folders, exclude, include, folders=True)
        curate.say_removed(self._store, paths or (), self._notice)
        manner = Manner(rescan=rescan, poll=poll, alert=alert, jobs=jobs, prune=prune)
        return Watch(
            self._store, self._engine, paths, manner, announce=announce, notice=self._notice, progress=progress
        )

    def remove(self, paths: Paths) -> int:
        """Remove images, or all of a folder; return how many. The files stay, and stay out until they are added.

        Raises PathNotFound, before anything is removed, for a path that no folder of the database holds, or that
        neither exists nor is known.
        """
        return curate.remove(self._store, named([paths]))

    def compact(self, *, refit: bool = False, progress: Tell = lambda step: None) -> int:
        """Fold everything that waits or is dead into the shards; return how many shards were made anew.

        ``refit``: first learn from the images how vectors are best shortened, where the database has ``dimensions``,
        and make all shards anew.
        """
        if refit and not self._store.refit(force=True):
            self._notice(
                "nothing to fit: the database keeps whole vectors, or has fewer images than dimensions to keep"
            )
        return self._store.fold_all(progress=partial(_told(progress), "folding"))

    def check(self, repair: bool = False) -> Check:
        """Check catalog, shards and vectors; with ``repair`` first make damaged shards anew from the catalog."""
        if not repair:
            return checking.check(self._store)
        done = checking.repair(self._store)
        return replace(checking.check(self._store), repaired=done.lines)

    def backup(self, target: AnyPath, *, link: bool = False, progress: Tell = lambda step: None) -> Backup:
        """Copy the database, as it is at this moment, to a folder that is new or empty; also in mode "r".

        Writers are not held up. Every shard is verified as it arrives, and one that is damaged made anew in the copy.
        ``link``: hard links instead of copies of the shards, in no time and space, but no second copy of their bytes.
        The images stay where they are. Raises StorageError where the folder will not do or the disk is full.
        """
        path = absolute(target)
        kind = filesystem(path)
        if is_remote(kind):
            self._notice(f"{path} is on a network file system ({kind}): copy it to a local disk before it is used")
        return backing_up.backup(self._store, path, link=link, tell=_told(progress))

    def export(
        self,
        target: AnyPath | IO[bytes],
        *,
        form: str = "csv",
        vectors: bool = False,
        progress: Tell = lambda step: None,
    ) -> int:
        """Write a table of all images to a file or a binary stream, as "csv" or "npz"; return how many images.

        Path, size and categories of each, and with ``vectors`` its vector; the columns are listed in
        :mod:`catdb.export`. A file that exists is replaced once the new one is whole. Raises StorageError.
        """
        place = absolute(target) if isinstance(target, str | os.PathLike) else target
        return exporting.export(self._store, place, form, vectors=vectors, tell=_told(progress))

    def relocate(self, old: AnyPath, new: AnyPath, *, progress: Tell = lambda step: None) -> list[Moved]:
        """Have every folder of the database at or below ``old`` be known below ``new``, to which its images have moved.

        First a sample of each is compared by content, see :mod:`catdb.relocate`. The next build looks through the new
        place without a network pass. Raises PathNotFound and RelocationRefused; nothing has been changed then.
        """
        tell = partial(_told(progress), "comparing")
        return relocating.relocate(self._store, absolute(old), absolute(new), tell=tell)

    # --- searching ----------------------------------------------------------------------------------------------

    @spelt_out
    def search(
        self, query: Query, *, k: int = 10, without: Query | Iterable[Query] = (), add: bool = False, **how: Unpack[How]
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
        [result] = self.search_many([query], k=k, without=without, add=add, **how)
        return readable(result)

    @spelt_out
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
        if add:
            queries = list(queries)
        joined = join(queries, self._add) if add else Joined()
        answers = answer(self._store, self._engine, queries, reach(self._store, k, how), several(without))
        return (joined.mark(result) for result in answers)

    @spelt_out
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
        joined = join(queries, self._add) if add else Joined()
        result = answer_together(self._store, self._engine, queries, reach(self._store, k, how), several(without))
        return readable(joined.mark(result))

    @spelt_out
    def search_text(
        self, text: str, *, k: int = 10, without: Query | Iterable[Query] = (), **how: Unpack[How]
    ) -> Result:
        """Return the k images most typical of the categories whose names share the most words with a text.

        There is no text model: asked is for the mean of these categories' centroids, in all of their shards, and the
        notes say which they are. The options are those of :meth:`search`. Raises CategoryUnknown, with near names.
        """
        return answer_text(self._store, self._engine, text, reach(self._store, k, how), several(without))

    @spelt_out
    def search_vector(self, vector: NDArray[np.floating[Any]], *, k: int = 10, **how: Unpack[How]) -> Result:
        """Return the k images nearest to a vector (d,), of any length; it has no categories, so centroids route it.

        The options are those of :meth:`search`.
        """
        return answer_vector(self._store, vector, reach(self._store, k, how))

    @spelt_out
    def search_image(self, id: int, *, k: int = 10, **how: Unpack[How]) -> Result:
        """Return the k images most like one of the database, given by its number; it needs no network and no file.

        The options are those of :meth:`search`. Raises ImageUnknown.
        """
        point, path = browse.point(self._store, id)
        return answer_point(self._store, point, reach(self._store, k, how), path)

    @spelt_out
    def search_point(self, point: Point, *, k: int = 10, **how: Unpack[How]) -> Result:
        """Return the k images most like what :meth:`embed` has made of an image, with the options of :meth:`search`.

        Raises BackboneMismatch where the database was made anew, with another network, since this one was opened.
        """
        require_unchanged(self._store, self._engine)
        return answer_point(self._store, point, reach(self._store, k, how))

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

        return measure(self._store, sample, k, partial(_told(progress), "measuring"))

    def why(self, a: AnyPath, b: AnyPath) -> Why:
        """Say how alike two images are, in which shards they meet, and whether a search with one finds the other.

        They are paths of images that are in the database or not; one that is not costs a network pass. Raises
        PathNotFound where one neither exists nor is known. One that cannot be read is told of in the answer.
        """
        from catdb.why import why

        return why(self._store, self._engine, absolute(a), absolute(b))


def _told(progress: Tell) -> Callable[[str, int, int], None]:
    """Return what tells of a step, how much of it is done, of how much."""
    return lambda step, done, of: progress(Progress(step, done, of, 0))
