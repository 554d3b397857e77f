"""A database whose shards hold int8 numbers: the answers of float16, half the bytes, and all that it can do besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
from conftest import Instant, run, save
from hypothesis import given, settings
from hypothesis import strategies as st
from stock import delete, shards
from test_shortened import NARROW, WIDE, by_force, fill, found, made, vector
from test_watch_cli import watching

from catdb import BackboneMismatch, Database, DatabaseDamaged, calibration, recall
from catdb.check import check, repair
from catdb.encoding import STORES, Encoding
from catdb.quality import measure
from catdb.query import answer_vector
from catdb.reach import Reach
from catdb.store import Store

Open = Callable[..., Database]
COUNT = 200


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Folded, waiting and deleted images of int8 rows. Not to be changed."""
    store = made(tmp_path_factory.mktemp("int8") / "db", None, "int8")
    fill(store, range(COUNT - 20))
    store.fold_due(at_rest=True)
    fill(store, range(COUNT - 20, COUNT))
    delete(store, 3, 50, 199)
    yield store
    assert check(store).problems == ()
    store.close()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(1000, 10**6), k=st.integers(COUNT // 8, COUNT))
def test_with_as_many_candidates_as_images_it_is_brute_force(collection: Store, seed: int, k: int) -> None:
    expected, ours = by_force(collection, seed, k), found(collection, seed, Reach(k, exact=True))
    assert [similarity for _, similarity in ours] == pytest.approx([score for _, score in expected], abs=3e-6)
    scores = dict(by_force(collection, seed, COUNT))
    assert all(similarity == pytest.approx(scores[path], abs=3e-6) for path, similarity in ours)
    assert len({path for path, _ in ours}) == len(ours) == min(k, COUNT - 3)


def test_ten_are_those_of_brute_force_with_eighty_candidates(collection: Store) -> None:
    agree = 0
    for seed in range(1000, 1040):
        expected, ours = by_force(collection, seed), found(collection, seed)
        agree += len({path for path, _ in expected} & {path for path, _ in ours})
        assert ours[0] == (expected[0][0], pytest.approx(expected[0][1], abs=3e-6))
    assert agree == 400
    assert found(collection, 7)[0] == ("/photos/0007.png", 1.0)


@pytest.mark.parametrize("dimensions", [None, NARROW])
def test_a_row_takes_a_byte_for_each_number(
    tmp_path: Path, dimensions: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdb.folding.FIT_LEAST", 100)
    store = made(tmp_path / "db", dimensions, "int8")
    fill(store, range(COUNT))
    store.fold_due(at_rest=True)
    for file in Path(store.path, "shards").rglob("*.h5"):
        with h5py.File(file) as held:
            rows = len(held["image_id"])
            assert held["features"].id.get_storage_size() == rows * (dimensions or WIDE)
            assert held.attrs["format"] == 2
        assert file.stat().st_size < rows * ((dimensions or WIDE) + 8 + 16) + 9000  # and some 8 KB of headers
    store.close()


def test_blocks_have_the_mean_of_the_unit_vectors_that_their_rows_stand_for(collection: Store) -> None:
    with collection.snapshot() as snapshot:
        regions = snapshot.regions()
        [first] = np.flatnonzero((regions.categories == 4) & (regions.first == 0)).tolist()
        parts = list(snapshot.parts(regions, np.array([first])))
    rows = parts[0].rows.features.astype(np.float64)
    assert len(rows) == regions.rows[first] and len(regions) > 20
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    assert np.abs(regions.means[first] - mean).max() < 5e-4
    assert np.linalg.norm(mean) <= 1


def test_shards_are_made_anew_byte_for_byte(tmp_path: Path) -> None:
    store = made(tmp_path / "db", None, "int8")
    fill(store, range(150))
    store.fold_due(at_rest=True)
    fill(store, range(150, COUNT))
    store.fold_all()  # from int8 rows of old shards and vectors that waited
    with store.writing() as catalog:
        store.collect(catalog, grace=float("-inf"))
    before = {name.split("/")[0]: data for name, data in shards(store).items()}
    expected = found(store, 1000)
    files = sorted(Path(store.path, "shards").rglob("*.h5"))[:4]
    for file in files:
        file.write_bytes(file.read_bytes()[:-50])
    result = answer_vector(store, vector(1000), Reach(10, exact=True))
    assert [(match.path, match.similarity) for match in result] == expected and len(result.notes) == 4
    assert [problem.kind for problem in check(store).problems] == ["shard"] * 4
    assert repair(store).rebuilt == 4
    with store.writing() as catalog:
        store.collect(catalog, grace=float("-inf"))
    assert {name.split("/")[0]: data for name, data in shards(store).items()} == before
    store.close()


def test_check_compares_rows_with_the_record_and_no_row_gives_a_vector_back(tmp_path: Path) -> None:
    store = made(tmp_path / "db", None, "int8")
    fill(store, range(100))
    store.fold_due(at_rest=True)
    assert check(store).problems == ()
    with store.writing() as catalog, catalog.transaction():
        catalog.set_vector(20, vector(999))
    assert {problem.detail for problem in check(store).problems} == {"its vectors are not those of the catalog"}
    assert repair(store).gone == 0
    with store.writing() as catalog, catalog.transaction():
        catalog.sql.execute("UPDATE vector SET data = zeroblob(128) WHERE image = 5")
    assert len(found(store, 5)) == 10, "it costs a score, and no answer"
    assert repair(store).gone == 1
    assert check(store).problems == ()
    store.close()


@pytest.mark.parametrize(("held", "said"), [("int8", "float16"), ("float16", "int8")])
def test_shards_that_are_not_what_the_database_says_are_damaged(tmp_path: Path, held: str, said: str) -> None:
    store = made(tmp_path / "db", None, held)
    fill(store, range(40))
    store.fold_due(at_rest=True)
    expected = found(store, 1000)
    with store.writing() as catalog, catalog.transaction():
        catalog.set_meta("store", said)
    store.close()
    other = Store(store.path, wait=0.0)
    result = answer_vector(other, vector(1000), Reach(10, exact=True))
    assert [(match.path, match.similarity) for match in result] == expected and len(result.notes) == 10
    problems = check(other).problems
    assert [problem.kind for problem in problems] == ["shard"] * 10
    assert f"in format {1 + STORES.index(said)}" in problems[0].detail
    assert repair(other).rebuilt == 10
    assert found(other, 1000) == expected
    other.close()


def test_numbers_that_this_version_does_not_know_are_refused(tmp_path: Path) -> None:
    store = made(tmp_path / "db", None, "int8")
    fill(store, range(20))
    with store.writing() as catalog, catalog.transaction():
        catalog.set_meta("store", "int4")
    said = "shards of int4, which this version of catdb does not know"
    with pytest.raises(DatabaseDamaged, match=said):
        found(store, 1)
    assert [problem.detail for problem in check(store).problems] == [said]
    with store.writing() as catalog, catalog.transaction():
        catalog.set_meta("store", "int8")
    store.close()


# --- recall ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimensions", "numbers"), [(NARROW, "float16"), (NARROW, "int8"), (None, "int8")])
def test_recall_is_learned_from_whole_vectors(
    tmp_path: Path, dimensions: int | None, numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdb.folding.FIT_LEAST", 100)
    store = made(tmp_path / "db", dimensions, numbers)
    fill(store, range(600))
    store.fold_due(at_rest=True)
    with mock.patch("catdb.recall.learn", wraps=recall.learn) as learned:
        calibration.refresh(store)
    _, nearest, _, _, own, _ = learned.call_args.args
    with store.snapshot() as snapshot:
        whole = np.array([snapshot.catalog.vector(image) for image in range(1, 601)]).astype(np.float64)
        encoding = snapshot.encoding
    short = encoding.rows(whole.astype(np.float16)).astype(np.float64)
    agree, by_rows = 0, 0
    for image, row in zip(own.tolist(), nearest.tolist(), strict=True):
        best = [n + 1 for n in np.argsort(-unit(whole) @ unit(whole)[image - 1]).tolist() if n != image - 1][:10]
        poor = [n + 1 for n in np.argsort(-unit(short) @ unit(short)[image - 1]).tolist() if n != image - 1][:10]
        agree, by_rows = agree + len({*row} & {*best}), by_rows + len({*poor} & {*best})
    assert agree > (0.97 if dimensions else 0.999) * 10 * len(own)
    assert by_rows < (0.6 if dimensions else 0.995) * 10 * len(own), "which the rows alone do not tell"
    store.close()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_recall_targets_are_met(tmp_path: Path) -> None:
    store = made(tmp_path / "db", None, "int8")
    fill(store, range(1000))
    store.fold_due(at_rest=True)
    calibration.refresh(store)
    measured = {one.name: one for one in measure(store, 300, 10)}
    assert measured["--recall 0.9"].recall >= 0.88 and measured["--recall 0.99"].recall >= 0.98
    assert measured["--recall 0.9"].scanned < 1
    store.close()


# --- as a user meets it -----------------------------------------------------------------------------------------------


def test_it_is_a_property_of_the_database(tmp_path: Path, instant: Instant, open_db: Open) -> None:
    folder = tmp_path / "photos"
    for seed in range(60):
        save(folder / f"{seed}.png", seed)
    plain, database = open_db("plain", backbone=instant), open_db(backbone=instant, store="int8")
    for one in (plain, database):
        one.build(folder)
    assert (plain.info().store, database.info().store) == ("float16", "int8")
    expected = [(m.path, m.similarity, m.percentile) for m in plain.search(folder / "5.png", exact=True)]

    def answers(one: Database) -> list[tuple[str, float, float | None]]:
        return [(m.path, m.similarity, m.percentile) for m in one.search(folder / "5.png", exact=True)]

    assert answers(database) == expected and expected[0][:2] == (str(folder / "5.png"), 1.0)
    assert [m.path for m in database.search_text("category 3")] != []
    assert database.duplicates(similarity=0.9).groups == plain.duplicates(similarity=0.9).groups
    database.backup(tmp_path / "copy")
    assert answers(open_db("copy", backbone=instant)) == expected
    for name, one in (("a", plain), ("b", database)):
        one.export(tmp_path / name, vectors=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    save(folder / "late.png", 999)
    with database.watch(folder) as watch:
        watch.wait_idle(60)
        assert database.search(folder / "late.png")[0].path == str(folder / "late.png")
    assert database.compact() > 0
    with pytest.raises(BackboneMismatch, match="keeps int8 numbers: leave --store out"):
        open_db(backbone=instant, store="float16")
    with pytest.raises(BackboneMismatch, match="keeps float16 numbers: leave --store out"):
        open_db("plain", backbone=instant, store="int8")
    with pytest.raises(ValueError, match="store is 'int4': it is 'float16' or 'int8'"):
        open_db("other", backbone=instant, store="int4")
    assert answers(open_db(backbone=instant, store="int8"))[0] == expected[0]


def test_a_database_of_an_older_version_holds_float16(tmp_path: Path, instant: Instant, open_db: Open) -> None:
    save(tmp_path / "photos" / "1.png", 1)
    database = open_db(backbone=instant)
    database.build(tmp_path / "photos")
    with database._store.writing() as catalog, catalog.transaction():
        catalog.sql.execute("DELETE FROM meta WHERE key = 'store'")
    again = open_db(backbone=instant, store="float16")
    assert (again.info().store, len(again.search(tmp_path / "photos" / "1.png"))) == ("float16", 1)


def test_the_command_line(photos: Path, tmp_path: Path) -> None:
    done = run("build", photos, "--backbone", "classic", "--store", "int8", "--dimensions", "6")
    assert done.returncode == 0, done.stderr
    done = run("compact", "--refit")
    assert (done.returncode, done.stderr) == (0, "")
    told = run("info").stdout
    assert "shards hold vectors shortened to 6 dimensions\n" in told
    assert "shards hold int8 numbers, and what is found by those is compared again by whole vectors\n" in told
    assert run("check").stdout == "all is well\n"
    refused = run("build", photos, "--store", "float16")
    assert refused.returncode == 1 and "keeps int8 numbers" in refused.stderr and refused.stderr.count("\n") == 1
    assert run("build", photos, "--store", "int4").returncode == 2
    with watching(photos, "--db", tmp_path / "w", "--backbone", "classic", "--store", "int8") as watch:
        watch.err.until("watching")
        watch.end()
    assert "shards hold int8 numbers" in run("info", "--db", tmp_path / "w").stdout


def test_rows_of_both_kinds_wait_and_are_folded_alike(tmp_path: Path) -> None:
    store = made(tmp_path / "db", None, "int8")
    fill(store, range(30))
    with store.snapshot() as snapshot:
        waiting = {block.category: block.rows.features for block in snapshot.blocks(range(10))}
    store.fold_all()
    with store.snapshot() as snapshot:
        for block in snapshot.blocks(range(10)):
            assert block.rows.features.dtype == np.int8
            np.testing.assert_array_equal(block.rows.features, waiting[block.category])
        assert snapshot.encoding == Encoding(store="int8")
    store.close()
