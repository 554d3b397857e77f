"""A database that shortens its vectors: the same answers by whole ones, shards that follow from the record, no gaps."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from conftest import Instant, child, run, save
from numpy.typing import NDArray
from stock import CATEGORIES, META, delete, put, shards

from catdb import BackboneMismatch, Database, DatabaseDamaged
from catdb.check import check, repair
from catdb.encoding import STORES
from catdb.projection import Projection, fit
from catdb.query import answer_vector
from catdb.reach import Reach
from catdb.store import Store

Open = Callable[..., Database]
WIDE, NARROW = 64, 8


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A projection is fitted from so few images that a test can have them."""
    monkeypatch.setattr("catdb.folding.FIT_LEAST", 100)


def vector(seed: int) -> NDArray[np.float16]:
    """Return a unit vector (64,), near a plane of a dozen dimensions that does not go through the origin."""
    plane = np.random.default_rng(0).normal(size=(12, WIDE))
    random = np.random.default_rng(seed)
    value = random.normal(size=12) @ plane + 0.3 * random.normal(size=WIDE) + 1
    return (value / np.linalg.norm(value)).astype(np.float16)


def made(path: Path, dimensions: int | None = NARROW, numbers: str = "float16") -> Store:
    store = Store(str(path), wait=0.0)
    store.create({**META, "dimension": WIDE, "dimensions": dimensions, "store": numbers}, CATEGORIES)
    with store.writing() as catalog, catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    return store


def fill(store: Store, numbers: range) -> None:
    store.commit([replace(put(number), vector=vector(number)) for number in numbers])


@pytest.fixture(params=STORES)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A folded database of 200 images that has fitted its projection, of float16 and of int8 numbers."""
    store = made(tmp_path / "db", numbers=request.param)
    fill(store, range(200))
    store.fold_due(at_rest=True)
    yield store
    store.close()


def widths(store: Store) -> set[int]:
    with store.snapshot() as snapshot:
        return {block.rows.features.shape[1] for block in snapshot.blocks(range(10))}


def found(store: Store, seed: int, reach: Reach = Reach(10, exact=True)) -> list[tuple[str, float]]:  # noqa: B008
    result = answer_vector(store, vector(seed), reach)
    assert result.notes == ()
    return [(match.path, match.similarity) for match in result]


def by_force(store: Store, seed: int, k: int = 10) -> list[tuple[str, float]]:
    """Compare a query with the catalog's whole vectors, in float64."""
    query = vector(seed).astype(np.float64)
    with store.snapshot() as snapshot:
        images = [(image, snapshot.catalog.vector(image.id)) for image in snapshot.catalog.images()]
    scores = []
    for image, whole in images:
        assert whole is not None
        row = whole.astype(np.float64)
        scores.append((f"/photos/{os.fsdecode(image.path)}", row @ query / np.linalg.norm(row) / np.linalg.norm(query)))
    return sorted(scores, key=lambda score: -score[1])[:k]


# --- from whole to short ------------------------------------------------------------------------------------------


def test_shards_hold_whole_vectors_until_there_are_enough_images(tmp_path: Path) -> None:
    store = made(tmp_path / "db")
    fill(store, range(99))
    store.fold_due(at_rest=True)
    assert widths(store) == {WIDE}
    whole = {name.split("/")[0]: len(data) for name, data in shards(store).items()}
    fill(store, range(99, 100))
    store.fold_due(at_rest=False)
    assert widths(store) == {WIDE}  # only when a build is at its end
    store.fold_due(at_rest=True)
    assert widths(store) == {NARROW}
    with store.snapshot() as snapshot:
        pointers = {store.category_id(pointer.category): pointer for pointer in snapshot.catalog.pointers()}
    assert pointers.keys() == whole.keys()
    saved = sum(whole.values()) - sum(pointer.bytes for pointer in pointers.values())
    assert saved > 0.9 * 400 * 2 * (WIDE - NARROW)  # a file has some 8 KB of headers beside its rows
    with store.writing() as catalog:
        store.collect(catalog, grace=float("-inf"))
    assert len(shards(store)) == 10
    store.close()


def test_a_database_without_it_stays_whole(tmp_path: Path) -> None:
    store = made(tmp_path / "db", None)
    fill(store, range(150))
    store.fold_due(at_rest=True)
    assert widths(store) == {WIDE}
    assert not store.refit(force=True)
    store.close()


def test_answers_are_right_at_every_step_between(tmp_path: Path) -> None:
    store = made(tmp_path / "db")
    fill(store, range(150))
    store.fold([0, 1, 2, 3])
    old = store.snapshot()
    before = old.__enter__()  # a reader that has begun
    assert store.refit()
    expected = [path for path, _ in by_force(store, 1000)]
    for category in range(10):
        assert [path for path, _ in found(store, 1000)] == expected
        assert check(store).problems == ()
        store.fold([category])
    assert [path for path, _ in found(store, 1000)] == expected
    assert {block.rows.features.shape[1] for block in before.blocks(range(10))} == {WIDE}
    assert before.notes == [] and before.encoding.projection is None
    old.__exit__(None, None, None)
    store.close()


# --- answers ------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_brute_force_and_scores_those_of_whole_vectors(store: Store) -> None:
    fill(store, range(200, 230))  # some wait
    delete(store, 3, 50, 210)
    agree = 0
    for seed in range(1000, 1030):
        expected, ours = by_force(store, seed), found(store, seed)
        scores = dict(by_force(store, seed, 1000))
        for path, similarity in ours:
            assert similarity == pytest.approx(scores[path], abs=3e-6)
        assert [s for _, s in ours] == sorted((s for _, s in ours), reverse=True)
        agree += len({path for path, _ in ours} & {path for path, _ in expected})
    assert agree >= 0.99 * 300  # of the ten nearest
    assert found(store, 7)[0] == (by_force(store, 7)[0][0], 1.0)


def test_it_routes_by_shortened_centroids(store: Store) -> None:
    with store.snapshot() as snapshot:
        categories, centroids = snapshot.regions().shards
        assert centroids.shape == (10, NARROW)
        assert snapshot.encoding.projection is not None
        short = snapshot.encoding.projection.apply(vector(1000)[None])[0].astype(np.float32)
        closest = int(categories[np.argmax(centroids @ short / np.linalg.norm(centroids, axis=1))])
        members = {block.category: set(block.rows.image_ids.tolist()) for block in snapshot.blocks([closest])}
        result = answer_vector(store, vector(1000), Reach(5, probes=1))
        assert (result.probed, result.scanned) == (1, len(members[closest]))


def test_centroids_are_short_whether_a_category_is_folded_or_waits(store: Store) -> None:
    with store.snapshot() as snapshot:
        folded = snapshot.regions().shards[1]
    with store.writing() as catalog:
        store.unpoint(catalog, [4, 7])
    with store.snapshot() as snapshot:
        regions = snapshot.regions()
    assert set(regions.categories[regions.rows == 0].tolist()) == {4, 7}
    assert np.abs(regions.shards[1] - folded).max() < 1e-3


def test_a_damaged_vector_costs_its_score_and_no_answer(store: Store) -> None:
    before = found(store, 1000)
    with store.writing() as catalog, catalog.transaction():
        [image] = [i.id for i in catalog.images() if f"/photos/{os.fsdecode(i.path)}" == before[0][0]]
        data = catalog.sql.execute("SELECT data FROM vector WHERE image = ?", (image,)).fetchone()[0]
        catalog.sql.execute("UPDATE vector SET data = zeroblob(128) WHERE image = ?", (image,))
    assert len(found(store, 1000)) == 10
    assert [problem.kind for problem in check(store).problems] == ["vector"]
    with store.writing() as catalog, catalog.transaction():
        catalog.sql.execute("UPDATE vector SET data = ? WHERE image = ?", (data, image))
    assert found(store, 1000) == before


# --- the record ---------------------------------------------------------------------------------------------------


def test_shards_are_made_anew_byte_for_byte(store: Store) -> None:
    fill(store, range(200, 260))
    store.fold_all()  # from short rows of old shards and whole ones that waited
    with store.writing() as catalog:
        store.collect(catalog, grace=float("-inf"))
    before = {name.split("/")[0]: data for name, data in shards(store).items()}
    for file in sorted(Path(store.path, "shards").rglob("*.h5"))[:4]:
        file.write_bytes(file.read_bytes()[:-50])
    assert [problem.kind for problem in check(store).problems] == ["shard"] * 4
    assert repair(store).rebuilt == 4
    with store.writing() as catalog:
        store.collect(catalog, grace=float("-inf"))
    assert {name.split("/")[0]: data for name, data in shards(store).items()} == before


def test_check_compares_short_rows_with_the_record(store: Store) -> None:
    assert check(store).problems == ()
    with store.writing() as catalog, catalog.transaction():
        catalog.set_vector(20, vector(999))
    problems = check(store).problems
    assert {problem.detail for problem in problems} == {"its vectors are not those of the catalog"}
    assert len(problems) == 4
    repair(store)
    assert check(store).problems == ()


def test_a_damaged_vector_cannot_come_back_from_a_short_row(tmp_path: Path) -> None:
    store = made(tmp_path / "db", WIDE)  # as long as the whole one, and yet another
    fill(store, range(700))
    store.fold_due(at_rest=True)
    with store.writing() as catalog, catalog.transaction():
        catalog.sql.execute("UPDATE vector SET data = zeroblob(128) WHERE image = 5")
    assert repair(store).gone == 1
    with store.snapshot() as snapshot:
        assert snapshot.catalog.image(5) is None
    store.close()


def test_a_damaged_projection_is_told_and_made_anew(store: Store) -> None:
    expected = found(store, 1000)
    with store.writing() as catalog, catalog.transaction():
        catalog.sql.execute("UPDATE meta SET value = zeroblob(2048) WHERE key = 'axes'")
    other = Store(store.path, wait=0.0)
    with pytest.raises(DatabaseDamaged, match="its projection is damaged; catdb compact --refit makes it anew"):
        found(other, 1000)
    assert [problem.detail for problem in check(other).problems] == [
        "its projection is damaged; catdb compact --refit makes it anew"
    ]
    assert other.refit(force=True)
    other.fold_all()
    assert [path for path, _ in found(other, 1000)] == [path for path, _ in expected]
    assert check(other).problems == ()
    other.close()


def test_another_process_that_fitted_meanwhile_was_first(tmp_path: Path) -> None:
    ours, theirs = made(tmp_path / "db"), Store(str(tmp_path / "db"), wait=0.0)
    fill(ours, range(120))
    numbers: list[int | None] = []

    def number() -> int | None:
        with theirs.snapshot() as snapshot:
            return snapshot.catalog.projection()

    def first(*words: Any) -> Projection:
        fill(theirs, range(120, 160))
        with mock.patch("catdb.folding.fit", fit):
            assert theirs.refit()
        numbers.append(number())
        return fit(*words)

    with mock.patch("catdb.folding.fit", first):
        assert ours.refit()
    assert numbers == [number()] != [None]
    ours.fold_all()
    assert check(ours).problems == ()
    ours.close()
    theirs.close()


def test_a_store_follows_when_another_process_fits_anew(store: Store) -> None:
    expected = found(store, 1000)
    other = Store(store.path, wait=0.0)
    fill(other, range(200, 300))
    assert other.refit(force=True)
    assert found(store, 1000)[0][1] >= expected[0][1]
    other.fold_all()
    assert check(store).problems == ()
    assert found(store, 1000) == found(other, 1000)
    with store.snapshot() as snapshot, other.snapshot() as another:
        assert snapshot.encoding.projection is not None and another.encoding.projection is not None
        assert snapshot.encoding.projection.axes.tobytes() == another.encoding.projection.axes.tobytes()
    other.close()


# --- as a user meets it -------------------------------------------------------------------------------------------


def test_dimensions_are_a_property_of_the_database(tmp_path: Path, instant: Instant, open_db: Open) -> None:
    for seed in range(110):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    database = open_db(backbone=instant, dimensions=4)
    database.build(tmp_path / "photos" / "1.png")
    assert (database.info().dimensions, database.info().shortened) == (4, False)
    database.build(tmp_path / "photos")
    assert (database.info().dimensions, database.info().shortened, database.info().dimension) == (4, True, 12)
    match = database.search(tmp_path / "photos" / "5.png")[0]
    assert (match.path, match.similarity) == (str(tmp_path / "photos" / "5.png"), 1.0)
    database.backup(tmp_path / "copy")
    again = open_db(backbone=instant)
    assert again.search(tmp_path / "photos" / "5.png")[0] == match
    assert open_db("copy", backbone=instant).search(tmp_path / "photos" / "5.png")[0] == match
    with pytest.raises(BackboneMismatch, match="keeps 4 dimensions: leave --dimensions out"):
        open_db(backbone=instant, dimensions=5)
    open_db(backbone=instant, dimensions=4)


def test_a_process_that_dies_between_leaves_a_database_that_goes_on(photos: Path, tmp_path: Path) -> None:
    for seed in range(20, 120):
        save(photos / f"{seed}.png", seed)
    with Database(tmp_path / "db", backbone=Instant(), dimensions=8) as database:
        database.build(photos)
        before = [(match.path, match.similarity) for match in database.search(photos / "3.png", exact=True)]
    script = (
        "import os, sys\nimport catdb.store\nfrom catdb import Database\ncatdb.store.PER_COMMIT = 3\n"
        "Database(sys.argv[1]).compact(refit=True, progress=lambda step: os.kill(os.getpid(), 9))"
    )
    with child(script, tmp_path / "db") as process:
        assert process.wait(60) == -signal.SIGKILL
    with Database(tmp_path / "db") as database:
        assert database.info().pending > 0
        assert database.check().ok
        after = [(match.path, match.similarity) for match in database.search(photos / "3.png", exact=True)]
        assert after == before
        database.build()
        assert (database.info().pending, database.check().ok) == (0, True)


def test_words_filters_and_why_work_as_with_whole_vectors(tmp_path: Path, instant: Instant, open_db: Open) -> None:
    for seed in range(120):
        save(tmp_path / "photos" / ("below" if seed % 3 else "") / f"{seed}.png", seed)
    whole, short = open_db("whole", backbone=instant), open_db("short", backbone=instant, dimensions=8)
    for database in (whole, short):
        database.build(tmp_path / "photos")
    assert short.info().shortened
    one, other = tmp_path / "photos" / "0.png", tmp_path / "photos" / "below" / "1.png"
    expected, found = whole.search_text("category 3"), short.search_text("category 3")
    assert found.scanned == expected.scanned
    assert [m.similarity for m in found] == pytest.approx([m.similarity for m in expected], abs=0.01)
    assert len({m.path for m in found} & {m.path for m in expected}) >= 8
    for how in ({"under": tmp_path / "photos" / "below"}, {"min_similarity": 0.9}, {"without": [other]}, {"probes": 7}):
        expected, found = (database.search(one, **how) for database in (whole, short))  # type: ignore[arg-type]
        assert [(m.path, m.similarity, m.percentile) for m in found] == [
            (m.path, m.similarity, m.percentile) for m in expected
        ], how
        assert found.scanned == expected.scanned or "probes" in how  # the centroids are others
    expected_why, found_why = whole.why(one, other), short.why(one, other)
    assert (found_why.similarity, found_why.shared) == (expected_why.similarity, expected_why.shared)
    assert found_why.a_finds_b.by_default == expected_why.a_finds_b.by_default
    assert (found_why.a_finds_b.probes is None) == (expected_why.a_finds_b.probes is None)


def test_more_dimensions_than_there_are_is_refused(tmp_path: Path, photos: Path, instant: Instant) -> None:
    said = "instant has 12 dimensions: --dimensions 13 must be from 1 to that"
    with (
        Database(tmp_path / "none", backbone=instant, dimensions=13) as new,
        pytest.raises(BackboneMismatch, match=said),
    ):
        new.build(photos)
    assert not (tmp_path / "none").exists()


def test_the_command_line(photos: Path, tmp_path: Path) -> None:
    done = run("build", photos, "--backbone", "classic", "--dimensions", "6")
    assert done.returncode == 0, done.stderr
    before = run("search", photos / "3.png", "--exact", "--json").stdout
    told = "shards hold vectors shortened to 6 dimensions"
    assert f"{told}, once there are enough images to learn how\n" in run("info").stdout
    shutil.copytree(".catdb", tmp_path / "small")
    done = run("compact", "--refit")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{told}\n" in run("info").stdout
    assert run("search", photos / "3.png", "--exact", "--json").stdout == before
    assert run("check").stdout == "all is well\n"
    run("remove", *(photos / f"{seed}.png" for seed in range(7)), "--db", tmp_path / "small")
    done = run("compact", "--refit", "--db", tmp_path / "small")
    assert "nothing to fit" in done.stderr
    refused = run("build", photos, "--dimensions", "7")
    assert refused.returncode == 1 and "keeps 6 dimensions" in refused.stderr and refused.stderr.count("\n") == 1
