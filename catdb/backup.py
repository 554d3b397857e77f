"""What makes a copy of a database whole: its catalog of one moment, and exactly the shards that this one points to.

    1. *Begin*: take the lock of the new directory, and mark it with the name UNFINISHED.
    2. *Catalog*: copy it under that name, in one snapshot, while others write; its roots are then seen from its place.
    3. *Shards*: copy (or link) each file that this catalog points to, and check what arrived by size and checksum. One
       that is damaged, or was replaced and collected meanwhile, is made anew from the copied catalog: so nothing need
       be held back in the source, however long it takes.
    4. *End*: force everything to the disk, and only then give the catalog its name, which makes a database of it.

Nothing is locked or written in the source. Whatever ends a backup before its last step leaves no database: what was
begun is removed, or after a kill by the next backup to the same place.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from catdb import shard
from catdb.catalog import Catalog, Pointer
from catdb.errors import CatdbError, DatabaseDamaged, ShardDamaged, StorageError
from catdb.roots import rebase
from catdb.store import CATALOG, Store
from catdb.whole import force_directory

UNFINISHED = f"{CATALOG}.unfinished"
_LOGS = tuple(f"{UNFINISHED}-{log}" for log in ("journal", "wal", "shm"))
_UNLINKABLE = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

Tell = Callable[[str, int, int], None]  # what is being done, how much of it is, of how much


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was made. ``damaged``: the categories whose shard the source no longer has as it was written; the
    copy has it anew from the catalog.
    """

    path: str
    images: int
    shards: int
    bytes: int  # of catalog and shards, those that are linked as well
    linked: int  # shards that are hard links, and take no room of their own
    seconds: float
    damaged: tuple[str, ...]


def backup(store: Store, target: str, *, link: bool = False, tell: Tell = lambda step, done, of: None) -> Backup:
    """Copy a database to a directory that is new, empty, or the beginning of an earlier backup.

    Raises StorageError where it is none of these, where the shards cannot be linked, or where the disk is full;
    DatabaseDamaged where the catalog is not fit to be copied; DatabaseBusy where another backup is at work there.
    """
    started = time.monotonic()
    store.categories()  # raises DatabaseNotFound
    _require_place(store.path, target)
    copy = Store(target, wait=0.0, catalog=UNFINISHED)
    with _begun(store, copy) as made:
        try:
            copy.take_over(store, lambda done, of: tell("copying the catalog", done, of))
            with copy.writing() as catalog:
                if catalog.integrity():
                    raise DatabaseDamaged(catalog.path)
                with catalog.transaction():
                    rebase(catalog, store.path, target)
                wanted = catalog.pointers()
                missing = _copy_shards(store, copy, wanted, link=link, tell=tell)
                damaged = tuple(
                    store.category_id(pointer.category) for pointer in missing if _is_current(store, pointer)
                )
                _make_anew(copy, catalog, missing)
                images, shards = catalog.count(), catalog.pointers()
        except DatabaseDamaged as error:
            raise DatabaseDamaged(f"{store.path} is damaged and was not copied; see catdb check") from error
        copy.close()
        size = _finish(copy, shards, made)
    linked = len(wanted) - len(missing) if link else 0
    return Backup(target, images, len(shards), size, linked, time.monotonic() - started, damaged)


def _require_place(source: str, target: str) -> None:
    """Raise StorageError where no backup can be made."""
    here, there = os.path.realpath(source), os.path.realpath(target)
    if here == there:
        raise StorageError(f"{target}: the database itself; name a new folder for its backup")
    if os.path.commonpath([here, there]) == here:
        raise StorageError(f"{target}: inside the database; name a folder outside of it")
    try:
        names = set(os.listdir(target))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror}; name a new folder for the backup") from error
    if CATALOG in names:
        raise StorageError(f"{target}: there is a database already; name a new folder for the backup")
    if names - ({"LOCK", "shards", UNFINISHED, *_LOGS} if UNFINISHED in names else {"LOCK"}):
        raise StorageError(f"{target}: a folder with other files in it; name a new folder for the backup")


@contextmanager
def _begun(store: Store, copy: Store) -> Iterator[list[str]]:
    """Hold the new directory, empty, and give the folders that were made for it; take all away again on failure."""
    made = _missing_folders(copy.path)
    try:
        os.makedirs(copy.path, exist_ok=True)
        with copy.held():
            _require_place(store.path, copy.path)  # once more: another backup may have come first
            _clear(copy.path)
            try:
                with open(os.path.join(copy.path, UNFINISHED), "xb"):
                    pass
                os.mkdir(os.path.join(copy.path, "shards"))
                yield made
            except BaseException:
                with suppress(CatdbError):
                    copy.close()
                with suppress(OSError):
                    _clear(copy.path)
                    os.unlink(os.path.join(copy.path, "LOCK"))
                    for folder in made:
                        os.rmdir(folder)
                raise
    except CatdbError:
        raise
    except OSError as error:
        raise StorageError(f"{copy.path}: {error.strerror or error}; there is no backup") from error


def _missing_folders(path: str) -> list[str]:
    """Return a folder and those above it that do not exist, the innermost first."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def _clear(path: str) -> None:
    """Remove what a backup began. What marks it as that goes last, so that this can be interrupted as well."""
    with suppress(FileNotFoundError):
        shutil.rmtree(os.path.join(path, "shards"))
    for name in (*_LOGS, UNFINISHED):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(path, name))


def _copy_shards(store: Store, copy: Store, pointers: Sequence[Pointer], *, link: bool, tell: Tell) -> list[Pointer]:
    """Copy the files of these shards; return those that are not to be had."""
    missing = []
    for done, pointer in enumerate(pointers, 1):
        source, target = (place.file(pointer.category, pointer.generation) for place in (store, copy))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            _copy_shard(source, target, link=link)
            with shard.opened(target) as file:
                shard.verify(file, pointer.bytes, pointer.checksum)
        except ShardDamaged:
            missing.append(pointer)
            with suppress(FileNotFoundError):
                os.unlink(target)
        tell("copying shards", done, len(pointers))
    return missing


def _copy_shard(source: str, target: str, *, link: bool) -> None:
    """Copy or link one file. Raises ShardDamaged where it cannot be read, OSError where the copy cannot be written."""
    with ExitStack() as until_copied:
        try:
            file = until_copied.enter_context(shard.opened(source))
        except OSError as error:
            raise ShardDamaged(f"{source}: {error.strerror or error}") from error
        if not link:
            shard.copy(file, target)
            return
        try:
            os.link(source, target)
        except FileNotFoundError as error:
            raise ShardDamaged(f"{source}: collected meanwhile") from error
        except OSError as error:
            if error.errno not in _UNLINKABLE:
                raise
            raise StorageError(f"{target}: no hard link can be made ({error.strerror}); leave out --link") from error


def _is_current(store: Store, pointer: Pointer) -> bool:
    """Say whether the source still points to a shard: one that is not to be had then is damaged, not replaced."""
    with store.snapshot() as now:
        return now.catalog.pointer(pointer.category) == pointer


def _make_anew(copy: Store, catalog: Catalog, missing: Sequence[Pointer]) -> None:
    """Make the missing shards from the copied catalog, and have it forget the source's garbage, which is not here."""
    categories = [pointer.category for pointer in missing]
    copy.unpoint(catalog, categories)
    copy.fold(categories)
    copy.collect(catalog, grace=float("-inf"))


def _finish(copy: Store, shards: Sequence[Pointer], made: Sequence[str]) -> int:
    """Force everything to the disk, then give the catalog its name; return how many bytes it all has."""
    unfinished = os.path.join(copy.path, UNFINISHED)
    if any(os.path.exists(os.path.join(copy.path, log)) for log in _LOGS):
        raise StorageError(f"{unfinished}: another program has it open; there is no backup")
    files = [copy.file(pointer.category, pointer.generation) for pointer in shards]
    for folder in {os.path.dirname(file) for file in files}:
        force_directory(folder)
    force_directory(os.path.join(copy.path, "shards"))
    with open(unfinished, "rb") as catalog:
        os.fsync(catalog.fileno())
    size = sum(os.path.getsize(file) for file in (unfinished, *files))
    os.rename(unfinished, os.path.join(copy.path, CATALOG))
    force_directory(copy.path)
    for folder in made:
        force_directory(os.path.dirname(folder))
    return size
