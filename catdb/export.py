"""The catalog as a table for other programs: which columns it has, and how CSV and NPZ hold them.

It is of one moment, and in the order of ``iter(Database)``: by folder and name. A few thousand rows are held at a time,
however many there are; an NPZ is written a column after the other, and each column is one pass over the catalog.

==== =================================================================================================================
CSV  ``path``, ``width``, ``height``, ``bytes``; then ``category_1``, ``name_1``, ``probability_1``, ... to 4, empty
     where an image has fewer; then, with vectors, ``v0``, ``v1``, ... Paths are the file system's bytes (mostly UTF-8).
NPZ  ``paths`` (n,) bytes, ``widths``, ``heights`` (n,) int32, ``bytes`` (n,) int64, ``categories`` (n, 4) int32,
     rows of the two tables below, -1 where an image has fewer; ``probabilities`` (n, 4) float32; with vectors,
     ``vectors`` (n, d) float16, of unit length; ``category_ids``, ``category_names`` (m,) text, ``backbone`` () text.
     Read it with ``numpy.load``; nothing in it is pickled.
==== =================================================================================================================
"""

from __future__ import annotations

import csv
import io
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from catdb.catalog import Image
from catdb.roots import Roots
from catdb.snapshot import Snapshot
from catdb.store import Store
from catdb.whole import replacing

FORMS = ("csv", "npz")
_RANKS = 4  # categories of an image, at most
_PAGE = 1000  # rows held at a time

Tell = Callable[[str, int, int], None]  # what is being done, how many images of it are, of how many


def export(
    store: Store,
    target: str | IO[bytes],
    form: str,
    *,
    vectors: bool = False,
    tell: Tell = lambda step, done, of: None,
) -> int:
    """Write every image of a database to a file, or a binary stream; return how many.

    A file that exists is replaced when the new one is whole. Raises StorageError where it cannot be written,
    DatabaseDamaged for a vector that is damaged.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}: it is one of {', '.join(FORMS)}")
    store.categories()  # raises DatabaseNotFound, before a file is made for nothing
    with replacing(target) if isinstance(target, str) else _lent(target) as stream, store.snapshot() as snapshot:
        table = _Table(snapshot, tell)
        (_write_csv if form == "csv" else _write_npz)(table, stream, vectors)
        return table.count


@contextmanager
def _lent(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    yield stream
    stream.flush()


class _Table:
    """The images of one moment, as columns."""

    def __init__(self, snapshot: Snapshot, tell: Tell) -> None:
        catalog = snapshot.catalog
        self._snapshot, self._tell = snapshot, tell
        self._roots = Roots(catalog.roots(), snapshot.store.path)
        self.count = catalog.count()
        self.meta = catalog.meta()
        self.categories = catalog.categories()

    def pages(self, step: str) -> Iterator[list[Image]]:
        """Yield all images in pages; ``step`` is what is told of it."""
        images, done = self._snapshot.catalog.images(), 0
        while page := list(islice(images, _PAGE)):
            yield page
            done += len(page)
            self._tell(step, done, self.count)

    def path(self, image: Image) -> bytes:
        return os.fsencode(self._roots.path(image.root, image.path))

    def vectors(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """Return the vectors (n, d) of images, every one checked. Raises DatabaseDamaged."""
        return self._snapshot.catalog.vectors_of([image.id for image in images])


def _write_csv(table: _Table, stream: IO[bytes], vectors: bool) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    try:
        writer = csv.writer(text)
        ranks = [f"{name}_{rank}" for rank in range(1, _RANKS + 1) for name in ("category", "name", "probability")]
        places = [f"v{place}" for place in range(table.meta["dimension"] if vectors else 0)]
        writer.writerow(["path", "width", "height", "bytes", *ranks, *places])
        for page in table.pages("exporting"):
            features = table.vectors(page) if vectors else np.empty((len(page), 0), np.float16)
            for image, vector in zip(page, features, strict=True):
                texts = [f"{value:.5g}" for value in vector.tolist()]  # as many digits as tell all float16 apart
                writer.writerow(_row(table, image) + texts)
    finally:
        text.detach()


def _row(table: _Table, image: Image) -> list[Any]:
    row: list[Any] = [os.fsdecode(table.path(image)), image.width, image.height, image.stamp.size]
    for category, probability in zip(image.categories, image.probabilities, strict=True):
        row += [*table.categories[category], str(np.float32(probability))]  # the shortest text that is this float32
    return row + [""] * (3 * (_RANKS - len(image.categories)))


def _write_npz(table: _Table, stream: IO[bytes], vectors: bool) -> None:
    n, d = table.count, table.meta["dimension"]
    columns: list[tuple[str, str, tuple[int, ...], Callable[[Image], Any]]] = [
        ("widths", "<i4", (), lambda image: image.width),
        ("heights", "<i4", (), lambda image: image.height),
        ("bytes", "<i8", (), lambda image: image.stamp.size),
        ("categories", "<i4", (_RANKS,), lambda image: _padded(image.categories, -1)),
        ("probabilities", "<f4", (_RANKS,), lambda image: _padded(image.probabilities, 0)),
    ]
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        ids, names = zip(*table.categories, strict=True) if table.categories else ((), ())
        for name, texts in (("category_ids", ids), ("category_names", names), ("backbone", table.meta["backbone"])):
            whole = np.array(texts, np.str_)
            _write_member(archive, name, whole.dtype, whole.shape, [whole])
        longest = max((len(table.path(image)) for page in table.pages("measuring paths") for image in page), default=1)
        paths = np.dtype(("S", longest))
        pages = (np.array([table.path(i) for i in page], paths) for page in table.pages("exporting paths"))
        _write_member(archive, "paths", paths, (n,), pages, zipfile.ZIP_DEFLATED)  # one long path widens all
        for name, kind, shape, value in columns:
            pages = (np.array([value(i) for i in page], kind) for page in table.pages(f"exporting {name}"))
            _write_member(archive, name, np.dtype(kind), (n, *shape), pages)
        if vectors:
            pages = (np.asarray(table.vectors(page), "<f2") for page in table.pages("exporting vectors"))
            _write_member(archive, "vectors", np.dtype("<f2"), (n, d), pages)


def _padded(values: Sequence[float], rest: float) -> list[float]:
    return [*values, *[rest] * (_RANKS - len(values))]


def _write_member(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    pages: Iterable[NDArray[Any]],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write one array, which is given in pieces along its first axis, as a member of an NPZ."""
    entry = zipfile.ZipInfo(f"{name}.npy", time.localtime()[:6])
    entry.compress_type = compression
    with archive.open(entry, "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        for page in pages:
            member.write(page.tobytes())
