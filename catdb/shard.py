"""One category's immutable HDF5 file. The secret kept here is HDF5.

Formats 1 and 2. A shard is a pure function of its rows, byte for byte (for one version of the HDF5 library), so that
it can always be rebuilt from the catalog. It is made in memory, written once with plain system calls and never touched
again; libhdf5 never writes to a disk. Root attributes ``format`` (1 or 2) and ``category`` (the id); three datasets,
each contiguous, without filters:

========== ======= ====== ===========================================================================
features   float16 (n, d) format 1: unit rows, block by block (see catdb.blocks), in each in rising order of image id
  "        int8    (n, d) format 2: rows of which the length says nothing (see catdb.encoding), in the same order
image_id   int64   (n,)   the catalog's image ids
categories int32   (n, 4) all categories of the row's image, as catalog numbers, most probable first
========== ======= ====== ===========================================================================

Readers map the datasets into memory: nothing is read that is not scanned, and the page cache is shared by all
processes. A map holds no descriptor (Python's own does, until 3.13), so that a reader may keep one of each shard.
A reader opens the file; checks its size, and the checksum of all but the features, before libhdf5 sees one byte; lets
libhdf5 parse what that one descriptor gives, and nothing that a name leads to; refuses what an HDF5 file can do beyond
holding three arrays (further objects, external or soft links, virtual or external storage, filters); and checks each
block of the features before it is scanned, or the whole file at first where all of it is wanted (see catdb.maps).
"""

from __future__ import annotations

import ctypes
import io
import math
import mmap
import os
import stat
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from catdb.checksum import checksum_of
from catdb.encoding import Stored
from catdb.errors import ShardDamaged

FORMATS = {"float16": 1, "int8": 2}  # by what the features are
WIDTH = 4  # categories of a row, at most
_PIECE = 1 << 20  # bytes copied at a time
_APART = 4 << 20  # bytes between two pages of which is asked whether they are in memory
_COLUMNS = ("features", "image_id", "categories")
_TICK = 2.0  # seconds that a file system may count as one: FAT's; others need some milliseconds
_CAUTIOUS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_NOFOLLOW"))


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a shard; views of one memory map of the file when :func:`load` made them."""

    features: Stored  # (n, d)
    image_ids: NDArray[np.int64]  # (n,)
    categories: NDArray[np.int32]  # (n, 4)

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, which: NDArray[np.int64] | slice) -> Rows:
        """Return some of the rows, or all in another order; views where a slice says which."""
        return Rows(self.features[which], self.image_ids[which], self.categories[which])


def _types(store: str) -> dict[str, np.dtype[Any]]:
    """Return the type of each column where the features are float16, or int8."""
    return dict(zip(_COLUMNS, (np.dtype(store).newbyteorder("<"), np.dtype("<i8"), np.dtype("<i4")), strict=True))


def encode(category: str, rows: Rows) -> bytes:
    """Return the file that holds these rows of this category. Takes about three times its size in memory."""
    with h5py.File.in_memory(libver="earliest", alignment_threshold=256, alignment_interval=64) as file:
        file.attrs["format"] = FORMATS[rows.features.dtype.name]
        file.attrs["category"] = category
        types = _types(rows.features.dtype.name)
        for name, data in zip(_COLUMNS, (rows.features, rows.image_ids, rows.categories), strict=True):
            file.create_dataset(name, data=np.asarray(data, types[name]), track_times=False)
        file.flush()
        return bytes(file.id.get_file_image())


def apart(data: bytes) -> tuple[int, int, int]:
    """Return where the features of an encoded shard begin, the bytes of each row of them, and a checksum of the rest.

    The rest is what lies before and behind them. A shard has rows.
    """
    stream = io.BytesIO(data)
    with h5py.File(stream, "r") as root:
        features = root[_COLUMNS[0]]
        first, size, rows = features.id.get_offset(), features.id.get_storage_size(), len(features)
    return first, size // rows, checksum_of(stream, [(0, first), (first + size, len(data))])


def write(path: str, data: bytes) -> None:
    """Write a new file and force it to the disk. It must not exist; its directory is the caller's to force."""
    _write(path, [data])


def copy(file: File, path: str) -> None:
    """Write what an open shard holds into a new file, likewise. ShardDamaged where the shard cannot be read."""
    file.raw.seek(0)
    _write(path, _pieces(file))


def _pieces(file: File) -> Iterator[bytes]:
    try:
        while piece := file.raw.read(_PIECE):
            yield piece
    except OSError as error:
        raise ShardDamaged(f"{file.path}: {error.strerror or error}") from error


def _write(path: str, pieces: Iterable[bytes]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class File:
    """A shard file that is open. ``stamp`` is another one as soon as the file system knows of a change.

    It is None for a file that was written just now: another change in the same tick of the clock would not show.
    """

    path: str
    raw: io.FileIO
    size: int
    stamp: tuple[int, ...] | None


def stamp_of(path: str) -> tuple[int, ...] | None:
    """Return the stamp that a shard has now, None where it is not there."""
    try:
        return _stamp(os.lstat(path))
    except OSError:
        return None


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@contextmanager
def opened(path: str) -> Iterator[File]:
    """Open a shard, once for all that is to be done with it.

    Raises OSError where it cannot be opened, ShardDamaged where it is no regular file: a symbolic link may lead to one
    that somebody changes, and the opening of a FIFO would wait for ever.
    """
    if os.path.islink(path):
        raise ShardDamaged(f"{path}: a symbolic link where a file was written")
    with io.FileIO(path, opener=lambda name, flags: os.open(name, flags | _CAUTIOUS)) as raw:
        found = os.fstat(raw.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ShardDamaged(f"{path}: no regular file")
        settled = abs(time.time() - max(found.st_mtime, found.st_ctime)) > _TICK
        yield File(path, raw, found.st_size, _stamp(found) if settled else None)


def verify(file: File, size: int, expected: int, *parts: tuple[int, int]) -> None:
    """Raise ShardDamaged unless the file has this size, and its bytes this checksum; OSError where it cannot be read.

    ``parts``: those bytes of it (from, to), one behind the other, that the checksum is of; by default all of them.
    It is read and not mapped: a sector that is bad is an error then, where it would be the end of the process.
    """
    if file.size != size:
        raise ShardDamaged(f"{file.path}: {file.size} bytes where {size} were written")
    if checksum_of(file.raw, parts or [(0, size)]) != expected:
        which = "the checksum of a part" if parts else "its checksum"
        raise ShardDamaged(f"{file.path}: {which} is not the one that was written")


def load(file: File, category: str, dimension: int, store: str = "float16") -> Rows:
    """Map a verified shard into memory. ``store``: what its features are to be, by the name in :data:`FORMATS`.

    Raises ShardDamaged where it is no shard of this category and dimension in that format (one without rows is none:
    such a category has no file). The rows outlive the closing of the file.
    """
    try:
        whole = _map(file)
        with h5py.File(file.raw, "r") as root:
            _require_shard(root, category, FORMATS[store])
            features, image_ids, categories = (_view(whole, root, *column) for column in _types(store).items())
        count = len(image_ids)
        if (features.shape, image_ids.shape, categories.shape) != ((count, dimension), (count,), (count, WIDTH)):
            raise ValueError(f"{features.shape} features and {categories.shape} categories of {count} images")
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ShardDamaged(f"{file.path}: {error}") from error
    return Rows(features, image_ids, categories)


def foresee(rows: Rows, pieces: Iterable[slice]) -> None:
    """Have the system read pieces of the rows of a map into memory, all at once, and not page by page as they are used.

    It is not asked where pages here and there are in memory: to look for each of them takes as long as to scan them.
    """
    if not hasattr(mmap, "MADV_WILLNEED"):
        return
    features, there = rows.features, ctypes.c_ubyte(1)
    begin, stride = features.__array_interface__["data"][0], features.strides[0]
    for piece in pieces:
        first, last, _ = piece.indices(len(features))
        page, end = (begin + first * stride) // mmap.PAGESIZE * mmap.PAGESIZE, begin + last * stride
        for place in range(page, end if first < last else page, _APART):
            if _quick.mincore(place, mmap.PAGESIZE, ctypes.byref(there)) == 0 and not there.value & 1:
                _libc.madvise(page, end - page, mmap.MADV_WILLNEED)
                break


def foresee_parts(path: str, parts: Iterable[tuple[int, int]]) -> None:
    """Have the system begin to read some bytes (from, to) of a file, where it can be read at all."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | _CAUTIOUS)
            try:
                for start, stop in parts:
                    os.posix_fadvise(handle, start, stop - start, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)


_libc = ctypes.CDLL(None, use_errno=True)
_quick = ctypes.PyDLL(None)  # for what is over sooner than the interpreter's lock is given up and got back
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_quick.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def _map(file: File) -> memoryview:
    """Map a file for reading, for as long as anything refers to what is returned."""
    address = _libc.mmap(None, file.size, mmap.PROT_READ, mmap.MAP_SHARED, file.raw.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    whole = (ctypes.c_char * file.size).from_address(address)
    weakref.finalize(whole, _libc.munmap, address, file.size).atexit = False
    return memoryview(whole).toreadonly()


def _require_shard(root: h5py.File, category: str, number: int) -> None:
    """Raise ValueError unless the file holds three objects by hard links and its two attributes, and nothing else."""
    links = {name: type(root.get(name, getlink=True)) for name in root}
    if links != dict.fromkeys(_COLUMNS, h5py.HardLink) or root.userblock_size:
        raise ValueError(f"holds {', '.join(sorted(links)) or 'nothing'}, not just {', '.join(_COLUMNS)}")
    names = {name: h5py.h5a.open(root.id, name.encode()) for name in root.attrs}
    if (
        names.keys() != {"format", "category"}
        or any(attribute.shape != () for attribute in names.values())
        or names["format"].get_type() != h5py.h5t.STD_I64LE
        or h5py.check_string_dtype(names["category"].dtype) is None
        or (root.attrs["format"], root.attrs["category"]) != (number, category)
    ):
        raise ValueError(f"not a shard of {category} in format {number}")


def _view(whole: memoryview, root: h5py.File, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """View one dataset, or raise ValueError where it is anything but a plain contiguous array of its type.

    How it is stored is asked first: the mere shape of a virtual dataset may make HDF5 look into other files.
    """
    dataset = h5py.h5o.open(root.id, name.encode())
    plan = dataset.get_create_plist() if isinstance(dataset, h5py.h5d.DatasetID) else None
    if (
        plan is None
        or plan.get_layout() != h5py.h5d.CONTIGUOUS
        or plan.get_external_count()
        or plan.get_nfilters()
        or dataset.get_type() != h5py.h5t.py_create(dtype)
        or dataset.get_type().committed()
        or h5py.h5a.get_num_attrs(dataset)
        or dataset.get_offset() is None
    ):
        raise ValueError(f"{name} is not a plain contiguous array of {dtype}")
    shape = tuple(int(length) for length in dataset.get_space().get_simple_extent_dims())
    if math.prod(shape) * dtype.itemsize > len(whole) - dataset.get_offset():
        raise ValueError(f"{name} claims the shape {shape}, which is more than the file holds")
    return np.frombuffer(whole, dtype, math.prod(shape), dataset.get_offset()).reshape(shape)
