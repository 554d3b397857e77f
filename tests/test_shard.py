"""One category's file: exact bytes out, the same rows in, and nothing accepted that is not such a file."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from catdb import shard
from catdb.checksum import checksum
from catdb.encoding import Encoding
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


def load(path: str, category: str, dimension: int = 12, store: str = "float16") -> Rows:
    with opened(path) as file:
        return shard.load(file, category, dimension, store)


def in_int8(rows: Rows) -> Rows:
    return Rows(Encoding(store="int8").rows(rows.features), rows.image_ids, rows.categories)


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


@pytest.mark.parametrize("store", shard.FORMATS)
@pytest.mark.parametrize("count", [1, 33, 1000])
def test_the_features_are_told_apart_from_the_rest(tmp_path: Path, store: str, count: int) -> None:
    rows = make_rows(count) if store == "float16" else in_int8(make_rows(count))
    data = encode("c", rows)
    first, stride, rest = shard.apart(data)
    end = first + count * stride
    assert data[first:end] == rows.features.tobytes()
    assert rest == checksum(data[:first] + data[end:])
    with opened(saved(tmp_path / "1.h5", data)) as file:
        shard.verify(file, len(data), rest, (0, first), (end, len(data)))
        for a, b in ((0, count), (count // 3, count // 2 + 1)):
            part = first + a * stride, first + b * stride
            shard.verify(file, len(data), checksum(rows.features[a:b]), part)
            with pytest.raises(ShardDamaged, match="the checksum of a part is not the one"):
                shard.verify(file, len(data), checksum(rows.features[a:b]) ^ 1, part)
        with pytest.raises(ShardDamaged, match=f"{len(data) + 1} were written"):
            shard.verify(file, len(data) + 1, rest, (0, first), (end, len(data)))


def test_other_bytes_are_noticed_in_a_part_and_not_beside_it(tmp_path: Path) -> None:
    rows = make_rows(50)
    data = encode("c", rows)
    first, stride, _ = shard.apart(data)
    part, expected = (first + 10 * stride, first + 20 * stride), checksum(rows.features[10:20])
    for byte in (0, part[0] - 1, part[0], part[1] - 1, part[1], len(data) - 1):
        changed = bytearray(data)
        changed[byte] ^= 1
        path = saved(tmp_path / f"{byte}.h5", bytes(changed))
        with opened(path) as file:
            if part[0] <= byte < part[1]:
                with pytest.raises(ShardDamaged):
                    shard.verify(file, len(data), expected, part)
            else:
                shard.verify(file, len(data), expected, part)


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


@pytest.mark.parametrize("store", shard.FORMATS)
def test_a_row_of_either_format_takes_its_numbers_and_24_bytes(tmp_path: Path, store: str) -> None:
    sizes = []
    for count in (1000, 3000):
        rows = make_rows(count, 256)
        sizes.append(len(encode("c", rows if store == "float16" else in_int8(rows))))
    bytes_of_a_row = {"float16": 512, "int8": 256}[store] + 8 + 16
    assert abs(sizes[1] - sizes[0] - 2000 * bytes_of_a_row) < 256  # columns begin at multiples of 64
    assert sizes[0] < 1000 * bytes_of_a_row + 10_000


def test_int8_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = in_int8(make_rows(100))
    path = saved(tmp_path / "1.h5", encode("c", rows))
    found = load(path, "c", store="int8")
    assert found.features.dtype == np.int8
    np.testing.assert_array_equal(found.features, rows.features)
    np.testing.assert_array_equal(found.image_ids, rows.image_ids)
    assert found.features.ctypes.data % 64 == 0 and not found.features.flags.writeable
    assert encode("c", found) == Path(path).read_bytes()


@pytest.mark.parametrize(("held", "asked"), [("float16", "int8"), ("int8", "float16")])
def test_a_shard_of_the_other_format_is_refused(tmp_path: Path, held: str, asked: str) -> None:
    rows = make_rows(10) if held == "float16" else in_int8(make_rows(10))
    path = saved(tmp_path / "1.h5", encode("c", rows))
    with pytest.raises(ShardDamaged, match=f"not a shard of c in format {shard.FORMATS[asked]}"):
        load(path, "c", store=asked)


# Files of these formats as they were first written, of make_rows(3): compressed, for most of a small one is zeros.
GOLDEN = {
    "float16": """
    eNrr9HBx4+WS4mIAAQ4OBhYGAQZk8B8KBBRR+TD5BCjNCKUPQOkHTDBxFrBcAFRcAGp+BDOEnwEV52EwgKpnB7I5GNLyi3ITS4DqOYDOAss4oN
    gDo0OCXF1BvP9oAO4BVgglwTAKRiLwcHUEJ70IKN8CJsGMqi4tNbGktCi1GMbPzE1MT43PTIHxkxNLUtPzizJhKmDpTwGHvYLQdI6eH3gYPKD6
    ORlEgCkbam4lTJ8kIyNYpwDcDg7MdM+BYDMCEzgjkgJGBg0IzcSI4k0eNG8j+BJgrYIK/AxM0BzKxcrAxQ/PPhxgeSYmJqjVkJzEzAjLUh5oPq
    8YUukj2M/fhREYChoMBCIUCjhg5RwzfnWw8qaBbTQP4gOY6RcScoyMqOkXQQuAlaLXC7jTqYcE9hpgwmjgA4G7s78PIwO0wMFSvyajqb/BPxpm
    o2AUjIJRMApGwSgYBaNgFIyCUTAKRsFQA6IOsgc3mnXvsNv+bBPXgZzNb3YtdbIyXrK1YUvETos9jtu2mS/avNI6dZOZmr5djAX3jlsbgy322Q
    dsOb2ZyUZ89+ot/NZLLW7rxliyQ83jgtK8UPoZIwPDUyYGBmUgfRFI9wLxTaB4M5Bvy8zA4AXEE5kg4zurmEbjYxSMglEwCkbBKKAHIHb+kAVK
    Y/IR8zEQMQUwiXs+JgE6EWOA5pKGQREeANiTb1o=
    """,
    "int8": """
    eNrr9HBx4+WS4mIAAQ4OBhYGAQZk8B8KBBRR+TD5BCjNCKUPQOkHTDBxFrBcAFRcAGp+BDOEnwEV52EwgKpnB7I5GNLyi3ITS4DqOYDOAss4oN
    gDNZ4hJMjVFST6Hw3APcAKoSQYRsFIBB6ujuCkFwHlW8AkmFHVpaUmlpQWpRbD+Jm5iemp8ZkpMH5yYklqen5RJkwFLB0q4LBXEJrO0fMDD4MH
    VD8ngwgwZUPNrYTpk2RkBOsUgNvBgWIfI0IIzGYEJnBGJAWMDBoQmokRxZs8aN5G8AXAWkH5DNk+ViAN4jMxMUGthOQgZkZYVlJB83HDkEwfwX
    7+LozAUNBgIBChUMABK+eY8auDlTcNbKN5EB/ATL+QkGNkRE2/zFjSK3K9gDu9qkhgrwEmjAY+ELg7+/swMkALHPRyBlTuoam/wT8aZqNgFIyC
    UTAKRsEoGAWjYBSMglEwCkbBUAN+8wRevf+x+fv9es7PL0+ufKDxxv8DU73utS/K9e8+OB17a6XGpsMOVcsFpXmh9DNGBoanTAwMykD6IpDuBe
    KbQPFmIN+WmYHBC4gnMkHGblYxjYb1KBgFo2AUjIJRMFgAsfOHLFAak4+Yj4GIKYBJ3PMxNtCJGAM0lzQMivAAANW9Yfk=
    """,
}


@pytest.mark.parametrize("store", GOLDEN)
def test_a_file_of_each_format_is_read(tmp_path: Path, store: str) -> None:
    data = zlib.decompress(base64.b64decode(GOLDEN[store]))
    found = load(saved(tmp_path / "1.h5", data), "c", store=store)
    rows = make_rows(3) if store == "float16" else in_int8(make_rows(3))
    for column in ("features", "image_ids", "categories"):
        np.testing.assert_array_equal(getattr(found, column), getattr(rows, column))
    assert found.image_ids.tolist() == [7, 10, 13]


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
    "int8 in format 1": {"features": as_dataset((3, 12), "i1")},
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
