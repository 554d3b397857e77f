"""One category's file: exact bytes out, the same rows in, and nothing accepted that is not such a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from catdb import shard
from catdb.checksum import checksum
from catdb.errors import ShardDamaged
from catdb.shard import Rows, encode, opened, write


def make_rows(count: int, dimension: int = 12) -> Rows:
    random = np.random.default_rng(count)
    return Rows(
        random.normal(size=(count, dimension)).astype(np.float16),
        np.arange(count, dtype=np.int64) * 3 + 7,
        random.integers(-1, 1000, (count, 4)).astype(np.int32),
    )


def saved(path: Path, data: bytes) -> str:
    write(str(path), data)
    return str(path)


def load(path: str, category: str, dimension: int = 12) -> Rows:
    with opened(path) as file:
        return shard.load(file, category, dimension)


def verify(path: str, size: int, expected: int) -> None:
    with opened(path) as file:
        shard.verify(file, size, expected)


# --- writing ----------------------------------------------------------------------------------------------------


def test_the_same_rows_make_the_same_bytes() -> None:
    data = encode("n01440764", make_rows(50))
    assert encode("n01440764", make_rows(50)) == data
    rows = make_rows(50)
    assert encode("n01440764", Rows(np.asfortranarray(rows.features), rows.image_ids, rows.categories)) == data


def test_other_rows_or_another_category_make_other_bytes() -> None:
    rows = make_rows(50)
    other = Rows(rows.features, rows.image_ids + 1, rows.categories)
    assert len({encode("a", rows), encode("b", rows), encode("a", other)}) == 3


def test_rows_that_were_loaded_encode_to_the_file_they_came_from(tmp_path: Path) -> None:
    data = encode("c", make_rows(300))
    assert encode("c", load(saved(tmp_path / "1.h5", data), "c")) == data


def test_write_refuses_a_file_that_exists_and_leaves_it_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.h5", b"first")
    with pytest.raises(FileExistsError):
        write(path, b"second")
    assert Path(path).read_bytes() == b"first"


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 1000])
def test_load_returns_exactly_what_was_encoded(tmp_path: Path, count: int) -> None:
    rows = make_rows(count)
    found = load(saved(tmp_path / "1.h5", encode("ü/n01", rows)), "ü/n01")
    assert len(found) == count
    for column, dtype in (("features", "<f2"), ("image_ids", "<i8"), ("categories", "<i4")):
        values = getattr(found, column)
        np.testing.assert_array_equal(values, getattr(rows, column))
        assert values.dtype == np.dtype(dtype)
        assert values.flags.c_contiguous and values.flags.aligned and not values.flags.writeable


def test_large_columns_begin_at_a_multiple_of_64_bytes(tmp_path: Path) -> None:
    found = load(saved(tmp_path / "1.h5", encode("c", make_rows(100))), "c")
    assert [column.ctypes.data % 64 for column in (found.features, found.image_ids, found.categories)] == [0, 0, 0]


def test_rows_outlive_the_file_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.h5", encode("c", make_rows(10)))
    found = load(path, "c")
    Path(path).unlink()
    np.testing.assert_array_equal(found.features, make_rows(10).features)


def test_a_shard_holds_one_descriptor_and_gives_it_back(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.h5", encode("c", make_rows(10)))
    before = descriptors()
    kept = [load(path, "c") for _ in range(20)]
    assert descriptors() <= before + 20
    del kept
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_missing_file_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify(str(tmp_path / "1.h5"), 10, 0)
    with pytest.raises(FileNotFoundError):
        load(str(tmp_path / "1.h5"), "c")


def test_verify_catches_every_flipped_bit_of_a_sample(tmp_path: Path) -> None:
    data = encode("c", make_rows(5))
    path = tmp_path / "1.h5"
    path.write_bytes(data)
    verify(str(path), len(data), checksum(data))
    with path.open("r+b", buffering=0) as file:
        for bit in np.random.default_rng(1).choice(8 * len(data), 2000, replace=False).tolist():
            file.seek(bit // 8)
            file.write(bytes([data[bit // 8] ^ 1 << bit % 8]))
            with pytest.raises(ShardDamaged, match="checksum"):
                verify(str(path), len(data), checksum(data))
            file.seek(bit // 8)
            file.write(data[bit // 8 : bit // 8 + 1])
    verify(str(path), len(data), checksum(data))


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b""], ids=["cut", "longer", "empty"]
)
def test_verify_catches_another_length(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    data = encode("c", make_rows(5))
    (tmp_path / "1.h5").write_bytes(change(data))
    with pytest.raises(ShardDamaged, match=f"{len(data)} were written"):
        verify(str(tmp_path / "1.h5"), len(data), checksum(data))


# --- what is no shard -------------------------------------------------------------------------------------------


def build(path: Path, **instead: Callable[[h5py.File, str], object]) -> str:
    """Make a shard of three rows, but with some datasets (or attributes) made another way."""
    rows = make_rows(3)
    with h5py.File(path, "w") as file:
        for name, value in (("format", 1), ("category", "c")):
            instead.get(name, lambda f, n, v=value: f.attrs.__setitem__(n, v))(file, name)
        for name, data in (("features", rows.features), ("image_id", rows.image_ids), ("categories", rows.categories)):
            instead.get(name, lambda f, n, d=data: f.create_dataset(n, data=d))(file, name)
    return str(path)


def as_attribute(value: object) -> Callable[[h5py.File, str], object]:
    return lambda file, name: file.attrs.__setitem__(name, value)


def as_dataset(shape: tuple[int, ...], dtype: str, **options: object) -> Callable[[h5py.File, str], object]:
    return lambda file, name: file.create_dataset(name, data=np.zeros(shape, dtype), **options)


def soft_link(file: h5py.File, name: str) -> None:
    file.create_dataset("elsewhere", data=make_rows(3).features)
    file[name] = h5py.SoftLink("/elsewhere")


def external_link(file: h5py.File, name: str) -> None:
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as target:
        target.create_dataset(name, data=make_rows(3).features)
    file[name] = h5py.ExternalLink(str(other), name)


def virtual(file: h5py.File, name: str) -> None:
    source = h5py.VirtualSource(str(Path(file.filename).with_name("other.h5")), name, (3, 12), "<f2")
    layout = h5py.VirtualLayout((3, 12), "<f2")
    layout[:] = source
    file.create_virtual_dataset(name, layout)


def external_storage(file: h5py.File, name: str) -> None:
    raw = Path(file.filename).with_name("raw")
    raw.write_bytes(bytes(72))
    file.create_dataset(name, (3, 12), "<f2", external=[(str(raw), 0, 72)])


def compact(file: h5py.File, name: str) -> None:
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((3, 12))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype("<f2")), space, create)


STRANGE: dict[str, dict[str, Callable[[h5py.File, str], object]]] = {
    "another category": {"category": as_attribute("d")},
    "category of another type": {"category": as_attribute(np.arange(3))},
    "no category": {"category": lambda file, name: None},
    "format 2": {"format": as_attribute(2)},
    "format of another type": {"format": as_attribute(np.arange(3))},
    "format that is no number": {"format": as_attribute("one")},
    "no features": {"features": lambda file, name: None},
    "a group": {"features": lambda file, name: file.create_group(name)},
    "a soft link": {"features": soft_link},
    "an external link": {"features": external_link},
    "a virtual dataset": {"features": virtual},
    "external storage": {"features": external_storage},
    "compact": {"features": compact},
    "chunked": {"features": as_dataset((3, 12), "<f2", chunks=(1, 12))},
    "compressed": {"features": as_dataset((3, 12), "<f2", compression="gzip")},
    "checksummed by HDF5": {"features": as_dataset((3, 12), "<f2", fletcher32=True)},
    "float32": {"features": as_dataset((3, 12), "<f4")},
    "the other byte order": {"image_id": as_dataset((3,), ">i8")},
    "features of one dimension": {"features": as_dataset((3,), "<f2")},
    "ids of two dimensions": {"image_id": as_dataset((3, 1), "<i8")},
    "fewer features": {"features": as_dataset((2, 12), "<f2")},
    "more ids": {"image_id": as_dataset((4,), "<i8")},
    "fewer categories": {"categories": as_dataset((2, 4), "<i4")},
}


@pytest.mark.parametrize("instead", STRANGE.values(), ids=STRANGE.keys())
def test_load_refuses(tmp_path: Path, instead: dict[str, Callable[[h5py.File, str], object]]) -> None:
    with pytest.raises(ShardDamaged, match=r"1\.h5"):
        load(build(tmp_path / "1.h5", **instead), "c")


def test_load_accepts_the_plain_layout_from_which_those_differ(tmp_path: Path) -> None:
    np.testing.assert_array_equal(load(build(tmp_path / "1.h5"), "c").features, make_rows(3).features)


@pytest.mark.parametrize(
    "data", [b"", b"no HDF5 file", encode("c", make_rows(300))[:9000]], ids=["empty", "text", "cut"]
)
def test_load_refuses_what_is_no_whole_hdf5_file(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ShardDamaged):
        load(saved(tmp_path / "1.h5", data), "c")


def test_load_refuses_a_shard_without_rows(tmp_path: Path) -> None:
    with pytest.raises(ShardDamaged):
        load(saved(tmp_path / "1.h5", encode("c", make_rows(0))), "c")
