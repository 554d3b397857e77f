"""A percentile is the share of random pairs of the collection that are less alike, and no more digits than it has."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Instant, picture, save
from numpy.typing import NDArray

from catdb import Database, calibration
from catdb.scores import LEAST, Chance, recorded
from catdb.words import closer, short

Open = Callable[..., Database]


def vectors(count: int, dimension: int = 24) -> NDArray[np.float16]:
    rows = np.random.default_rng(count).random((count, dimension)) ** 3
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def pairs(rows: NDArray[np.float16]) -> NDArray[np.float64]:
    """The cosines of all pairs, rising."""
    units = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.sort((units @ units.T)[np.triu_indices(len(rows), 1)])


@pytest.mark.parametrize(("count", "ceiling"), [(50, 0.99), (141, 0.99), (142, 0.999), (448, 0.9999), (1500, 0.9999)])
def test_a_percentile_is_the_share_of_all_pairs_that_are_less_alike(count: int, ceiling: float) -> None:
    rows = vectors(count)
    chance, truth = Chance.of(rows, count), pairs(rows)
    assert chance is not None and chance.pairs == len(truth) == count * (count - 1) // 2
    assert chance.ceiling == pytest.approx(ceiling)
    for similarity in np.quantile(truth, np.random.default_rng(0).random(500)):
        share = np.searchsorted(truth, similarity) / len(truth)
        assert chance.percentile(float(similarity)) == pytest.approx(
            min(share, chance.ceiling), abs=3e-4 + 3 / len(truth)
        )
    for share in (0.5, 0.9, 0.99, 0.999):  # where it matters it is finer
        if share < chance.ceiling:
            similarity = float(np.quantile(truth, share))
            assert 1 - chance.percentile(similarity) == pytest.approx(1 - share, rel=0.02, abs=3 / len(truth))


def test_nothing_is_told_beyond_what_the_sample_can_tell() -> None:
    for count in (50, 200, 500):
        chance = Chance.of(vectors(count), count)
        assert chance is not None
        assert chance.percentile(1.0) == chance.percentile(0.99999) == pytest.approx(chance.ceiling)
        assert chance.percentile(-1.0) == 0
        assert chance.pairs * (1 - chance.ceiling) >= 9.999  # ten pairs lie beyond at least
    assert Chance.of(vectors(LEAST - 1), LEAST - 1) is None


def test_copies_of_one_image_are_no_reason_to_fail() -> None:
    chance = Chance.of(np.repeat(vectors(1), 60, axis=0), 60)
    assert chance is not None and chance.percentile(0.5) == 0


def test_what_is_recorded_is_read_back_and_anything_else_is_none() -> None:
    chance = Chance.of(vectors(80), 100)
    assert chance is not None
    text = chance.to_text()
    again = recorded(text)
    assert again is not None and (again.images, again.pairs) == (100, 3160)
    assert again.cosines == pytest.approx(chance.cosines, abs=1e-6)
    found = json.loads(text)
    for wrong in (None, b"", 3, "", "{", "[]", "{}", json.dumps({**found, "cosines": found["cosines"][::-1]})):
        assert recorded(wrong) is None
    for key, value in (
        ("cosines", [0.5]),
        ("cosines", "x"),
        ("pairs", 0),
        ("images", None),
        ("pairs", "x"),
        ("images", float("inf")),
    ):
        assert recorded(json.dumps({**found, key: value})) is None


@pytest.mark.parametrize(("images", "stale"), [(100, False), (124, False), (125, True), (76, False), (75, True)])
def test_it_is_stale_when_a_quarter_has_changed(images: int, stale: bool) -> None:
    chance = Chance.of(vectors(80), 100)
    assert chance is not None and chance.is_stale(images) is stale


@pytest.mark.parametrize(
    ("percentile", "ceiling", "said"),
    [
        (0.99971, 0.9999, "99.97 %"),
        (0.999899, 0.9999, "99.98 %"),
        (0.9999, 0.9999, ">99.99 %"),
        (0.9996, 0.999, ">99.9 %"),
        (0.9987, 0.999, "99.8 %"),
        (0.99, 0.99, ">99 %"),
        (0.5, 0.99, "50 %"),
        (0.0, 0.9999, "0.00 %"),
        (0.29, 0.9999, "29.00 %"),
        (None, None, ""),
    ],
)
def test_a_percentile_is_shown_in_no_more_digits_than_it_has(
    percentile: float | None, ceiling: float | None, said: str
) -> None:
    assert short(percentile, ceiling) == said
    assert closer(percentile, ceiling) == (f"closer than {said} of random pairs" if said else "")


# --- in a database --------------------------------------------------------------------------------------------------


def measured_of(database: Database) -> int | None:
    """Of how many images the recorded distribution is."""
    with database._store.snapshot() as snapshot:
        text = snapshot.catalog.meta().get("chance")
    return None if text is None else int(json.loads(text)["images"])


def test_a_build_measures_and_measures_again_when_a_quarter_has_come(
    tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    for images, of in ((49, None), (60, 60), (74, 60), (75, 75), (80, 75)):
        for seed in range(images):
            if not (tmp_path / "many" / f"{seed}.png").exists():
                save(tmp_path / "many" / f"{seed}.png", seed)
        database.build(tmp_path / "many")
        assert measured_of(database) == of, images
    database.remove([tmp_path / "many" / f"{seed}.png" for seed in range(30)])
    database.build()
    assert measured_of(database) == 50
    database.remove(tmp_path / "many" / "40.png")
    assert database.search(picture(3))[0].percentile is None  # 49 images are too few again


def test_each_match_has_the_percentile_that_all_pairs_give(tmp_path: Path, open_db: Open, instant: Instant) -> None:
    for seed in range(70):
        save(tmp_path / "many" / f"{seed}.png", seed)
    database = open_db(backbone=instant)
    database.build(tmp_path / "many")
    with database._store.snapshot() as snapshot:
        rows = [np.frombuffer(data, "<f2") for _, data, _ in snapshot.catalog.vectors()]
    truth = pairs(np.array(rows))
    for result in (database.search(picture(900), k=70, exact=True), database.search_vector(np.ones(12), k=5)):
        assert result.ceiling == pytest.approx(0.99)
        for match in result:
            share = np.searchsorted(truth, match.similarity - 1e-4) / len(truth)
            most = np.searchsorted(truth, match.similarity + 1e-4) / len(truth)
            assert match.percentile is not None
            assert min(share, 0.99) - 3e-3 <= match.percentile <= min(most, 0.99) + 3e-3
    same = database.search(tmp_path / "many" / "3.png", k=1)[0]
    assert (same.similarity, same.percentile) == (pytest.approx(1, abs=1e-3), pytest.approx(0.99))


@pytest.mark.parametrize("harm", ["DELETE FROM meta", "UPDATE meta SET value = 'x'", "UPDATE meta SET value = x'00'"])
def test_a_reader_measures_for_itself_what_is_missing_or_damaged(
    harm: str, tmp_path: Path, open_db: Open, instant: Instant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(60):
        save(tmp_path / "many" / f"{seed}.png", seed)
    database = open_db(backbone=instant)
    database.build(tmp_path / "many")
    before = database.search(picture(900))
    database.close()
    with sqlite3.connect(Path(database.path, "catalog.sqlite"), isolation_level=None) as sql:
        sql.execute(f"{harm} WHERE key = 'chance'")
    sql.close()
    measured: list[int] = []
    measure = calibration._measure
    monkeypatch.setattr(calibration, "_measure", lambda *words: measured.append(1) or measure(*words))
    reader = open_db(mode="r", backbone=instant)
    for _ in range(3):
        for match, then in zip(reader.search(picture(900)), before, strict=True):
            assert (match.path, match.percentile) == (then.path, pytest.approx(then.percentile, abs=2e-5))
    assert measured == [1]  # and once only
    database.build()
    assert measured_of(database) == 60


def test_a_sample_is_of_all_or_of_so_many_and_always_the_same(tmp_path: Path, open_db: Open, instant: Instant) -> None:
    for seed in range(30):
        save(tmp_path / "many" / f"{seed}.png", seed)
    database = open_db(backbone=instant)
    database.build(tmp_path / "many")
    with database._store.snapshot() as snapshot:
        catalog = snapshot.catalog
        every = {data for _, data, _ in catalog.vectors()}
        for count in (30, 500):
            assert {vector.tobytes() for _, vector in catalog.sample(count)} == every
        some = [vector.tobytes() for _, vector in catalog.sample(10)]
        assert len(set(some)) == 10 and set(some) <= every
        assert some == [vector.tobytes() for _, vector in catalog.sample(10)]
