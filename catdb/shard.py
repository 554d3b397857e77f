"""One category's immutable HDF5 file. The secret kept here is HDF5.

Format 1. A shard is a pure function of its rows, byte for byte (for one version of the HDF5 library), so that it
can always be rebuilt from the catalog. It is made in memory, written once with plain system calls and never touched
again; libhdf5 never writes to a disk. Root attributes ``format`` (1) and ``category`` (the id); three datasets, each
contiguous, without filters:

========== ======= ====== ===========================================================================
features   float16 (n, d) unit rows, in rising order of image id
image_id   int64   (n,)   the catalog's image ids
categories int32   (n, 4) all categories of the row's image, as catalog numbers, most probable first
========== ======= ====== ===========================================================================

Readers map the datasets into memory: nothing is read that is not scanned, and the page cache is shared by all
processes. A reader checks size and checksum of the whole file before libhdf5 sees one byte of it, and refuses what
an HDF5 file can do beyond holding three arrays (external or soft links, virtual or external storage, filters).
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from catdb.checksum import checksum
from catdb.errors import ShardDamaged

FORMAT = 1
_COLUMNS: dict[str, tuple[np.dtype[Any], int]] = {
    "features": (np.dtype("<f2"), 2),
    "image_id": (np.dtype("<i8"), 1),
    "categories": (np.dtype("<i4"), 2),
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a shard, in rising order of image id; views of one memory map of the file when :func:`load` made them."""

    features: NDArray[np.float16]  # (n, d)
    image_ids: NDArray[np.int64]  # (n,)
    categories: NDArray[np.int32]  # (n, 4)

    def __len__(self) -> int:
        return len(self.image_ids)


def encode(category: str, rows: Rows) -> bytes:
    """Return the file that holds these rows of this category. Takes about three times its size in memory."""
    with h5py.File.in_memory(libver="earliest", alignment_threshold=256, alignment_interval=64) as file:
        file.attrs["format"] = FORMAT
        file.attrs["category"] = category
        for name, data in (
            ("features", rows.features),
            ("image_id", rows.image_ids),
            ("categories", rows.categories),
        ):
            file.create_dataset(name, data=np.asarray(data, _COLUMNS[name][0]), track_times=False)
        file.flush()
        return bytes(file.id.get_file_image())


def write(path: str, data: bytes) -> None:
    """Write a new file and force it to the disk. It must not exist; its directory is the caller's to force."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def verify(path: str, size: int, expected: int) -> None:
    """Raise ShardDamaged unless the file has this size and checksum. FileNotFoundError where it is gone."""
    with open(path, "rb") as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise ShardDamaged(f"{path}: {found} bytes where {size} were written")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if checksum(data) != expected:
                raise ShardDamaged(f"{path}: its checksum is not the one that was written")


def load(path: str, category: str) -> Rows:
    """Map a verified shard into memory.

    Raises ShardDamaged where the file is no shard of this category in the format above (one without rows is none:
    such a category has no file), OSError where it cannot be opened.
    """
    with open(path, "rb") as raw:
        try:
            whole = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
            with h5py.File(path, "r", locking=False) as file:
                if int(file.attrs["format"]) != FORMAT or file.attrs["category"] != category:
                    raise ShardDamaged(f"{path}: not a shard of {category} in format {FORMAT}")
                features, image_ids, categories = (_view(path, whole, file, name) for name in _COLUMNS)
        except ShardDamaged:
            raise
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ShardDamaged(f"{path}: {error}") from error
    if not len(features) == len(image_ids) == len(categories):
        raise ShardDamaged(f"{path}: its datasets differ in length")
    return Rows(features, image_ids, categories)


def _view(path: str, whole: mmap.mmap, file: h5py.File, name: str) -> NDArray[Any]:
    """View one dataset, or raise ShardDamaged where it is anything but a plain contiguous array of its type."""
    dtype, dimensions = _COLUMNS[name]
    link = file.get(name, getlink=True)
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.dtype != dtype
        or dataset.ndim != dimensions
        or dataset.chunks is not None
        or dataset.external is not None
        or dataset.is_virtual
        or dataset.id.get_offset() is None
    ):
        raise ShardDamaged(f"{path}: {name} is not a contiguous {dtype} array of {dimensions} dimensions")
    return np.frombuffer(whole, dtype, dataset.size, dataset.id.get_offset()).reshape(dataset.shape)
