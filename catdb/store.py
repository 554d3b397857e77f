"""The protocol between the catalog and the shards: who may write, what is seen, when a shard is made anew.

    photos.catdb/
      LOCK                                     held by the one writer, for one batch or operation at a time
      catalog.sqlite                           the record, and the one commit point
      shards/<category>/<generation>.h5        what searches read; never changed, always rebuildable

1. *Write*: take the lock, commit to the catalog. The commit is the acknowledgement; its images wait ("pending") beside
   the shards and are found there.
2. *Fold*: write a category's living and waiting rows as a new file under a number never used before, force the file
   and its directory to the disk, and only then let the catalog point to it, in one commit. The old file is garbage
   from then on, and is unlinked when no snapshot can refer to it any more (GRACE seconds).
3. *Read*: one snapshot of the catalog says which files, which waiting rows and which dead rows make up a category.
   A file is checked by size and checksum once per process, before it is used, and again when the file system knows of
   a change: each block of its rows before it is scanned, and all that lies around them at first. Where that fails,
   none of it is used: the category's rows are taken from the catalog instead, with the same answers, and the snapshot
   says so (but not where the file was only replaced, and collected under an old snapshot). What a process cannot
   notice is damage to a block that it does not scan; and a bit that turns over on the disk, beneath the file system,
   after it has checked the block, and that comes into memory when the page is read again. The next process to read
   them finds these, and check().
4. *Recover*: the first writer of a process, and every writer after one that died or failed half-way, first makes a
   commit and forces the directories to the disk, and then unlinks files that the catalog does not know. (The dead
   writer may have committed what it never forced; that must not be acted upon.) A name in a LOCK that nobody holds
   asks for this step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from catdb import shard
from catdb.cache import Cache
from catdb.catalog import Catalog, Centroid, Maker, Pointer, Put, Survey, clear_errors, is_removed
from catdb.checksum import checksum
from catdb.connections import Connections
from catdb.encoding import Encoding
from catdb.errors import (
    DatabaseDamaged,
    DatabaseNotFound,
    DatabaseReadOnly,
    ShardDamaged,
    StorageError,
)
from catdb.folding import due, fitted, in_blocks, merged
from catdb.images import Stamp
from catdb.maps import WHOLE
from catdb.search import Block
from catdb.shard import Rows
from catdb.snapshot import Snapshot
from catdb.whole import force_directory, naming

CATALOG = "catalog.sqlite"
GRACE = 60.0  # seconds for which a file that was replaced stays, for the snapshots that still refer to it
PER_COMMIT = 64  # shards made anew in one commit
_TURN = 0.03  # seconds between two commits of a long fold, in which whoever waits for the lock gets it
_AGAIN = "; nothing is lost, run it again"
_Made = tuple[Pointer, list[Centroid], list[int]]  # a new file, its blocks, and the images that waited for it


class Store:
    """A database directory. Threads may share it; processes open their own, and none is carried across a fork.

    ``catalog`` is the catalog's name, another one where it is not to be taken for a database yet.
    """

    def __init__(self, path: str, *, writable: bool = True, wait: float = 10.0, catalog: str = CATALOG) -> None:
        self.path = os.path.abspath(path)
        self._catalog_path = os.path.join(self.path, catalog)
        self._writable = writable
        self._connections = Connections(self.path, self._catalog_path, wait)

    @property
    def cache(self) -> Cache:
        """What this process keeps in memory of the database that is there now."""
        return self._connections.cache

    def exists(self) -> bool:
        """Say whether there is a database here, as far as it was ever finished."""
        try:
            with self._connections.reader():
                return True
        except DatabaseNotFound:
            return False

    def version(self) -> str:
        """Return what is another one as soon as something is committed (and seldom for nothing)."""
        found = []
        for end in ("", "-wal"):
            with suppress(FileNotFoundError):
                status = os.stat(self._catalog_path + end)
                if status.st_size:
                    found.append(f"{status.st_ino:x}.{status.st_size:x}.{status.st_mtime_ns:x}")
        return "-".join(found)

    def create(self, meta: Mapping[str, object], categories: Sequence[tuple[str, str]]) -> None:
        """Make the database; nothing happens where another process was there first."""
        try:
            os.makedirs(os.path.join(self.path, "shards"), exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}; choose another place with --db") from error
        with self._connections.writer(new=True) as catalog:
            if not catalog.format():
                self._force_names()  # before the commit: whoever finds one need not ask whether this was done
                catalog.create(meta, categories)
            self._recover(catalog)

    def _force_names(self) -> None:
        """Force the names that lead to the database to the disk. All may be new, and with any of them it is lost."""
        path = os.path.realpath(self.path)
        with naming(self.path, _AGAIN):
            while not os.path.ismount(path):
                path = os.path.dirname(path)
                with suppress(PermissionError):  # a folder of someone else's, in which what matters stood already
                    force_directory(path)

    def close(self) -> None:
        """Close every connection. The next use opens them again."""
        self._connections.close()

    # --- writing ------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[Catalog]:
        """Hold the lock and give the catalog to write to. Raises DatabaseBusy, naming the holder, after a while."""
        if not self._writable:
            raise DatabaseReadOnly(f"{self.path}: opened for reading (mode 'r')")
        with self._connections.writer() as catalog:
            if not self._connections.lock.clean:
                self._recover(catalog)
            catalog.upgrade()
            yield catalog

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for several operations, also where there is no database yet, but a directory."""
        with self._connections.held():
            yield

    def take_over(self, source: Store, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Make this database with the catalog of another as it is at this moment; its shards are not copied."""
        with self.held(), source._connections.reader() as catalog, clear_errors(self._catalog_path):
            catalog.copy(self._catalog_path, progress)

    def commit(
        self,
        puts: Sequence[Put],
        failures: Sequence[tuple[int, bytes, str, Stamp | None]] = (),
        *,
        maker: Maker | None = None,
    ) -> list[str | None]:
        """Store images, and failures as (root, path, reason, stamp), in one commit: the one way in for vectors.

        Returns what became of each image: "added", "changed", "moved", "moved over" or "unchanged" (see Catalog.put),
        and None for one that is left out, because it was removed by hand meanwhile or its root is gone. Raises as
        :meth:`require_maker` does where it is said who made the vectors.
        """
        with self.writing() as catalog, catalog.transaction():
            if maker:
                catalog.require_maker(maker)
            removed = {root.id: catalog.removed(root.id) for root in catalog.roots()}

            def is_wanted(root: int, path: bytes) -> bool:
                return root in removed and not is_removed(path, removed[root])

            outcomes = [catalog.put(put) if is_wanted(put.root, put.path) else None for put in puts]
            for root, path, reason, stamp in failures:
                if is_wanted(root, path):
                    catalog.fail(root, path, reason, stamp)
        return outcomes

    def require_maker(self, maker: Maker) -> None:
        """Raise BackboneMismatch where the database was made anew with another network since it was opened."""
        with self.snapshot() as snapshot:
            snapshot.catalog.require_maker(maker)

    def _recover(self, catalog: Catalog) -> None:
        """Make durable whatever a dead writer may have committed, then drop the files that no one knows."""
        with catalog.transaction():
            catalog.set_meta("opened", time.time())
        with naming(self.path, _AGAIN):
            os.makedirs(os.path.join(self.path, "shards"), exist_ok=True)
            force_directory(os.path.join(self.path, "shards"))
            force_directory(self.path)
        for leftover in self.leftovers(catalog):
            with suppress(OSError):
                os.unlink(leftover)
        self._connections.lock.clean = True
        self.collect(catalog)

    def leftovers(self, catalog: Catalog) -> list[str]:
        """Return the files below ``shards`` that the catalog does not know: what a writer left when it died."""
        files = [*((p.category, p.generation) for p in catalog.pointers()), *catalog.garbage(float("inf"))]
        known = {self.file(*file) for file in files if 0 <= file[0] < len(self.categories())}
        found: list[str] = []
        for folder, _, names in os.walk(os.path.join(self.path, "shards")):
            found += [os.path.join(folder, name) for name in names if os.path.join(folder, name) not in known]
        return sorted(found)

    def unpoint(self, catalog: Catalog, categories: Sequence[int]) -> None:
        """Give these categories' shards up; their rows wait in the catalog for the next fold. Under the lock."""
        with catalog.transaction():
            for category in categories:
                catalog.unpoint(category, time.time())
                catalog.make_pending(category)

    def collect(self, catalog: Catalog, grace: float = GRACE) -> None:
        """Unlink the files that were replaced at least ``grace`` seconds ago. Under the lock."""
        now = time.time()
        if len(catalog.garbage(now)) < len(catalog.garbage(float("inf"))):  # the clock was set back: counted from now
            with catalog.transaction():
                catalog.date_garbage(now)
        gone: list[tuple[int, int]] = []
        for file in catalog.garbage(now - grace):
            with suppress(OSError):  # what cannot be unlinked now stays garbage
                with suppress(FileNotFoundError):
                    os.unlink(self.file(*file))
                gone.append(file)
            with suppress(OSError):  # the category's directory, where this was its last file
                os.rmdir(os.path.dirname(self.file(*file)))
        if gone:
            with catalog.transaction():
                catalog.drop_garbage(gone)

    def file(self, category: int, generation: int) -> str:
        """Return the path of one generation of a category's shard."""
        return f"{self.path}/shards/{self.category_id(category)}/{generation}.h5"

    def categories(self) -> list[tuple[str, str]]:
        """Return (id, name) of the backbone's categories, by number."""
        known = self.cache.categories
        if not known:
            with self._connections.reader() as catalog:
                known = self.cache.categories = catalog.categories()
        return known

    def category_id(self, category: int) -> str:
        names = self.categories()
        if not 0 <= category < len(names):
            raise DatabaseDamaged(f"{self.path}: there is no category {category}; run catdb check --repair")
        return names[category][0]

    # --- folding ------------------------------------------------------------------------------------------------

    def refit(self, *, force: bool = False) -> bool:
        """Fit a projection where the database is to have one, has none and is large enough; or ``force`` a new one.

        Then all rows wait to be folded, and are found in the catalog until they are. Returns whether there is one.
        """
        with self.snapshot() as snapshot:
            before = snapshot.catalog.projection()
            if before is not None and not force:
                return False
            made = fitted(snapshot.catalog, force=force)
        if made is None:
            return False
        with self.writing() as catalog, catalog.transaction():
            if catalog.projection() == before:  # else another process has fitted one meanwhile
                catalog.set_axes(made.pack(), time.time())
        return True

    def fold_due(self, *, at_rest: bool, progress: Callable[[int, int], None] | None = None) -> int:
        """Fold the categories that are due; return how many. ``progress`` is told (done, of)."""
        if at_rest:
            self.refit()
        with self.writing() as catalog:
            sharded = {p.category for p in catalog.pointers()}
            wanted = [x.category for x in catalog.loads() if due(x, x.category in sharded, at_rest=at_rest)]
        return self.fold(wanted, progress=progress)

    def fold_all(self, *, progress: Callable[[int, int], None] | None = None) -> int:
        """Fold every category that has a waiting or a dead row; return how many."""
        with self.writing() as catalog:
            wanted = [load.category for load in catalog.loads() if load.pending or load.dead]
        return self.fold(wanted, progress=progress)

    def fold(self, categories: Sequence[int], *, progress: Callable[[int, int], None] | None = None) -> int:
        """Make the shards of these categories anew, PER_COMMIT of them in one commit each time."""
        for start in range(0, len(categories), PER_COMMIT):
            group = categories[start : start + PER_COMMIT]
            with self.writing() as catalog:
                self._fold_group(catalog, group)
                self.collect(catalog)
            if progress:
                progress(start + len(group), len(categories))
            if start + len(group) < len(categories):
                time.sleep(_TURN)
        return len(categories)

    def _fold_group(self, catalog: Catalog, categories: Sequence[int]) -> None:
        self._connections.lock.clean = False  # until the commit: the files are known to no one
        with naming(self.path, _AGAIN):
            made = self._write_shards(catalog, categories)
        full = {pointer.category for pointer, _, _ in made}
        with catalog.transaction():
            for category in categories:
                if category not in full:
                    catalog.unpoint(category, time.time())
            for pointer, centroids, waiting in made:
                catalog.point(pointer, centroids, waiting, time.time())
        self._connections.lock.clean = True
        self.cache.maps.forget(categories)  # what was read of the old files to write the new ones

    def _write_shards(self, catalog: Catalog, categories: Sequence[int]) -> list[_Made]:
        """Write the new files of those of the categories that have rows, and force them and their names to the disk."""
        generation, images = catalog.reserve_generations(len(categories)), catalog.count()
        made: list[_Made] = []
        folders = [os.path.dirname(self.file(category, 0)) for category in categories]
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
        force_directory(os.path.join(self.path, "shards"))
        for number, category in enumerate(categories, generation):
            waiting = catalog.pending(category)
            rows = self._gather(catalog, category, waiting)
            if not len(rows):
                continue
            rows, centroids = in_blocks(category, rows, images)
            data = shard.encode(self.category_id(category), rows)
            shard.write(self.file(category, number), data)
            pointer = Pointer(category, number, len(rows), len(data), checksum(data), *shard.apart(data))
            made.append((pointer, centroids, waiting))
        for folder in folders:
            force_directory(folder)
        return made

    def _gather(self, catalog: Catalog, category: int, waiting: Sequence[int]) -> Rows:
        """Return the living rows of a category in order of id: those of its shard, then those that wait."""
        # What is written anew gets a new checksum: no damage since the last look may slip through.
        block = self.shard_block(catalog, category, afresh=True)
        if block is None:
            return self.rows(catalog, catalog.members(category) if catalog.pointer(category) else waiting)
        return merged(block.rows, block.dead, self.rows(catalog, waiting))

    # --- reading ------------------------------------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Give a view of one moment; what is committed meanwhile is not in it."""
        with self._connections.reader() as catalog, catalog.snapshot():
            self.cache.keep_up(catalog)
            yield Snapshot(self, catalog)

    def encoding(self, catalog: Catalog) -> Encoding:
        """Return how the rows of every shard of a catalog are made of its vectors. Raises DatabaseDamaged."""
        return self.cache.encoding(catalog)

    def rows(self, catalog: Catalog, images: Sequence[int]) -> Rows:
        """Return the rows of these images as a shard holds them, made of the vectors of the catalog."""
        features = self.encoding(catalog).rows(catalog.vectors_of(images))
        return Rows(features, np.array(images, np.int64), catalog.categories_of(images, shard.WIDTH))

    def shard_block(
        self,
        catalog: Catalog,
        category: int,
        pieces: Sequence[slice] = WHOLE,
        *,
        afresh: bool = False,
        known: Rows | None = None,
    ) -> Block | None:
        """Return a category's shard, its dead marked, of which these pieces are wanted; None where it is not sound."""
        pointer = catalog.pointer(category)
        if pointer is None:
            return None
        try:
            rows = known if known is not None else self.load(catalog, pointer, pieces, afresh=afresh)
        except (ShardDamaged, OSError):
            return None
        tombstones = catalog.tombstones(category)
        return Block(category, rows, np.isin(rows.image_ids, tombstones) if len(tombstones) else None)

    def load(
        self, catalog: Catalog, pointer: Pointer, pieces: Sequence[slice] = WHOLE, *, afresh: bool = False
    ) -> Rows:
        """Return the rows of a shard, which must have been made as the catalog says (ShardDamaged), see Maps."""
        encoding = self.encoding(catalog)
        path, name = self.file(pointer.category, pointer.generation), self.category_id(pointer.category)
        form = name, encoding.width(catalog.meta()["dimension"]), encoding.store
        in_blocks = pointer.has_parts and slice(None) not in pieces
        blocks = catalog.block_checksums(pointer.category) if in_blocks else ()
        return self.cache.maps.load(pointer, path, form, pieces=pieces, blocks=blocks, afresh=afresh)

    def foresee(self, pointer: Pointer, pieces: Sequence[slice]) -> Rows | None:
        """Tell the disk which rows will be read of a shard; return those of its file where they may be, see Maps."""
        return self.cache.maps.foresee(pointer, self.file(pointer.category, pointer.generation), pieces)

    def is_current(self, pointer: Pointer) -> bool:
        """Say whether a shard is the category's now, whatever a snapshot says."""
        with self.snapshot() as now:
            return now.catalog.pointer(pointer.category) == pointer

    def survey(self) -> Survey:
        """Return a new comparison of folders with the catalog; close it."""
        return Survey(Catalog.reader(self._catalog_path))
