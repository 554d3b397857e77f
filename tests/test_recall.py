"""Recall targets: what is learned of a collection, that a search keeps to it, and what catdb recall says of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Instant, run, save
from PIL import Image
from stock import DIMENSION, make, put

from catdb import Database, calibration
from catdb.calibration import refresh
from catdb.check import repair
from catdb.filters import Filter
from catdb.quality import PROBES, TARGETS, measure
from catdb.query import answer_images, answer_point, answer_points, answer_vector
from catdb.questions import Point
from catdb.reach import Reach
from catdb.recall import LEAST, Recall, learn, recorded
from catdb.search import Regions
from catdb.store import Store

COUNT = 1200


def vectors(count: int) -> np.ndarray:
    """Return unit vectors (count, 12) in bundles of bundles, as photographs are; more of them begin with the same."""
    random = np.random.default_rng(3)
    themes = random.normal(size=(6, DIMENSION))
    scenes = themes[random.integers(0, 6, 40)] + 0.5 * random.normal(size=(40, DIMENSION))
    values = scenes[random.integers(0, 40, 2000)][:count] + 0.25 * random.normal(size=(2000, DIMENSION))[:count]
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def by_direction(rows: np.ndarray) -> list[list[int]]:
    """Return four of the ten categories of each vector: those whose axis it is nearest to, as a classifier would."""
    axes = np.random.default_rng(9).normal(size=(10, DIMENSION))
    return np.argsort(-(rows.astype(np.float32) @ axes.T), axis=1)[:, :4].tolist()


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = make(tmp_path_factory.mktemp("recall") / "db")
    rows = vectors(COUNT)
    puts = [replace(put(n, c), vector=rows[n]) for n, c in enumerate(by_direction(rows))]
    assert store.commit(puts) == ["added"] * COUNT
    store.fold_all()
    refresh(store)
    yield store
    store.close()


def test_a_target_is_met_by_new_queries_and_by_images_of_the_collection(collection: Store) -> None:
    rows, new = np.split(vectors(COUNT + 300), [COUNT])
    rows = rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for target in (0.8, 0.9, 0.95, 0.99):
        found, scanned = 0, 0
        for query in new:
            exact = np.argsort(-(rows @ query.astype(np.float64)))[:10] + 1
            result = answer_vector(collection, query, Reach(10, recall=target))
            paths = {f"/photos/{image - 1:04d}.png" for image in exact.tolist()}
            found += len({match.path for match in result} & paths)
            scanned += result.scanned
        assert found / 3000 >= target - 0.02, "a new query"
        assert scanned / 300 < COUNT / 2
    for measured in measure(collection, 400, 10):
        if measured.target:
            assert measured.recall >= measured.target - 0.02, "an image of the collection"


def test_a_search_by_blocks_is_brute_force_over_their_rows(collection: Store) -> None:
    query = vectors(COUNT + 1)[-1]
    result = answer_vector(collection, query, Reach(25, recall=0.9))
    with collection.snapshot() as snapshot:
        regions = snapshot.regions()
        known = calibration.recall(snapshot, COUNT)
        assert known is not None and known.queries == 1000
        chosen = regions.nearest(query)(known.blocks_for(0.9, len(regions)))
        blocks = list(snapshot.parts(regions, chosen))
    ids = np.concatenate([block.rows.image_ids for block in blocks])
    rows = np.concatenate([block.rows.features for block in blocks]).astype(np.float64)
    cosines = rows @ query.astype(np.float64) / np.linalg.norm(rows, axis=1) / np.linalg.norm(query.astype(np.float64))
    best = sorted(dict(zip(ids.tolist(), cosines.tolist(), strict=True)).items(), key=lambda pair: -pair[1])[:25]
    assert (result.scanned, result.rows, result.centroids) == (len(set(ids.tolist())), len(ids), len(regions))
    assert len(regions) > 10, "shards have several blocks"
    np.testing.assert_allclose([match.similarity for match in result], [cosine for _, cosine in best], atol=2e-6)
    assert len({match.path for match in result}) == len(best), "what stands in several blocks is returned once"


@pytest.mark.parametrize(
    "reach",
    [
        Reach(10),
        Reach(3, probes=1),
        Reach(10, probes=7),
        Reach(10, exact=True),
        Reach(10, recall=0.9),
        Reach(10, recall=0.5),
        Reach(10, only=Filter(category=3, min_similarity=0.1)),
        Reach(10, only=Filter(under="/photos/0003.png")),
        Reach(10, recall=0.9, only=Filter(under="/photos/0003.png")),
    ],
    ids=str,
)
def test_several_queries_at_once_are_answered_as_each_alone(tmp_path: Path, reach: Reach) -> None:
    store = make(tmp_path / "db")
    rows = vectors(COUNT + 70)
    categories = by_direction(rows)
    store.commit([replace(put(n, categories[n]), vector=rows[n]) for n in range(COUNT - 20)])
    store.fold_all()
    refresh(store)
    store.commit([replace(put(n, categories[n]), vector=rows[n]) for n in range(COUNT - 20, COUNT)])  # these wait
    with store.writing() as catalog, catalog.transaction():
        for image in range(1, 40):
            if image != 4:
                catalog.delete(image)  # and these are dead
        pointer = catalog.pointer(2)
        assert pointer is not None
    os.unlink(store.file(2, pointer.generation))  # and a shard is damaged
    new = range(COUNT, COUNT + 70)
    points = [Point(rows[n], tuple((c, 0.2) for c in categories[n])) for n in new]

    alone = [answer_point(store, point, reach) for point in points]
    together = answer_points(store, points, reach)

    assert len(together) == 70 and together == alone
    if reach == Reach(10):
        noted = sum(bool(one.notes) for one in together)
        assert 0 < noted < 70, "the damaged shard is named in the answers for which it was read, and in no others"
    repair(store)
    store.close()


@pytest.mark.parametrize("shared", [0.0, 99.0])
def test_it_is_the_same_whether_queries_are_searched_with_at_once_or_one_after_another(
    collection: Store, shared: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = vectors(COUNT + 40)
    points = [Point(rows[n], tuple((c, 0.2) for c in by_direction(rows)[n])) for n in range(COUNT, COUNT + 40)]
    for reach in (Reach(10), Reach(10, recall=0.9)):
        alone = [answer_point(collection, point, reach) for point in points]
        monkeypatch.setattr("catdb.reach._SHARED", shared)
        assert answer_points(collection, points, reach) == alone


def test_one_query_of_several_goes_further_where_its_own_categories_hold_nothing(tmp_path: Path) -> None:
    store = make(tmp_path / "db")
    store.commit([put(n, [n % 6, (n + 1) % 6]) for n in range(60)])
    store.fold_all()
    points = [Point(put(60 + own).vector, ((own, 0.5),)) for own in (1, 9, 2)]  # nothing stands in category 9
    together = answer_points(store, points, Reach(5, probes=1))
    assert [(result.widened, result.probed, result.scanned) for result in together] == [
        (False, 1, 20),
        (True, 4, 50),
        (False, 1, 20),
    ]
    assert together == [answer_point(store, point, Reach(5, probes=1)) for point in points]
    store.close()


def test_a_target_that_leaves_too_few_matches_says_what_to_do(collection: Store) -> None:
    """More probes would change nothing, as a target has its own measure of how far to go."""
    result = answer_vector(collection, vectors(COUNT + 1)[-1], Reach(COUNT, recall=0.9))
    assert result.notes == (
        f"only {result.scanned:,} of {COUNT:,} images were compared, too few for k = {COUNT:,}:"
        " search with a higher recall, or exact",
    )
    assert answer_vector(collection, vectors(COUNT + 1)[-1], Reach(result.scanned, recall=0.9)).notes == ()


def test_a_whole_recall_is_an_exact_search(collection: Store) -> None:
    query = vectors(COUNT + 1)[-1]
    exact, whole = (answer_vector(collection, query, reach) for reach in (Reach(exact=True), Reach(recall=1.0)))
    assert (whole.matches, whole.scanned) == (exact.matches, COUNT)


def test_what_waits_is_compared_with_the_first_block_of_its_category(tmp_path: Path) -> None:
    store = make(tmp_path / "db")
    rows = vectors(COUNT)
    categories = by_direction(rows)
    store.commit([replace(put(n, categories[n]), vector=rows[n]) for n in range(COUNT - 20)])
    store.fold_all()
    refresh(store)
    store.commit([replace(put(n, categories[n]), vector=rows[n]) for n in range(COUNT - 20, COUNT)])
    for image in range(COUNT - 19, COUNT + 1):
        [answered] = answer_images(store, [image], Reach(1, recall=0.9))
        assert answered is not None and answered[0].image_ids.tolist() == [image]
    store.close()


def test_a_small_collection_is_searched_whole(tmp_path: Path) -> None:
    store = make(tmp_path / "db")
    store.commit([put(n) for n in range(LEAST - 1)])
    result = answer_vector(store, put(3).vector, Reach(recall=0.5))
    assert (result.scanned, result.centroids) == (LEAST - 1, 0)
    store.close()


def test_it_is_measured_once_and_again_when_the_collection_has_grown(tmp_path: Path) -> None:
    store = make(tmp_path / "db")

    def measured() -> Recall | None:
        refresh(store)
        with store.snapshot() as snapshot:
            return recorded(snapshot.catalog.meta().get("recall"))

    store.commit([put(n) for n in range(LEAST - 1)])
    assert measured() is None
    store.commit([put(LEAST - 1)])
    first = measured()
    assert first is not None and first.images == LEAST
    store.commit([put(n) for n in range(LEAST, LEAST + 100)])
    assert measured() is not None and measured().images == LEAST  # type: ignore[union-attr]
    store.commit([put(n) for n in range(LEAST + 100, LEAST + 130)])
    assert measured().images == LEAST + 130  # type: ignore[union-attr]
    store.close()


def test_a_reader_measures_for_itself_where_nobody_has(tmp_path: Path) -> None:
    store = make(tmp_path / "db")
    rows = vectors(LEAST)
    store.commit([replace(put(n, c), vector=rows[n]) for n, c in enumerate(by_direction(rows))])
    store.fold_all()
    reader = Store(store.path, writable=False)
    result = answer_vector(reader, rows[5], Reach(recall=0.9))
    assert 0 < result.scanned < LEAST and result.matches[0].path == "/photos/0005.png"
    with reader.snapshot() as snapshot:
        assert "recall" not in snapshot.catalog.meta()
    reader.close()
    store.close()


# --- the numbers ------------------------------------------------------------------------------------------------


def test_places_are_those_of_both_orders() -> None:
    """Two blocks. The image itself makes the first look nearer than it is to a new query of the same kind."""
    means = np.array([[1.0, 0.0], [0.0, 1.0]], np.float16)
    regions = Regions(np.array([0, 1]), np.array([0, 0]), np.array([1, 5]), means)
    query = np.array([[0.8, 0.6]], np.float16)
    learned = learn(query, np.array([[7, -1]]), {1: [0], 7: [0]}, regions, np.array([1]), 600)
    assert learned is not None and set(learned.places.tolist()) == {1}, "without itself the first block is the last"
    learned = learn(query, np.array([[7, -1]]), {7: [0]}, regions, np.array([1]), 600)
    assert learned is not None and set(learned.places.tolist()) == {0}
    assert learn(query, np.array([[-1, -1]]), {}, regions, np.array([1]), 600) is None


def test_more_is_needed_for_more_and_never_more_than_there_is() -> None:
    known = Recall(1000, 100, 1000, np.sort(np.random.default_rng(1).integers(0, 100, 1001)))
    needed = [known.blocks_for(target, 100) for target in (0.1, 0.5, 0.9, 0.95, 0.99, 1.0)]
    assert needed == sorted(needed) and needed[0] >= 1 and needed[-1] <= 100
    assert known.blocks_for(0.5, 120) >= 1.2 * needed[1] - 1
    assert recorded(known.to_text()) is not None
    assert (recorded(known.to_text()).places == known.places).all()  # type: ignore[union-attr]
    assert [known.is_stale(*now) for now in ((1000, 100), (1200, 100), (1300, 100), (1000, 70))] == [False] * 2 + [
        True
    ] * 2


@pytest.mark.parametrize(
    "text", [None, "", "[]", "[1, 2, 3, [4]]", "nonsense", "[1, 2, 3, null]", "[1e999, 2, 3, []]", b"\xff"]
)
def test_what_is_damaged_counts_as_nothing(text: object) -> None:
    assert recorded(text) is None


@pytest.mark.parametrize("recall", [0.0, -1.0, 1.01, float("nan")])
def test_a_target_is_a_share(recall: float) -> None:
    with pytest.raises(ValueError, match="recall is"):
        Reach(recall=recall)


@pytest.mark.parametrize("wrong", [{"sample": 0}, {"sample": -1}, {"k": 0}])
def test_a_measure_of_nothing_is_refused_in_words(wrong: dict[str, int], collection: Store) -> None:
    """Numpy said it in its own, of shapes."""
    [(name, number)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {number}: it must be at least 1"):
        measure(collection, **{"sample": 5, "k": 5, **wrong})


# --- the command ------------------------------------------------------------------------------------------------


def test_recall_in_words_as_json_and_as_a_curve(tmp_path: Path, instant: Instant) -> None:
    photos = tmp_path / "photos"
    for seed in range(40):
        save(photos / f"{seed}.png", seed)
    with Database(tmp_path / "db", backbone=instant) as db:
        db.build(photos)
        measured = db.recall(sample=30, k=5)
    names = ["default" if n == 4 else f"--probes {n}" for n in PROBES] + [f"--recall {t:g}" for t in TARGETS]
    assert [one.name for one in measured] == names
    assert all((one.queries, one.k) == (30, 5) for one in measured)
    assert measured[-1].recall == measured[-1].scanned == 1.0, "so few images are searched whole"
    told = run("recall", "--db", tmp_path / "db", "--sample", "30", "-k", "5", "--plot", tmp_path / "curve.png")
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith("30 of the images") and len(lines) == 2 + len(names)
    assert lines[4].split()[:3] == ["default", f"{100 * measured[2].recall:.1f}", "%"]
    with Image.open(tmp_path / "curve.png") as curve:
        assert curve.size == (840, 540)
    told = run("recall", "--db", tmp_path / "db", "--sample", "30", "-k", "5", "--json")
    assert [one["recall"] for one in json.loads(told.stdout)["searches"]] == [one.recall for one in measured]
    told = run("recall", "--db", tmp_path / "db", "-k", "40")
    assert (told.returncode, told.stderr) == (
        1,
        "catdb: the database holds 40 images: to measure recall takes more than 40\n",
    )
    told = run("search", "--db", tmp_path / "db", photos / "3.png", "--recall", "0.95", "--json")
    assert json.loads(told.stdout)["scanned"] == 40
    assert run("search", "--db", tmp_path / "db", photos / "3.png", "--recall", "0").returncode == 2


def test_recall_of_shortened_vectors_is_held_against_whole_ones(tmp_path: Path, instant: Instant) -> None:
    for seed in range(40):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    with Database(tmp_path / "db", backbone=instant, dimensions=4) as db:
        db.build(tmp_path / "photos")
        db.compact(refit=True)
        measured = db.recall(sample=30, k=5)
        with db._store.snapshot() as snapshot:
            assert snapshot.encoding.projection is not None
    assert measured[-1].recall == measured[-1].nearest == 1.0, "the search of everything"
