"""One image each: the file it was, what is in it, its vector; how it is stored, and what its going leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdb.catalog.ahead import reading_ahead, watched
from catdb.catalog.columns import LISTED, PAGE, as_list, as_row, as_stamp
from catdb.catalog.meta import Meta
from catdb.catalog.values import Image, Put
from catdb.checksum import checksum
from catdb.errors import DatabaseDamaged

_MANY = 200_000  # images from which it is worth while to read ahead of what counts them
_SOME = 16  # images whose inodes divide all of them into about equal parts
_BETWEEN = "SELECT count(*) FROM image INDEXED BY image_inode WHERE inode BETWEEN ? AND ?"
_EVERY = 50  # times a sample, up to which the ids of all images are read to choose from


class Images(Meta):
    """A connection that knows the tables ``image``, ``vector`` and ``distinct_pair``, and what hangs on an image."""

    def count(self) -> int:
        return int(self.once("count", self._count))

    def _count(self) -> int:
        """Count the images, for which SQLite goes through an index."""
        inodes, cold = watched(self._inodes)
        with reading_ahead(partial(self.reader, self.path), _BETWEEN, inodes if cold else ()):
            return int(self._one("SELECT count(*) FROM image"))

    def _inodes(self) -> list[int]:
        """Return the least inode, those of some images and the greatest, rising; none where there are few images."""
        last = self.last()
        if last < _MANY:
            return []
        ends = "SELECT min(inode) FROM image UNION ALL SELECT max(inode) FROM image"
        some = f"SELECT inode FROM image WHERE id IN {LISTED}"
        rows = self.sql.execute(f"{ends} UNION ALL {some} ORDER BY 1", (as_list(range(1, last, last // _SOME)),))
        return [inode for (inode,) in rows if inode is not None]

    def last(self) -> int:
        """Return the greatest id of an image, 0 where there is none."""
        return int(self.once("last", lambda: self._one("SELECT ifnull(max(id), 0) FROM image")))

    def count_of(self, root: int) -> int:
        return int(self._one("SELECT count(*) FROM image WHERE root = ?", root))

    def image(self, image: int) -> Image | None:
        return next(self._images("WHERE id = ?", (image,)), None)

    def image_at(self, root: int, path: bytes) -> Image | None:
        return next(self._images("WHERE root = ? AND path = ?", (root, path)), None)

    def images_by_id(self, ids: Sequence[int]) -> dict[int, Image]:
        """Return images by id; those that are not there are left out."""
        return {image.id: image for image in self._images(f"WHERE id IN {LISTED}", (as_list(ids),))}

    def images_of(self, digest: bytes, after: int = 0) -> Iterator[Image]:
        """Yield the images whose files hold this content, oldest first, from after an id on.

        Each is read when it is asked for: there may be thousands of copies, of which one will do.
        """
        where = "WHERE digest = ? AND id > ? ORDER BY id LIMIT 1"
        while image := next(self._images(where, (digest, after)), None):
            yield image
            after = image.id

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
            f"SELECT image, category, probability FROM member WHERE image IN {LISTED} ORDER BY image, rank",
            (as_list(members),),
        ):
            members[image].append((category, probability))
        for number, root, path, size, mtime_ns, inode, digest, width, height in rows:
            categories, probabilities = zip(*members[number], strict=True) if members[number] else ((), ())
            stamp = as_stamp(size, mtime_ns, inode)
            yield Image(number, root, path, stamp, digest, width, height, categories, probabilities)

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

    def vector(self, image: int) -> NDArray[np.float16] | None:
        """Return a stored vector (d,), checked. None where it is not there or damaged."""
        row = self.sql.execute("SELECT data, checksum FROM vector WHERE image = ?", (image,)).fetchone()
        return np.frombuffer(row[0], "<f2") if row and checksum(row[0]) == row[1] else None

    def vectors_of(self, images: Sequence[int]) -> NDArray[np.float16]:
        """Return the vectors (n, d) of these images, every one checked (DatabaseDamaged)."""
        vectors = []
        for image in images:
            vector = self.vector(image)
            if vector is None:
                raise DatabaseDamaged(f"{self.path}: the vector of image {image} is damaged; run catdb check --repair")
            vectors.append(vector)
        return np.array(vectors, np.float16).reshape(len(vectors), self.meta()["dimension"])

    def set_vector(self, image: int, vector: NDArray[np.float16]) -> None:
        data = np.asarray(vector, "<f2").tobytes()
        self.sql.execute("INSERT OR REPLACE INTO vector VALUES(?, ?, ?)", (image, data, checksum(data)))

    def vectors(self) -> Iterator[tuple[int, bytes, int]]:
        """Yield (image, bytes, checksum) of every stored vector as it lies, a page at a time."""
        last = -1
        while page := self.sql.execute(
            "SELECT image, data, checksum FROM vector WHERE image > ? ORDER BY image LIMIT ?", (last, PAGE)
        ).fetchall():
            yield from page
            last = page[-1][0]

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
