"""An export holds exactly what the catalog holds, whatever the names, in a file that is whole or not there."""

from __future__ import annotations

import csv
import io
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from conftest import Instant, child, save
from hypothesis import given, settings
from hypothesis import strategies as st
from stock import CATEGORIES, DIMENSION, META, delete, fill, make, put

from catdb import Database, DatabaseDamaged, DatabaseNotFound, StorageError
from catdb.export import export
from catdb.roots import Roots
from catdb.store import Store
from catdb.whole import replacing

NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = make(tmp_path / "db")
    yield store
    store.close()


def recorded(store: Store) -> list[dict[str, Any]]:
    """Return what the catalog knows of each image, in its order."""
    with store.snapshot() as snapshot:
        roots = Roots(snapshot.catalog.roots(), store.path)
        return [
            {
                "path": os.fsencode(roots.path(image.root, image.path)),
                "size": (image.width, image.height, image.stamp.size),
                "categories": [CATEGORIES[category] for category in image.categories],
                "probabilities": list(image.probabilities),
                "vector": snapshot.catalog.vector(image.id).tolist(),  # type: ignore[union-attr]
            }
            for image in snapshot.catalog.images()
        ]


def in_csv(data: bytes, *, vectors: bool) -> list[dict[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")))
    ranks = range(1, 5)
    return [
        {
            "path": os.fsencode(row["path"]),
            "size": (int(row["width"]), int(row["height"]), int(row["bytes"])),
            "categories": [(row[f"category_{r}"], row[f"name_{r}"]) for r in ranks if row[f"category_{r}"]],
            "probabilities": [np.float32(row[f"probability_{r}"]).item() for r in ranks if row[f"probability_{r}"]],
            **({"vector": [np.float16(row[f"v{n}"]).item() for n in range(DIMENSION)]} if vectors else {}),
        }
        for row in rows
    ]


def in_npz(data: bytes, *, vectors: bool) -> list[dict[str, Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        arrays = dict(found)
    assert arrays["backbone"] == "made up"
    assert list(zip(arrays["category_ids"].tolist(), arrays["category_names"].tolist(), strict=True)) == CATEGORIES
    assert ("vectors" in arrays) is vectors
    kinds = {name: arrays[name].dtype.str for name in ("widths", "bytes", "categories", "probabilities")}
    assert kinds == {"widths": "<i4", "bytes": "<i8", "categories": "<i4", "probabilities": "<f4"}
    rows = []
    for row, path in enumerate(arrays["paths"].tolist()):
        categories = arrays["categories"][row]
        count = int((categories >= 0).sum())
        assert (categories[count:] == -1).all()
        rows.append(
            {
                "path": path,
                "size": tuple(int(arrays[name][row]) for name in ("widths", "heights", "bytes")),
                "categories": [CATEGORIES[category] for category in categories[:count]],
                "probabilities": arrays["probabilities"][row, :count].tolist(),
                **({"vector": arrays["vectors"][row].tolist()} if vectors else {}),
            }
        )
    return rows


def without_vectors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "vector"} for row in rows]


READERS = {"csv": in_csv, "npz": in_npz}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(NAMES, st.permutations(range(10)), st.integers(1, 4)), unique_by=lambda image: image[0]))
def test_an_export_is_the_catalog(
    tmp_path_factory: pytest.TempPathFactory, images: list[tuple[bytes, list[int], int]]
) -> None:
    store = make(tmp_path_factory.mktemp("store"))
    store.commit([put(n, chosen[:few], path=name) for n, (name, chosen, few) in enumerate(images)])
    expected = recorded(store)
    with mock.patch("catdb.export._PAGE", 3):  # so that there are several
        for form, read in READERS.items():
            for vectors in (False, True):
                stream = io.BytesIO()
                assert export(store, stream, form, vectors=vectors) == len(images)
                assert read(stream.getvalue(), vectors=vectors) == (expected if vectors else without_vectors(expected))
    store.close()


@pytest.mark.parametrize("form", READERS)
def test_it_is_of_one_moment_whatever_is_committed_meanwhile(store: Store, form: str) -> None:
    fill(store, range(20))
    expected = recorded(store)
    told: list[tuple[str, int, int]] = []

    def tell(step: str, done: int, of: int) -> None:
        if not told:
            delete(store, 3, 4, 19)
            fill(store, range(30, 50))
        told.append((step, done, of))

    stream = io.BytesIO()
    with mock.patch("catdb.export._PAGE", 8):
        export(store, stream, form, vectors=True, tell=tell)
    assert READERS[form](stream.getvalue(), vectors=True) == expected
    assert [(done, of) for _, done, of in told][:3] == [(8, 20), (16, 20), (20, 20)]
    assert len(recorded(store)) == 37


@pytest.mark.parametrize("form", READERS)
def test_an_existing_file_is_replaced_once_the_new_one_is_whole(store: Store, form: str, tmp_path: Path) -> None:
    fill(store, range(5))
    target, link = tmp_path / "table", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)

    def tell(step: str, done: int, of: int) -> None:
        assert target.read_text() == "before"
        [part] = tmp_path.glob("table.*.part")
        parts.add(part)

    parts: set[Path] = set()
    export(store, str(link), form, tell=tell)
    assert link.is_symlink()
    assert len(READERS[form](target.read_bytes(), vectors=False)) == 5
    assert len(parts) == 1 and list(tmp_path.glob("*.part")) == []


@pytest.mark.damaged
@pytest.mark.parametrize("form", READERS)
def test_a_damaged_vector_ends_it_and_leaves_what_was_there(store: Store, form: str, tmp_path: Path) -> None:
    fill(store, range(5))
    with store.writing() as catalog, catalog.transaction():
        catalog.sql.execute("UPDATE vector SET data = zeroblob(24) WHERE image = 3")
    (tmp_path / "table").write_text("before")
    with pytest.raises(DatabaseDamaged, match="the vector of image 3 is damaged; run catdb check --repair"):
        export(store, str(tmp_path / "table"), form, vectors=True)
    assert (tmp_path / "table").read_text() == "before"
    assert list(tmp_path.glob("*.part")) == []
    assert export(store, str(tmp_path / "table"), form) == 5  # without vectors nothing is amiss


def test_what_a_killed_writer_left_goes_with_the_next_one_and_no_other_file_does(tmp_path: Path) -> None:
    target = tmp_path / "odd [name]\n.csv"
    other = tmp_path / "odd [name]\n.csv.holiday.part"
    other.write_text("of somebody else")
    script = (
        "import sys\nfrom catdb.whole import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'theirs')\n    print('begun', flush=True)\n    sys.stdin.read()\n"
    )
    with child(script, target) as killed, child(script, target) as living:
        for process in (killed, living):
            assert process.stdout
            assert process.stdout.readline() == "begun\n"
        assert len(list(tmp_path.glob("*.part"))) == 3
        killed.kill()
        killed.wait()
        with replacing(str(target)) as file:
            file.write(b"ours")
        assert target.read_bytes() == b"ours"
        assert len(list(tmp_path.glob("*.part"))) == 2  # that of the one who is still at it
        living.communicate()
        assert living.returncode == 0
    assert target.read_bytes() == b"theirs"
    assert sorted(tmp_path.glob("odd*")) == [target, other]


def test_what_cannot_be_written_says_so(store: Store, tmp_path: Path) -> None:
    fill(store, range(5))
    with pytest.raises(StorageError, match=r"missing/x.csv: No such file or directory; nothing was written"):
        export(store, str(tmp_path / "missing" / "x.csv"), "csv")
    with pytest.raises(IsADirectoryError):
        export(store, str(tmp_path), "csv")
    with pytest.raises(ValueError, match="form is 'xml': it is one of csv, npz"):
        export(store, str(tmp_path / "x"), "xml")
    with pytest.raises(OSError, match="No space left"):
        export(store, "/dev/full", "csv")
    with pytest.raises(DatabaseNotFound):
        export(Store(str(tmp_path / "none"), writable=False), str(tmp_path / "x"), "csv")
    assert not (tmp_path / "x").exists()


def test_a_pipe_is_written_to_and_not_replaced(store: Store, tmp_path: Path) -> None:
    fill(store, range(5))
    os.mkfifo(tmp_path / "pipe")
    script = "import sys\nopen(sys.argv[2], 'wb').write(open(sys.argv[1], 'rb').read())"
    with child(script, tmp_path / "pipe", tmp_path / "copy") as reader:
        export(store, str(tmp_path / "pipe"), "npz", vectors=True)
        assert reader.wait(60) == 0
    assert in_npz((tmp_path / "copy").read_bytes(), vectors=True) == recorded(store)


@pytest.mark.parametrize("form", READERS)
def test_memory_does_not_grow_with_the_images(form: str, tmp_path: Path) -> None:
    wide = 256
    store = Store(str(tmp_path / "wide"), wait=0.0)
    store.create({**META, "dimension": wide}, CATEGORIES)
    with store.writing() as catalog, catalog.transaction():
        root = catalog.add_root(b"/photos", b"../photos", True)

    def peak(images: range) -> int:
        with store.writing() as catalog, catalog.transaction():
            for number in images:
                catalog.put(replace(put(number, root=root), vector=np.full(wide, 1 / 16, np.float16)))
        tracemalloc.start()
        try:
            with mock.patch("catdb.export._PAGE", 100):
                export(store, str(tmp_path / "table"), form, vectors=True)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, more = peak(range(2000)), peak(range(2000, 4000))
    assert (tmp_path / "table").stat().st_size > 2_000_000
    assert more < 1.1 * few < 2_500_000  # the catalog itself reads a thousand images ahead, without their vectors
    store.close()


def test_the_facade_exports_real_files(photos: Path, instant: Instant, tmp_path: Path) -> None:
    with Database(tmp_path / "db", backbone=instant) as database:
        database.build(photos)
        steps: list[str] = []
        assert (
            database.export(tmp_path / "t.npz", form="npz", vectors=True, progress=lambda p: steps.append(p.step)) == 12
        )
        with np.load(tmp_path / "t.npz") as found:
            paths = [os.fsdecode(path) for path in found["paths"]]
            vectors, (width, height) = found["vectors"], (found["widths"][0], found["heights"][0])
        assert paths == list(database)
        assert (width, height) == (40, 30)
        best = database.search_vector(vectors[5], exact=True)[0]
        assert (best.path, best.similarity > 0.999) == (paths[5], True)
        assert "exporting vectors" in steps
        save(photos / "new.png", 77)
        database.build()
        assert database.export(io.BytesIO()) == 13
    with Database(tmp_path / "db", mode="r") as reader:
        assert reader.export(str(tmp_path / "t.csv")) == 13
