"""Database: a folder of shards and a catalog, kept in step with folders of images and searched by image.

What stands here is what a user types, and what it means; how it is done is in the room that each method hands over to.
The searches are in :mod:`catdb.asking`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import IO, TYPE_CHECKING, BinaryIO

from catdb import backup as backing_up
from catdb import browse, curate, inventory
from catdb import check as checking
from catdb import export as exporting
from catdb import relocate as relocating
from catdb.asking import Searches
from catdb.backbones import Embedder, Recipe
from catdb.backup import Backup
from catdb.browse import FailurePage, ImageInfo, Page, Status
from catdb.check import Check
from catdb.curate import named
from catdb.encoding import STORES
from catdb.errors import DatabaseReadOnly
from catdb.images import Decoders, Failure
from catdb.inventory import CategoryInfo, Info, RootInfo
from catdb.mounts import filesystem, is_remote
from catdb.opening import Wanted, engine_of
from catdb.reconcile import Means, Report, Tell, reconcile, told
from catdb.relocate import Moved
from catdb.roots import AnyPath, Paths, absolute
from catdb.store import Store

if TYPE_CHECKING:
    from catdb.duplicates import Duplicates
    from catdb.watch import Notice, Watch

__all__ = ["CategoryInfo", "Database", "ImageInfo", "Info", "Page", "RootInfo", "Status"]


class Database(Searches):
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
        self._mode = mode
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

    def __repr__(self) -> str:
        return f"Database({self.path!r}, mode={self._mode!r})"

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
        """Return the files that could not be read and the folders that could not be listed, with the reason of each."""
        return inventory.failures(self._store)

    def failures_page(self, *, after: str | None = None, limit: int = 100) -> FailurePage:
        """Return a page of the same, by folder and name; ``after`` as in :meth:`images`."""
        return browse.failures(self._store, after, limit)

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
            return find(self._store, decoders, similarity=similarity, jobs=jobs, tell=told(progress))

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
        paths = named(targets) if targets else None
        curate.begin(self._store, self._engine, self._wanted, paths or ())
        curate.set_excludes(self._store, exclude, include, self._notice)
        with Decoders() as decoders:
            report = reconcile(Means(self._store, self._engine, decoders, jobs, progress), paths, prune=prune)
        curate.say_removed(self._store, paths or (), self._notice)
        curate.say_twice(self._store, paths or (), self._notice)
        return report

    def add(self, paths: Paths, *, jobs: int | None = None, progress: Tell = lambda step: None) -> Report:
        """Add files and folders, among them what was removed by hand before. Drops nothing. Raises as build does."""
        taken = named([paths])
        report = curate.add(self._store, self._engine, self._wanted, taken, jobs=jobs, progress=progress)
        curate.say_twice(self._store, taken, self._notice)
        return report

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
        as in :meth:`build`; a watch that is refused remembers no ``exclude``.

            with db.watch("Pictures") as watch:
                watch.wait_idle(60)

        Raises, before it begins, as :meth:`build` does; DatabaseBusy where another process watches the database.
        """
        from catdb.watch import Manner, Watch  # it takes watchdog, which nothing else needs

        if self._mode == "r":  # which will not pass, as that of a folder may that cannot be written to now
            raise DatabaseReadOnly(f"{self.path}: opened for reading (mode 'r')")

        paths = named(folders) if folders else None
        curate.begin(self._store, self._engine, self._wanted, paths or (), folders=True)
        curate.say_removed(self._store, paths or (), self._notice)
        curate.say_twice(self._store, paths or (), self._notice)
        return Watch(
            self._store,
            self._engine,
            paths,
            Manner(rescan=rescan, poll=poll, alert=alert, jobs=jobs, prune=prune),
            begin=lambda: curate.set_excludes(self._store, exclude, include, self._notice),
            announce=announce,
            notice=self._notice,
            progress=progress,
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
        return self._store.fold_all(progress=partial(told(progress), "folding"))

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
        return backing_up.backup(self._store, path, link=link, tell=told(progress))

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
        return exporting.export(self._store, place, form, vectors=vectors, tell=told(progress))

    def relocate(self, old: AnyPath, new: AnyPath, *, progress: Tell = lambda step: None) -> list[Moved]:
        """Have every folder of the database at or below ``old`` be known below ``new``, to which its images have moved.

        First a sample of each is compared by content, see :mod:`catdb.relocate`. The next build looks through the new
        place without a network pass. Raises PathNotFound and RelocationRefused; nothing has been changed then.
        """
        tell = partial(told(progress), "comparing")
        return relocating.relocate(self._store, absolute(old), absolute(new), tell=tell)
