"""A connection to the catalog: its tables, and every statement that reads or writes them."""

from __future__ import annotations

import ctypes
import json
import math
import os
import sqlite3
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from catdb.catalog.rules import FORGET, MISTYPED, RESTORE, RULES, Rule
from catdb.catalog.values import Centroid, Image, Load, Pointer, Put, Root, is_removed
from catdb.checksum import checksum
from catdb.errors import DatabaseBusy, DatabaseDamaged, DatabaseReadOnly, StorageError
from catdb.images import Stamp

FORMAT = 2
_APPLICATION = 0x63617464
_AXES, _PROJECTION = "axes", "projection"  # the keys of a projection, which is large, and of its checksum
_NEW_IN_2 = ("TABLE centroid", "INDEX image_inode", "TABLE distinct_pair")
PAGE = 1000  # rows fetched at a time, so that no statement holds a snapshot (and the WAL) for long
_EVERY = 50  # times a sample, up to which the ids of all images are read to choose from
_Read = TypeVar("_Read")
_LISTED = "(SELECT value FROM json_each(?))"  # of a list of numbers as JSON
_STEP = 1024  # pages copied between two looks at an interrupt, and two words of progress

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE category(number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL);
CREATE TABLE root(
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, relative BLOB NOT NULL, whole INTEGER NOT NULL,
    device INTEGER, offline INTEGER NOT NULL DEFAULT 0, reconciled REAL);
CREATE TABLE image(
    id INTEGER PRIMARY KEY AUTOINCREMENT, root INTEGER NOT NULL, path BLOB NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, digest BLOB NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, UNIQUE(root, path));
CREATE INDEX image_digest ON image(digest);
CREATE INDEX image_inode ON image(inode);
CREATE TABLE vector(image INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE member(
    image INTEGER, rank INTEGER, category INTEGER NOT NULL, probability REAL NOT NULL,
    PRIMARY KEY(image, rank)) WITHOUT ROWID;
CREATE TABLE pending(category INTEGER, image INTEGER, PRIMARY KEY(category, image)) WITHOUT ROWID;
CREATE TABLE tombstone(category INTEGER, image INTEGER, PRIMARY KEY(category, image)) WITHOUT ROWID;
CREATE TABLE shard(
    category INTEGER PRIMARY KEY, generation INTEGER NOT NULL, rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE centroid(
    category INTEGER, block INTEGER, first INTEGER NOT NULL, rows INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY(category, block));
CREATE TABLE garbage(category INTEGER, generation INTEGER, since REAL, PRIMARY KEY(category, generation)) WITHOUT ROWID;
CREATE TABLE failure(
    root INTEGER, path BLOB, size INTEGER, mtime_ns INTEGER, inode INTEGER, reason TEXT NOT NULL,
    PRIMARY KEY(root, path)) WITHOUT ROWID;
CREATE TABLE removed(root INTEGER, path BLOB, back INTEGER NOT NULL, PRIMARY KEY(root, path)) WITHOUT ROWID;
CREATE TABLE exclude(glob BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE distinct_pair(one BLOB, other BLOB, PRIMARY KEY(one, other)) WITHOUT ROWID;
"""


@contextmanager
def clear_errors(path: str) -> Iterator[None]:
    """Turn SQLite's errors into catdb's, each with what to do about it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text or "disk I/O" in text:
            raise StorageError(f"{path}: {text}; nothing is lost: free some space and run it again") from error
        if "locked" in text:
            raise DatabaseBusy(f"{path}: another program has it open; try again when it has finished") from error
        if "readonly" in text or "unable to open" in text:
            raise DatabaseReadOnly(f"{path}: {text}; check who may write there") from error
        if "no such" not in text and "decode" not in text:
            raise StorageError(f"{path}: {text}") from error
        raise DatabaseDamaged(f"{path}: {text}; {RESTORE}") from error
    except (
        sqlite3.DatabaseError,
        UnicodeDecodeError,
    ) as error:  # the latter for a damaged name in SQLite's own message
        raise DatabaseDamaged(f"{path}: {error}; {RESTORE}") from error


def below(root: int, path: bytes) -> tuple[str, tuple[Any, ...]]:
    """Return the condition, and its values, for a path and everything below it (all of the root for an empty path)."""
    if not path:
        return "root = ?", (root,)
    # "0" follows "/" in ASCII: the half-open range holds exactly the paths that begin with "path/".
    return "root = ? AND (path = ? OR path >= ? AND path < ?)", (root, path, path + b"/", path + b"0")


def as_row(stamp: Stamp) -> tuple[int, int, int]:
    """Return a stamp's three columns. Some file systems number inodes beyond the 63 bits that SQLite can hold."""
    return stamp.size, stamp.mtime_ns, (stamp.inode + 2**63) % 2**64 - 2**63


def as_stamp(size: int, mtime_ns: int, inode: int) -> Stamp:
    """Return the stamp that :func:`as_row` stored."""
    return Stamp(size, mtime_ns, inode % 2**64)


class _Meta(dict[str, Any]):
    """What the database is. One that does not know what it is, is damaged."""

    def __missing__(self, key: str) -> NoReturn:
        raise DatabaseDamaged(f"the catalog does not hold its {key}; {RESTORE}")


class Catalog:
    """One connection to the catalog; not to be used by two threads at once, nor carried across a fork.

    ``frozen``: it reads the file as it lies, and would never see what is committed after it was opened. ``guard`` is
    called before each commit, which what it raises prevents.
    """

    def __init__(self, path: str, connection: sqlite3.Connection, *, frozen: bool = False) -> None:
        self.path = path
        self.sql = connection
        self.frozen = frozen
        self.guard: Callable[[], None] = lambda: None
        self.identity = _stamp(path) if frozen else _identity(path)
        self._process = os.getpid()
        self._version = -1  # of what the snapshots have read
        self._read: dict[str, Any] = {}
        self._in_snapshot = False
        _connected.add(self)

    # --- opening ------------------------------------------------------------------------------------------------

    @classmethod
    def writer(cls, path: str) -> Catalog:
        """Open for writing, creating an empty file where there is none. Only under the database's lock."""
        with clear_errors(path):
            sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            try:
                catalog = cls(path, sql)
                catalog.format()  # before anything is written to a file that may not be ours
                for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=OFF"):
                    sql.execute(f"PRAGMA {setting}")  # secure_delete is on in some builds and doubles what is written
            except BaseException:
                sql.close()
                raise
            return catalog

    @classmethod
    def reader(cls, path: str) -> Catalog:
        """Open for reading. A closed catalog in a directory that cannot be written to is read as it lies."""
        uri = "file:" + quote(os.fsencode(os.path.abspath(path)))
        closed = not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK)
        while True:
            frozen = closed and not _has_log(path)
            try:
                return cls._connect(path, uri + ("?immutable=1" if frozen else "?mode=ro"), frozen)
            except DatabaseReadOnly:
                if frozen == (closed and not _has_log(path)):
                    raise  # else a writer has come or gone just now

    @classmethod
    def _connect(cls, path: str, uri: str, frozen: bool) -> Catalog:
        with clear_errors(path):
            sql = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
            try:
                catalog = cls(path, sql, frozen=frozen)
                catalog.format()
            except BaseException:
                sql.close()
                raise
            return catalog

    def is_current(self) -> bool:
        """Say whether the path still leads to the file that was opened, and not to one made anew, or nowhere."""
        return self.is_ours and _identity(self.path) == self.identity

    @property
    def is_ours(self) -> bool:
        """Say whether this process opened the connection. One that a fork has brought along may not even be closed."""
        return self._process == os.getpid()

    def require_unchanged(self) -> None:
        """Raise DatabaseBusy where a frozen catalog was written to meanwhile: what was read is of no one moment."""
        if self.frozen and _stamp(self.path) != self.identity:
            raise DatabaseBusy(f"{self.path}: another program has written to it meanwhile; try again")

    def close(self) -> None:
        if self.is_ours:
            with clear_errors(self.path):
                self.sql.close()

    def format(self) -> int:
        """Return the format's number, 0 for an empty catalog. DatabaseDamaged where it is none that we know."""
        with clear_errors(self.path):
            try:
                if not self._one("SELECT count(*) FROM sqlite_schema"):
                    return 0
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname == "SQLITE_READONLY_ROLLBACK":
                    return 0  # its very making was cut off: only then is there another journal than the log
                raise
            if self._one("PRAGMA application_id") != _APPLICATION:
                raise DatabaseDamaged(f"{self.path}: an SQLite file, but not a catdb catalog; use another directory")
            found = int(self._one("PRAGMA user_version"))
            if found > FORMAT:
                raise DatabaseDamaged(f"{self.path}: format {found}, this catdb reads {FORMAT}; install a newer catdb")
            return found

    def _require_current(self) -> None:
        if self.format() == 1:
            raise DatabaseDamaged(f"{self.path}: format 1 has no blocks; catdb build, or compact, brings it up to date")

    def upgrade(self) -> None:
        """Bring a catalog of an older format up to date, in one commit. Only under the database's lock."""
        if self.format() == 1:  # a shard had one centroid, in float32, and was one block
            with self.transaction():
                rows = self.sql.execute(
                    "SELECT category, rows, data FROM centroid JOIN shard USING (category)"
                ).fetchall()
                self.sql.execute("DROP TABLE centroid")
                for statement in _SCHEMA.split(";"):
                    if any(name in statement for name in _NEW_IN_2):
                        self.sql.execute(statement)
                for category, count, data in rows:
                    block = Centroid(category, 0, 0, count, np.frombuffer(data, "<f4").astype(np.float16))
                    self._insert_centroid(block)
                self.sql.execute(f"PRAGMA user_version={FORMAT}")

    def create(self, meta: Mapping[str, Any], categories: Iterable[tuple[str, str]]) -> None:
        """Make the tables and fill in what the database is, all in one commit."""
        with self.transaction():
            for statement in _SCHEMA.split(";"):
                self.sql.execute(statement)
            self.sql.executemany("INSERT INTO meta VALUES(?, ?)", {"generation": 1, **meta}.items())
            self.sql.executemany(
                "INSERT INTO category VALUES(?, ?, ?)", ((n, *category) for n, category in enumerate(categories))
            )
            self.sql.execute(f"PRAGMA application_id={_APPLICATION}")
            self.sql.execute(f"PRAGMA user_version={FORMAT}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside becomes durable at once at the end, or not at all."""
        self._require_ours()
        with clear_errors(self.path):
            self.sql.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._require_ours()
                self.guard()
                self.sql.execute("COMMIT")
            except BaseException:
                if self.is_ours and self.sql.in_transaction:
                    self.sql.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment: the one at which it begins."""
        self._require_ours()
        with clear_errors(self.path):
            self.sql.execute("BEGIN")
            try:
                self._one("SELECT count(*) FROM sqlite_schema")  # BEGIN alone takes no snapshot: the first read does
                version = self._one("PRAGMA data_version")  # another one when somebody else has committed
                if version != self._version or self.sql.total_changes:  # what this connection writes it does not count
                    self._version, self._read = version, {}
                self._in_snapshot = True
                yield
            finally:
                self._in_snapshot = False
                if self.is_ours and self.sql.in_transaction:
                    self.sql.execute("ROLLBACK")

    def _require_ours(self) -> None:
        if not self.is_ours:
            raise RuntimeError(f"{self.path}: this was begun before a fork; the new process begins its own")

    def copy(self, path: str, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Write the catalog as it is at this moment into a new file. ``progress`` is told (done, of) in pages.

        It is copied inside one snapshot. So a writer is not held up (only the log cannot be written back meanwhile),
        and however much is committed, SQLite has no reason to begin anew. Raises DatabaseBusy for a frozen catalog
        that somebody with more rights changes meanwhile.
        """
        before = _stamp(self.path)
        target = sqlite3.connect(path, isolation_level=None)
        try:
            with self.snapshot():
                self.sql.backup(target, pages=_STEP, progress=lambda _, left, of: progress(of - left, of))
        finally:
            target.close()
        if self.frozen and (_stamp(self.path) != before or _has_log(self.path)):
            raise DatabaseBusy(f"{self.path}: another program writes to it; try again when it has finished")

    def _one(self, statement: str, *values: Any) -> Any:
        row = self.sql.execute(statement, values).fetchone()
        return row[0] if row else None

    def once(self, name: str, read: Callable[[], _Read]) -> _Read:
        """Return what ``read`` returns; in snapshots it is read once, until somebody has committed something.

        For what follows from the catalog alone, under a name of its own, or a dictionary that is to be filled with it.
        """
        if not self._in_snapshot:
            return read()
        if name not in self._read:
            self._read[name] = read()
        found: _Read = self._read[name]
        return found

    # --- what the database is -----------------------------------------------------------------------------------

    def meta(self) -> dict[str, Any]:
        """Return what the database is, by name. DatabaseDamaged where it does not know its vectors' dimension."""
        rows = "SELECT key, value FROM meta WHERE key != ?"
        found = _Meta(self.once("meta", lambda: self.sql.execute(rows, (_AXES,)).fetchall()))
        if not isinstance(found["dimension"], int):
            raise DatabaseDamaged(f"{self.path}: its dimension is no number; {RESTORE}")
        return found

    def set_meta(self, key: str, value: Any) -> None:
        self.sql.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value))

    def projection(self) -> int | None:
        """Return the checksum of the projection that all shards are made with; None where they hold whole vectors."""
        found = self.once("projection", lambda: self._one("SELECT value FROM meta WHERE key = ?", _PROJECTION))
        return None if found is None else int(found)

    def axes(self) -> bytes:
        """Return the projection itself. DatabaseDamaged where it is not the one that was written."""
        data = self._one("SELECT value FROM meta WHERE key = ?", _AXES) or b""
        if checksum(data) != self.projection():
            raise DatabaseDamaged(f"{self.path}: its projection is damaged; catdb compact --refit makes it anew")
        return bytes(data)

    def set_axes(self, axes: bytes, now: float) -> None:
        """Have all shards be made with another projection, in the running transaction: from here on every row waits."""
        self.set_meta(_AXES, axes)
        self.set_meta(_PROJECTION, checksum(axes))
        for pointer in self.pointers():
            self.unpoint(pointer.category, now)
        self.sql.execute("INSERT OR IGNORE INTO pending SELECT category, image FROM member ORDER BY category, image")

    def categories(self) -> list[tuple[str, str]]:
        """Return (id, name) by number."""
        rows = self.sql.execute("SELECT number, id, name FROM category ORDER BY number").fetchall()
        if [number for number, _, _ in rows] != list(range(len(rows))):
            raise DatabaseDamaged(f"{self.path}: categories are missing; {RESTORE}")
        return [(id, name) for _, id, name in rows]

    def excludes(self) -> list[str]:
        return [os.fsdecode(glob) for (glob,) in self.sql.execute("SELECT glob FROM exclude ORDER BY glob")]

    def set_excludes(self, globs: Iterable[str]) -> None:
        self.sql.execute("DELETE FROM exclude")
        self.sql.executemany("INSERT OR IGNORE INTO exclude VALUES(?)", ((os.fsencode(glob),) for glob in globs))

    # --- roots --------------------------------------------------------------------------------------------------

    def roots(self) -> list[Root]:
        rows = self.sql.execute("SELECT id, path, relative, whole, device, offline, reconciled FROM root ORDER BY path")
        return [Root(i, p, r, bool(w), d, bool(o), t) for i, p, r, w, d, o, t in rows]

    def add_root(self, path: bytes, relative: bytes, whole: bool) -> int:
        """Add a root, or make a known one whole; return its id."""
        self.sql.execute(
            "INSERT INTO root(path, relative, whole) VALUES(?, ?, ?) ON CONFLICT(path) DO UPDATE"
            " SET whole = max(whole, excluded.whole), relative = excluded.relative",
            (path, relative, whole),
        )
        return int(self._one("SELECT id FROM root WHERE path = ?", path))

    def absorb_root(self, inner: int, outer: int, prefix: bytes) -> None:
        """Hand everything below one root to the root above it. ``prefix``: the inner as seen from the outer, "a/b/"."""
        for table in ("image", "failure", "removed"):
            self.sql.execute(
                f"UPDATE OR REPLACE {table} SET root = ?, path = CAST(? || path AS BLOB) WHERE root = ?",
                (outer, prefix, inner),
            )
        self.sql.execute("UPDATE removed SET path = ? WHERE root = ? AND path = ?", (prefix[:-1], outer, prefix))
        self.sql.execute("DELETE FROM root WHERE id = ?", (inner,))

    def mark_root(self, root: int, *, offline: bool, device: int | None = None, when: float | None = None) -> None:
        """Record that a root is away, or that it was there: on which device, and when it was reconciled."""
        self.sql.execute(
            "UPDATE root SET offline = ?, device = ifnull(?, device), reconciled = ifnull(?, reconciled) WHERE id = ?",
            (offline, device, when, root),
        )

    def move_root(self, root: int, path: bytes, relative: bytes) -> None:
        self.sql.execute("UPDATE root SET path = ?, relative = ? WHERE id = ?", (path, relative, root))

    # --- images -------------------------------------------------------------------------------------------------

    def count(self) -> int:
        return int(self.once("count", lambda: self._one("SELECT count(*) FROM image")))  # reads an index: 1M in 20 ms

    def count_of(self, root: int) -> int:
        return int(self._one("SELECT count(*) FROM image WHERE root = ?", root))

    def paths_of(self, root: int) -> list[bytes]:
        """Return the paths in a root that are known: its images, and its files that could not be read."""
        rows = self.sql.execute(
            "SELECT path FROM image WHERE root = ?1 UNION SELECT path FROM failure WHERE root = ?1 ORDER BY path",
            (root,),
        )
        return [path for (path,) in rows]

    def is_known(self, root: int, path: bytes) -> bool:
        """Say whether an image or a failure is known at a path or below it."""
        return any(self._below(f"SELECT 1 FROM {table}", root, path).fetchone() for table in ("image", "failure"))

    def image_at(self, root: int, path: bytes) -> Image | None:
        return next(self._images("WHERE root = ? AND path = ?", (root, path)), None)

    def images_of(self, digest: bytes) -> list[Image]:
        """Return the images whose files hold this content, oldest first."""
        return list(self._images("WHERE digest = ? ORDER BY id", (digest,)))

    def image(self, image: int) -> Image | None:
        return next(self._images("WHERE id = ?", (image,)), None)

    def images_by_id(self, ids: Sequence[int]) -> dict[int, Image]:
        """Return images by id; those that are not there are left out."""
        return {image.id: image for image in self._images(f"WHERE id IN {_LISTED}", (json.dumps(list(ids)),))}

    def copies(self) -> list[list[Image]]:
        """Return the images whose files hold the same content as another's, by content, oldest first."""
        repeated = "SELECT digest FROM image GROUP BY digest HAVING count(*) > 1"
        images = self._images(f"WHERE digest IN ({repeated}) ORDER BY digest, id", ())
        return [list(group) for _, group in groupby(images, key=lambda image: image.digest)]

    def distinct_pairs(self) -> set[tuple[bytes, bytes]]:
        """Return the pairs of contents, the lesser digest first, that are no duplicates of one another."""
        if self.format() == 1:  # it had no such table
            return set()
        return set(self.sql.execute("SELECT one, other FROM distinct_pair"))

    def add_distinct_pairs(self, pairs: Iterable[tuple[bytes, bytes]]) -> int:
        """Remember pairs of contents as no duplicates in the running transaction; return how many are new."""
        ordered = [(min(pair), max(pair)) for pair in pairs]
        return self.sql.executemany("INSERT OR IGNORE INTO distinct_pair VALUES(?, ?)", ordered).rowcount

    def images_after(self, root: int, path: bytes, limit: int) -> list[Image]:
        """Return the images that come after a path by root and path, so many at most."""
        return list(self._images("WHERE (root, path) > (?, ?) ORDER BY root, path LIMIT ?", (root, path, limit)))

    def images(self) -> Iterator[Image]:
        """Yield every image by root and path, a page at a time."""
        root, path = -1, b""
        while page := self.images_after(root, path, PAGE):
            yield from page
            root, path = page[-1].root, page[-1].path

    def _images(self, where: str, values: tuple[Any, ...]) -> Iterator[Image]:
        columns = "id, root, path, size, mtime_ns, inode, digest, width, height"
        rows = self.sql.execute(f"SELECT {columns} FROM image {where}", values).fetchall()
        members: dict[int, list[tuple[int, float]]] = {row[0]: [] for row in rows}
        for image, category, probability in self.sql.execute(
            f"SELECT image, category, probability FROM member WHERE image IN {_LISTED} ORDER BY image, rank",
            (json.dumps(list(members)),),
        ):
            members[image].append((category, probability))
        for number, root, path, size, mtime_ns, inode, digest, width, height in rows:
            categories, probabilities = zip(*members[number], strict=True) if members[number] else ((), ())
            stamp = as_stamp(size, mtime_ns, inode)
            yield Image(number, root, path, stamp, digest, width, height, categories, probabilities)

    def vector(self, image: int) -> NDArray[np.float16] | None:
        """Return a stored vector (d,), checked. None where it is not there or damaged."""
        row = self.sql.execute("SELECT data, checksum FROM vector WHERE image = ?", (image,)).fetchone()
        return np.frombuffer(row[0], "<f2") if row and checksum(row[0]) == row[1] else None

    def spread(self, count: int) -> Iterator[list[int]]:
        """Yield the ids of about ``count`` images, evenly spread over their numbers (all, where there are fewer)."""
        step = max(1, self.count() // count)
        last = -1
        while page := self.sql.execute(
            "SELECT id FROM image WHERE id > ? AND id % ? = 0 ORDER BY id LIMIT ?", (last, step, PAGE)
        ).fetchall():
            yield [image for (image,) in page]
            last = page[-1][0]

    def sample(self, count: int, seed: int = 0) -> list[tuple[int, NDArray[np.float16]]]:
        """Return (id, vector) of at most ``count`` images, of all where there are no more; damaged ones are left out.

        The same images and seed give the same sample. Of very many the ids are not all read: numbers are drawn and the
        next id is taken, which prefers those that stand after a gap; for what it is used for that does not matter.
        """
        draw, images = np.random.default_rng(seed), self.count()
        if images <= _EVERY * count:
            every = [image for (image,) in self.sql.execute("SELECT id FROM image ORDER BY id")]
            chosen = sorted(draw.choice(every, min(count, images), replace=False).tolist()) if every else []
        else:
            least, most = self.sql.execute("SELECT min(id), max(id) FROM image").fetchone()
            after = "SELECT id FROM image WHERE id >= ? ORDER BY id LIMIT 1"
            chosen = sorted({self._one(after, id) for id in draw.integers(least, most + 1, count).tolist()})
        vectors = ((image, self.vector(image)) for image in chosen)
        return [(image, vector) for image, vector in vectors if vector is not None]

    def put(self, item: Put) -> str:
        """Store one image in the running transaction: "added", "changed", "moved", or "unchanged" (only touched).

        "moved over" says that another image had this path, and is gone. Whatever was known of its path is superseded.
        Safe to repeat, and safe when another process was there first.
        """
        self.sql.execute("DELETE FROM failure WHERE root = ? AND path = ?", (item.root, item.path))
        stamp = as_row(item.stamp)
        known = self.sql.execute(
            "SELECT id, digest FROM image WHERE root = ? AND path = ?", (item.root, item.path)
        ).fetchone()
        if known and known[1] == item.digest:
            self.sql.execute("UPDATE image SET size = ?, mtime_ns = ?, inode = ? WHERE id = ?", (*stamp, known[0]))
            return "unchanged"
        if known:
            self.delete(known[0])
        if item.moved_from:
            old = item.moved_from
            moved = self.sql.execute(
                "UPDATE image SET root = ?, path = ?, size = ?, mtime_ns = ?, inode = ?"
                " WHERE id = ? AND root = ? AND path = ? AND digest = ?",
                (item.root, item.path, *stamp, old.id, old.root, old.path, item.digest),
            )
            if moved.rowcount:
                return "moved over" if known else "moved"
        self._insert(item, stamp)
        return "changed" if known else "added"

    def _insert(self, item: Put, stamp: tuple[int, int, int]) -> None:
        image = self.sql.execute(
            "INSERT INTO image(root, path, size, mtime_ns, inode, digest, width, height)"
            " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            (item.root, item.path, *stamp, item.digest, item.width, item.height),
        ).lastrowid
        data = np.asarray(item.vector, "<f2").tobytes()
        self.sql.execute("INSERT INTO vector VALUES(?, ?, ?)", (image, data, checksum(data)))
        distinct = dict(zip(reversed(item.categories), reversed(item.probabilities), strict=True))
        ranked = [(int(c), float(distinct[c])) for c in dict.fromkeys(item.categories)]
        self.sql.executemany("INSERT INTO member VALUES(?, ?, ?, ?)", [(image, r, *cp) for r, cp in enumerate(ranked)])
        self.sql.executemany("INSERT INTO pending VALUES(?, ?)", [(c, image) for c, _ in ranked])

    def delete(self, image: int) -> None:
        """Delete one image in the running transaction; its rows in shards become tombstones."""
        for (category,) in self.sql.execute("SELECT category FROM member WHERE image = ?", (image,)).fetchall():
            waiting = self.sql.execute("DELETE FROM pending WHERE category = ? AND image = ?", (category, image))
            if not waiting.rowcount:
                self.sql.execute("INSERT OR IGNORE INTO tombstone VALUES(?, ?)", (category, image))
        for table, column in (("member", "image"), ("vector", "image"), ("image", "id")):
            self.sql.execute(f"DELETE FROM {table} WHERE {column} = ?", (image,))

    # --- failures and removed paths -----------------------------------------------------------------------------

    def fail(self, root: int, path: bytes, reason: str, stamp: Stamp | None) -> None:
        """Record that a file could not be read. With a stamp its content is known to be bad: its image goes."""
        values = as_row(stamp) if stamp else (None, None, None)
        reason = reason.encode("utf-8", "backslashreplace").decode()
        self.sql.execute("INSERT OR REPLACE INTO failure VALUES(?, ?, ?, ?, ?, ?)", (root, path, *values, reason))
        known = self._one("SELECT id FROM image WHERE root = ? AND path = ?", root, path)
        if stamp and known:
            self.delete(known)

    def failures(self) -> list[tuple[int, bytes, str]]:
        """Return (root, path, reason) of every file that could not be read."""
        return list(self.sql.execute("SELECT root, path, reason FROM failure ORDER BY root, path"))

    def failed(self) -> int:
        return int(self._one("SELECT count(*) FROM failure"))

    def drop_failures(self, paths: Iterable[tuple[int, bytes]]) -> None:
        self.sql.executemany("DELETE FROM failure WHERE root = ? AND path = ?", paths)

    def removed(self, root: int) -> dict[bytes, bool]:
        """Return what was removed by hand (True) and what of that was taken back (False); see is_removed."""
        return {
            path: not back for path, back in self.sql.execute("SELECT path, back FROM removed WHERE root = ?", (root,))
        }

    def set_removed(self, root: int, path: bytes) -> None:
        """Have a path (the whole root for an empty one) and all below it stay out."""
        self._below("DELETE FROM removed", root, path)
        self.sql.execute("INSERT INTO removed VALUES(?, ?, 0)", (root, path))
        self._below("DELETE FROM failure", root, path)

    def clear_removed(self, root: int, path: bytes) -> None:
        """Take back the removal of a path and of everything below it; the rest of a removed folder stays out."""
        self._below("DELETE FROM removed", root, path)
        if is_removed(path, self.removed(root)):
            self.sql.execute("INSERT INTO removed VALUES(?, ?, 1)", (root, path))

    def ids_below(self, root: int, path: bytes) -> list[int]:
        """Return the ids of the image at a path and of all below it (the whole root for an empty path)."""
        return [image for (image,) in self._below("SELECT id FROM image", root, path)]

    def inodes_below(self, root: int, path: bytes) -> list[int]:
        """Return the inodes of the file known at a path and of all below it, images and failures."""
        rows = [row for table in ("image", "failure") for row in self._below(f"SELECT inode FROM {table}", root, path)]
        return [inode % 2**64 for (inode,) in rows if inode is not None]

    def places_of(self, inodes: Collection[int], *, failures: bool) -> list[tuple[int, bytes]]:
        """Return (root, path) of the images, or of the failures, whose files have one of these inodes. Reads all."""
        wanted = json.dumps([(inode + 2**63) % 2**64 - 2**63 for inode in inodes])
        statement = "SELECT root, path FROM {} WHERE inode IN " + _LISTED
        return self.sql.execute(statement.format("failure" if failures else "image"), (wanted,)).fetchall()

    def _below(self, statement: str, root: int, path: bytes) -> sqlite3.Cursor:
        where, values = below(root, path)
        return self.sql.execute(f"{statement} WHERE {where}", values)

    # --- shards -------------------------------------------------------------------------------------------------

    def loads(self) -> list[Load]:
        """Return how full each category is, by category; those that hold nothing are left out."""
        return list(self._loads().values())

    def load(self, category: int) -> Load | None:
        """Return how full a category is, None where it holds nothing."""
        return self._loads().get(category)

    def _loads(self) -> dict[int, Load]:
        return self.once("loads", self._read_loads)

    def _read_loads(self) -> dict[int, Load]:
        rows = self.sql.execute(
            "SELECT category, sum(rows), sum(dead), sum(pending) FROM ("
            " SELECT category, rows, 0 AS dead, 0 AS pending FROM shard"
            " UNION ALL SELECT category, 0, count(*), 0 FROM tombstone GROUP BY category"
            " UNION ALL SELECT category, 0, 0, count(*) FROM pending GROUP BY category"
            ") GROUP BY category ORDER BY category"
        )
        return {row[0]: Load(*row) for row in rows}

    def pointer(self, category: int) -> Pointer | None:
        if self._in_snapshot:
            known = self.once("pointers", lambda: {pointer.category: pointer for pointer in self.pointers()})
            return known.get(category)
        row = self.sql.execute("SELECT * FROM shard WHERE category = ?", (category,)).fetchone()
        return Pointer(*row) if row else None

    def pointers(self) -> list[Pointer]:
        return [Pointer(*row) for row in self.sql.execute("SELECT * FROM shard ORDER BY category")]

    def tombstones(self, category: int) -> NDArray[np.int64]:
        """Return the ids of the images that stand in a category's shard and are there no more, rising."""
        if self._in_snapshot and not ((load := self.load(category)) and load.dead):
            return np.empty(0, np.int64)
        rows = self.sql.execute("SELECT image FROM tombstone WHERE category = ? ORDER BY image", (category,))
        return np.array([image for (image,) in rows], np.int64)

    def pending(self, category: int) -> list[int]:
        """Return the ids of the images that wait to be folded into a category, rising."""
        rows = self.sql.execute("SELECT image FROM pending WHERE category = ? ORDER BY image", (category,))
        return [image for (image,) in rows]

    def members(self, category: int) -> list[int]:
        """Return the ids of all images of a category, rising. Reads the whole table of members."""
        rows = self.sql.execute("SELECT image FROM member WHERE category = ? ORDER BY image", (category,))
        return [image for (image,) in rows]

    def probabilities(
        self, category: int, after: tuple[float, int] = (math.inf, -1), limit: int = -1
    ) -> list[tuple[int, float]]:
        """Return (image, probability) of the images of a category, most probable first. Reads all members.

        ``after``: (probability, image), those that come after it in that order. ``limit``: so many at most; -1: all.
        """
        probability, image = after
        return list(
            self.sql.execute(
                "SELECT image, probability FROM member WHERE category = ? AND (-probability, image) > (?, ?)"
                " ORDER BY probability DESC, image LIMIT ?",
                (category, -probability, image, limit),
            )
        )

    def categories_of(self, images: Sequence[int], width: int) -> NDArray[np.int32]:
        """Return the category numbers of images, (n, width), -1 where an image has fewer."""
        found = np.full((len(images), width), -1, np.int32)
        for row, image in enumerate(images):
            for rank, category in self.sql.execute("SELECT rank, category FROM member WHERE image = ?", (image,)):
                found[row, rank] = category
        return found

    def reserve_generations(self, count: int) -> int:
        """Return the first of ``count`` generation numbers, made durable so that no other commit uses them again."""
        with self.transaction():
            first = int(self._one("SELECT value FROM meta WHERE key = 'generation'"))
            self.set_meta("generation", first + count)
        return first

    def point(self, pointer: Pointer, centroids: Sequence[Centroid], folded: Sequence[int], now: float) -> None:
        """Make a file the category's shard in the running transaction, folded rows and all; the old one is garbage."""
        self.unpoint(pointer.category, now)
        category = pointer.category
        self.sql.executemany("DELETE FROM pending WHERE category = ? AND image = ?", [(category, i) for i in folded])
        self.sql.execute(
            "INSERT INTO shard VALUES(?, ?, ?, ?, ?)",
            (category, pointer.generation, pointer.rows, pointer.bytes, pointer.checksum),
        )
        for centroid in centroids:
            self._insert_centroid(centroid)

    def _insert_centroid(self, block: Centroid) -> None:
        data = np.asarray(block.mean, "<f2").tobytes()
        self.sql.execute(
            "INSERT INTO centroid VALUES(?, ?, ?, ?, ?)", (block.category, block.block, block.first, block.rows, data)
        )

    def unpoint(self, category: int, now: float) -> None:
        """Take a category's shard away in the running transaction: pointer, centroid and tombstones."""
        self.sql.execute(
            "INSERT INTO garbage SELECT category, generation, ? FROM shard WHERE category = ?", (now, category)
        )
        for table in ("shard", "centroid", "tombstone"):
            self.sql.execute(f"DELETE FROM {table} WHERE category = ?", (category,))

    def make_pending(self, category: int) -> None:
        """Have every member of a category wait to be folded, in the running transaction."""
        self.sql.execute(
            "INSERT OR IGNORE INTO pending SELECT category, image FROM member WHERE category = ?", (category,)
        )

    def folded(self) -> tuple[int, int, int]:
        """Return what is another one as soon as a shard is: of what is read of all shards, that it is still true."""
        statement = "SELECT count(*), ifnull(max(generation), 0), ifnull(sum(generation), 0) FROM shard"
        count, last, total = self.once("folded", lambda: self.sql.execute(statement).fetchone())
        return int(count), int(last), int(total)

    def centroids(self) -> list[Centroid]:
        """Return every block of the shards, by category and block. DatabaseDamaged for a catalog of format 1."""
        self._require_current()
        rows = self.sql.execute("SELECT category, block, first, rows, data FROM centroid ORDER BY category, block")
        found = [Centroid(c, b, f, n, np.frombuffer(data, "<f2")) for c, b, f, n, data in rows]
        if len({len(block.mean) for block in found}) > 1:
            raise DatabaseDamaged(f"{self.path}: centroids that differ in length; run catdb check --repair")
        return found

    def garbage(self, before: float) -> list[tuple[int, int]]:
        """Return (category, generation) of the files that have been garbage since before then."""
        return list(self.sql.execute("SELECT category, generation FROM garbage WHERE since <= ?", (before,)))

    def date_garbage(self, now: float) -> bool:
        """Have no garbage date from after now, in the running transaction; return whether any did."""
        return self.sql.execute("UPDATE garbage SET since = ?1 WHERE since > ?1", (now,)).rowcount > 0

    def drop_garbage(self, files: Iterable[tuple[int, int]]) -> None:
        self.sql.executemany("DELETE FROM garbage WHERE category = ? AND generation = ?", files)

    # --- checking -----------------------------------------------------------------------------------------------

    def integrity(self) -> list[str]:
        """Return what is wrong with the file by SQLite's own rules, or with its tables; empty when nothing is."""
        try:
            schema = {sql for (sql,) in self.sql.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")}
            expected = {text.strip() for text in _SCHEMA.split(";") if text.strip()}
            for sql in sorted(expected - schema) if self.format() == FORMAT else ():
                return [f"not as it was made: {' '.join(sql.split())[:40]}..."]
            texts = [line for (text,) in self.sql.execute("PRAGMA integrity_check") for line in text.splitlines()]
            return [text for text in texts if text != "ok" and not text.startswith("***")]
        except sqlite3.DatabaseError as error:  # it does not get through the file
            return [str(error)]

    def reindex(self) -> None:
        """Make the indexes anew, where it is only they that are damaged."""
        with suppress(sqlite3.DatabaseError):
            self.sql.execute("REINDEX")

    def faults(self) -> list[tuple[Rule, int]]:
        """Return the rules that are broken, and by how many rows. Where values are of no known form, only those."""
        self._require_current()
        for rules in (MISTYPED, RULES):
            found = [(rule, int(self._one(rule.count))) for rule in rules]
            if any(count for _, count in found):
                return [(rule, count) for rule, count in found if count]
        return []

    def cure(self) -> int:
        """Mend in the running transaction what faults() finds, as far as it can be; return how many images had to go.

        The shards are not looked at: what they hold too much or too little afterwards is for a fold to mend.
        """
        before = self.count()
        for rule in RULES:
            if rule.cure == FORGET:
                for (image,) in self.sql.execute(rule.images).fetchall():
                    self.delete(image)
            elif rule.cure != RESTORE:
                self.sql.execute(rule.statement)
        return before - self.count()

    def vectors(self) -> Iterator[tuple[int, bytes, int]]:
        """Yield (image, bytes, checksum) of every stored vector as it lies, a page at a time."""
        last = -1
        while page := self.sql.execute(
            "SELECT image, data, checksum FROM vector WHERE image > ? ORDER BY image LIMIT ?", (last, PAGE)
        ).fetchall():
            yield from page
            last = page[-1][0]

    def set_vector(self, image: int, vector: NDArray[np.float16]) -> None:
        data = np.asarray(vector, "<f2").tobytes()
        self.sql.execute("INSERT OR REPLACE INTO vector VALUES(?, ?, ?)", (image, data, checksum(data)))

    def all_members(self) -> Iterator[tuple[int, int, int]]:
        """Yield (image, rank, category) of every membership, by image and rank."""
        yield from self.sql.execute("SELECT image, rank, category FROM member ORDER BY image, rank")

    def blocks_of(self, category: int) -> list[Centroid]:
        """Return the blocks of a category's shard as they lie, in order."""
        rows = self.sql.execute(
            "SELECT category, block, first, rows, data FROM centroid WHERE category = ? ORDER BY block", (category,)
        )
        return [Centroid(c, b, f, n, np.frombuffer(data[: len(data) // 2 * 2], "<f2")) for c, b, f, n, data in rows]


def _identity(path: str) -> tuple[int, ...] | None:
    """Return what tells the file at a path from one that takes its place. It is not used again while it is open."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _stamp(path: str) -> tuple[int, ...] | None:
    """Return what changes when the file at a path is written to."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _abandon() -> None:
    """In a process that was just forked, leave the connections of its parent alone for good.

    They share files and memory with it: even the closing of one, at the end of the process, could take the log from
    under the parent. So each gets a reference that is never given back.
    """
    for catalog in list(_connected):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(catalog.sql))


_connected: weakref.WeakSet[Catalog] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon)


def _has_log(path: str) -> bool:
    """Say whether there are commits that the catalog's own file does not hold yet."""
    try:
        return os.path.getsize(path + "-wal") > 0
    except FileNotFoundError:
        return False
