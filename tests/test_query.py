"""A query searches its own four shards, and says what it searched."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_overloads, get_type_hints

import numpy as np
import pytest
from conftest import Instant, picture, save
from numpy.typing import NDArray
from PIL import Image

from catdb import Database, Failure, ImageUnreadable, Match, Result
from catdb.images import fit
from catdb.images.scenes import render

Open = Callable[..., Database]


class Catalogued:
    """The vectors and categories as the catalog holds them: what a search is compared with."""

    def __init__(self, database: Database) -> None:
        sql = sqlite3.connect(f"file:{database.path}/catalog.sqlite?mode=ro", uri=True)
        ids = {category: number for number, category in sql.execute("SELECT number, id FROM category")}
        self.numbers = ids
        rows = sql.execute("SELECT id, path, data FROM image JOIN vector ON image = id ORDER BY id").fetchall()
        self.paths = [os.fsdecode(path) for _, path, _ in rows]
        self.vectors = np.array([np.frombuffer(data, "<f2") for _, _, data in rows]).astype(np.float64)
        members: dict[int, set[int]] = {row[0]: set() for row in rows}
        for image, category in sql.execute("SELECT image, category FROM member"):
            members[image].add(category)
        self.members = [members[row[0]] for row in rows]
        sql.close()

    def union(self, categories: set[int]) -> list[int]:
        """Rows of the images that stand in any of the categories."""
        return [row for row, own in enumerate(self.members) if own & categories]

    def nearest(self, vector: NDArray[np.float64], k: int, rows: list[int] | None = None) -> list[tuple[str, float]]:
        found = self.vectors @ vector
        chosen = range(len(found)) if rows is None else rows
        order = sorted(chosen, key=lambda row: (-round(float(found[row]), 5), row))[:k]
        return [(self.paths[row], float(found[row])) for row in order]


def asked(seed: int) -> tuple[Image.Image, NDArray[np.float64]]:
    """A query picture, and its vector as the stand-in embeds it."""
    image = picture(seed)
    vector = Instant().embed(fit(image, (16, 16))[0][None]).features[0].astype(np.float16).astype(np.float64)
    return image, vector


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 150 pictures and their database, to be copied; under another name than when it was built, lest a
    copy of the database knows these pictures, and not the copies beside it."""
    place = tmp_path_factory.mktemp("crowd") / "before"
    for seed in range(150):
        save(place / "crowd" / f"{seed:03}.png", 3000 + seed)
    with Database(place / "crowd-db", backbone=Instant()) as database:
        database.build(place / "crowd")
    return place.rename(place.with_name("after"))


@pytest.fixture
def crowd(original: Path, tmp_path: Path, open_db: Open, instant: Instant) -> Database:
    """A database of 150 pictures."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return open_db("crowd-db", backbone=instant)


def named(result: Result) -> list[str]:
    return [os.path.basename(match.path) for match in result]


def test_a_result_is_a_sequence_also_to_a_type_checker(crowd: Database) -> None:
    result = crowd.search(asked(0)[0], k=3)
    assert (result[0], result[-1]) == (result.matches[0], result.matches[2])
    assert result[1:] == result.matches[1:]
    hints = [get_type_hints(one) for one in get_overloads(Result.__getitem__)]
    assert hints == [{"index": int, "return": Match}, {"index": slice, "return": tuple[Match, ...]}]


# --- which shards ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_exactly_the_images_of_its_own_four_categories_are_searched(seed: int, crowd: Database) -> None:
    known = Catalogued(crowd)
    image, vector = asked(seed)
    result = crowd.search(image, k=10)
    own = known.union({known.numbers[category.id] for category in result.categories})
    assert (result.scanned, result.total, result.widened) == (len(own), 150, False)
    assert result.probed == 4 <= result.populated
    expected = known.nearest(vector, 10, own)
    assert [match.similarity for match in result] == pytest.approx([found for _, found in expected], abs=1e-3)
    assert set(named(result)) <= {known.paths[row] for row in own}
    assert [match.rank for match in result] == list(range(1, 11))


@pytest.mark.parametrize("seed", range(10))
def test_exact_is_brute_force(seed: int, crowd: Database) -> None:
    known = Catalogued(crowd)
    image, vector = asked(seed)
    result = crowd.search(image, k=20, exact=True)
    expected = known.nearest(vector, 20)
    assert (result.scanned, result.total) == (150, 150)
    assert result.probed == result.populated
    assert [match.similarity for match in result] == pytest.approx([found for _, found in expected], abs=1e-3)
    for (path, found), match in zip(expected, result, strict=True):
        ties = {other for other, value in known.nearest(vector, 150) if abs(value - found) < 1e-3}
        assert os.path.basename(match.path) in ties, path


def test_more_probes_see_more_and_miss_less(crowd: Database) -> None:
    image, _ = asked(4)
    truth = set(named(crowd.search(image, k=10, exact=True)))
    scanned, recall, probed = [], [], []
    for probes in range(1, 11):
        result = crowd.search(image, k=10, probes=probes)
        scanned.append(result.scanned)
        recall.append(len(truth & set(named(result))))
        probed.append(result.probed)
    assert scanned == sorted(scanned) and scanned[0] < scanned[1] < scanned[9] == 150
    assert recall == sorted(recall) and recall[9] == 10
    assert probed == list(range(1, 11))
    assert crowd.search(image, probes=1000).scanned == 150


class Two(Instant):
    """Dark pictures are in categories 0 to 3, light ones in 6 to 9."""

    def embed(self, pixels: NDArray[np.uint8]):  # type: ignore[no-untyped-def]
        found = super().embed(pixels)
        light = pixels.mean(axis=(1, 2, 3)) > 127
        return type(found)(
            found.features, np.where(light[:, None], [6, 7, 8, 9], [0, 1, 2, 3]).astype(np.int32), found.probabilities
        )


def flat(level: int) -> Image.Image:
    return Image.new("RGB", (20, 20), (level, level, level // 2))


def test_a_query_whose_own_shards_are_empty_is_widened_and_says_so(tmp_path: Path, open_db: Open) -> None:
    (tmp_path / "light").mkdir()
    for level in (200, 220, 240):
        flat(level).save(tmp_path / "light" / f"{level}.png")
    database = open_db(backbone=Two())
    database.build(tmp_path / "light")
    dark = database.search(flat(10), k=2)
    assert (dark.widened, dark.scanned, dark.total, len(dark)) == (True, 3, 3, 2)
    assert [category.id for category in dark.categories] == ["c0", "c1", "c2", "c3"]
    assert (dark.probed, dark.populated) == (4, 4)
    light = database.search(flat(230), k=2)
    assert (light.widened, light.scanned) == (False, 3)


def test_a_query_whose_shards_were_emptied_is_widened(tmp_path: Path, open_db: Open) -> None:
    for level in (10, 20, 200, 220):
        (tmp_path / "both").mkdir(exist_ok=True)
        flat(level).save(tmp_path / "both" / f"{level:03}.png")
    database = open_db(backbone=Two())
    database.build(tmp_path / "both")
    database.remove([tmp_path / "both" / "010.png", tmp_path / "both" / "020.png"])
    result = database.search(flat(15))
    assert (result.widened, set(named(result)), result.populated) == (True, {"200.png", "220.png"}, 4)


def test_what_is_added_is_found_though_it_is_not_folded(crowd: Database, tmp_path: Path) -> None:
    save(tmp_path / "crowd" / "new.png", 1)
    crowd.build()
    assert crowd.info().pending > 0
    assert named(crowd.search(picture(1), k=1)) == ["new.png"]
    before = crowd.search(picture(7), k=150, exact=True)
    crowd.compact()
    assert crowd.info().pending == 0
    after = crowd.search(picture(7), k=150, exact=True)
    assert [(m.path, m.similarity) for m in before] == [(m.path, m.similarity) for m in after]


# --- forms of a query -----------------------------------------------------------------------------------------------


def test_an_indexed_file_is_no_pass_by_path_or_by_content(
    photos: Path, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    instant.passes = 0
    by_path = database.search(photos / "3.png", k=3)
    by_content = database.search(shutil.copy(photos / "3.png", tmp_path / "elsewhere.png"), k=3)
    assert instant.passes == 0
    for result in (by_path, by_content):
        assert (result[0].path, result[0].rank) == (str(photos / "3.png"), 1)
        assert result[0].similarity == pytest.approx(1, abs=1e-3)
    assert by_path.query == str(photos / "3.png")
    assert by_content.query == str(tmp_path / "elsewhere.png")
    assert by_path.matches == by_content.matches


def test_an_indexed_file_that_has_changed_is_embedded(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    save(photos / "3.png", 500)
    result = database.search(photos / "3.png", k=1, exact=True)
    assert instant.passes == 13
    assert result[0].similarity < 0.999


def test_pictures_arrays_and_vectors_are_queries(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    image = Image.open(photos / "3.png")
    pixels = np.asarray(image)
    vector = instant.embed(fit(image, (16, 16))[0][None]).features[0]
    for result in (
        database.search(image, k=2),
        database.search(pixels, k=2),
        database.search(pixels[:, ::-1][:, ::-1], k=2),  # not contiguous
        database.search_vector(vector, k=2, exact=True),
        database.search_vector(7 * vector.astype(np.float64), k=2, exact=True),
    ):
        assert result[0].path == str(photos / "3.png")
        assert result[0].similarity == pytest.approx(1, abs=1e-3)
        assert result.query is None


def test_a_vector_is_routed_by_centroids_alone(crowd: Database) -> None:
    _, vector = asked(5)
    result = crowd.search_vector(vector, k=5)
    assert (result.categories, result.probed, result.widened) == ((), 4, False)
    assert 0 < result.scanned < 150
    assert crowd.search_vector(vector, exact=True).scanned == 150


def test_a_vector_of_another_kind_is_refused(crowd: Database) -> None:
    for wrong in (np.zeros(12), np.full(12, np.nan), np.full(12, np.inf)):
        with pytest.raises(ValueError, match="no direction"):
            crowd.search_vector(wrong)
    even = [(match.path, match.similarity) for match in crowd.search_vector(np.ones(12))]
    for length in (1e-320, 1e308):  # whose squares are beyond what a float can hold
        assert [(match.path, match.similarity) for match in crowd.search_vector(np.full(12, length))] == even
    for wrong in (np.ones(11), np.ones((1, 12)), np.ones(0)):
        with pytest.raises(ValueError, match=r"it must have \(12,\)"):
            crowd.search_vector(wrong)


def test_more_than_there_is_returns_all_there_is(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    result = database.search(photos / "3.png", k=1000, exact=True)
    assert (len(result), len({match.path for match in result})) == (12, 12)
    found = [match.similarity for match in result]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": -1}, {"probes": 0}])
def test_a_reach_of_nothing_is_refused(options: dict[str, int], photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    with pytest.raises(ValueError, match="must be at least 1"):
        database.search(photos / "3.png", **options)
    with pytest.raises(ValueError, match="must be at least 1"):
        database.search_many([], **options)  # at once, not at the first answer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"exact": True, "probes": 8}, "probes and exact: each says how far to search, so give only one of them"),
        ({"exact": True, "recall": 0.9}, "exact and recall: each says"),
        ({"recall": 0.9, "probes": 1}, "probes and recall: each says"),
    ],
)
def test_ways_to_search_that_exclude_each_other_are_refused(
    options: dict[str, Any], said: str, photos: Path, open_db: Open, instant: Instant
) -> None:
    """Some of them were left out of account without a word."""
    database = open_db(backbone=instant)
    database.build(photos)
    with pytest.raises(ValueError, match=said):
        database.search(photos / "3.png", **options)
    assert len(database.search_text("category", exact=True)) == 10  # whose many categories are no probes asked for


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": "3"}, "k is '3': it must be a whole number"),
        ({"k": 2.5}, "k is 2.5: it must be a whole number"),
        ({"probes": None}, "probes is None: it must be a whole number"),
        ({"recall": "0.9"}, "recall is '0.9': it must be a number"),
        ({"min_similarity": "0.9"}, "min_similarity is '0.9': it must be a number"),
        ({"category": 5}, "category is 5: it must be the id or the name of one, as text"),
    ],
)
def test_an_option_of_another_kind_is_a_type_error_in_words(
    options: dict[str, Any], said: str, photos: Path, open_db: Open, instant: Instant
) -> None:
    """It was an AttributeError, or a TypeError from deep within."""
    database = open_db(backbone=instant)
    database.build(photos)
    with pytest.raises(TypeError, match=f"^{said}$"):
        database.search(photos / "3.png", **options)
    assert len(database.search(photos / "3.png", k=np.int64(3), recall=np.float32(1))) == 3
    with pytest.raises(TypeError, match="text is 5: it must be words"):
        database.search_text(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [str, Path, picture])
def test_one_query_in_place_of_several_is_a_type_error(
    kind: Callable[..., Any], photos: Path, open_db: Open, instant: Instant
) -> None:
    """Of a path each letter was taken for a query."""
    database = open_db(backbone=instant)
    database.build(photos)
    query = picture(3) if kind is picture else kind(photos / "3.png")
    for search in (database.search_many, database.search_together):
        with pytest.raises(TypeError, match="several queries are asked for, not one [A-Za-z]+: put it in a list"):
            search(query)
        assert search([query])


def test_an_empty_database_answers_with_nothing(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    database.remove(photos)
    for result in (database.search(picture(3)), database.search(picture(3), exact=True)):
        assert (len(result), result.scanned, result.total, result.widened) == (0, 0, 0, False)
        assert (result.probed, result.populated, len(result.categories)) == (0, 0, 4)
    assert len(database.search_vector(np.ones(12))) == 0


# --- several queries, and bad ones ----------------------------------------------------------------------------------


def test_many_queries_keep_their_order_with_failures_between(
    photos: Path, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    (tmp_path / "text.jpg").write_text("no image")
    os.utime(tmp_path / "text.jpg", (1e9, 1e9))
    queries = [photos / "3.png", tmp_path / "text.jpg", picture(4), tmp_path / "nowhere.jpg", np.zeros((3, 3)), photos]
    queries += [photos / f"{seed % 10}.png" for seed in range(70)]
    answers = list(database.search_many(queries, k=1))
    assert len(answers) == len(queries)
    assert answers[0][0].path == str(photos / "3.png")  # type: ignore[index]
    assert answers[2][0].path == str(photos / "4.png")  # type: ignore[index]
    failed = {number: answer for number, answer in enumerate(answers) if isinstance(answer, Failure)}
    assert {number: (f.path, f.reason) for number, f in failed.items()} == {
        1: (str(tmp_path / "text.jpg"), "not an image"),
        3: (str(tmp_path / "nowhere.jpg"), "no such file or directory"),
        4: ("", "an array must be uint8 (h, w, 3), not float64 (3, 3)"),
        5: (str(photos), "a folder, not a regular file"),
    }
    assert [a[0].path for a in answers[6:]] == [str(photos / f"{s % 10}.png") for s in range(70)]  # type: ignore[index]


def test_many_new_queries_share_passes(photos: Path, open_db: Open) -> None:
    class Counting(Instant):
        batches: tuple[int, ...] = ()

        def embed(self, pixels: NDArray[np.uint8]):  # type: ignore[no-untyped-def]
            self.batches += (len(pixels),)
            return super().embed(pixels)

    counting = Counting()
    database = open_db(backbone=counting)
    database.build(photos)
    counting.batches = ()
    assert len(list(database.search_many(picture(seed) for seed in range(40)))) == 40
    assert counting.batches == (32, 8)


def test_answers_come_while_further_queries_are_still_unknown(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)

    def endless():  # type: ignore[no-untyped-def]
        while True:
            yield photos / "3.png"

    answers = database.search_many(endless())
    assert next(answers)[0].path == str(photos / "3.png")  # type: ignore[index]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("nowhere.jpg", "nowhere.jpg: no such file or directory"),
        ("text.jpg", "text.jpg: not an image"),
        ("empty.jpg", "empty.jpg: an empty file"),
        ("fifo.jpg", "fifo.jpg: a FIFO, not a regular file"),
        (".", "a folder, not a regular file"),
        (np.zeros((4, 4), np.uint8), r"^an array must be uint8 \(h, w, 3\), not uint8 \(4, 4\)$"),
        (np.zeros((4, 4, 3)), r"^an array must be uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"^an array must be uint8"),
    ],
)
def test_a_query_that_cannot_be_read_is_one_error(
    query: object, said: str, photos: Path, open_db: Open, instant: Instant
) -> None:
    Path("text.jpg").write_text("no image")
    Path("empty.jpg").touch()
    os.mkfifo("fifo.jpg")
    database = open_db(backbone=instant)
    database.build(photos)
    with pytest.raises(ImageUnreadable, match=said) as caught:
        database.search(query)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("query", [None, 3, b"3.png", ["3.png"]])
def test_what_is_no_query_at_all_is_a_type_error(query: object, photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    with pytest.raises(TypeError, match="a query is a path, a PIL image or uint8 pixels"):
        database.search(query)  # type: ignore[arg-type]


# --- an image whose file is away ------------------------------------------------------------------------------------


def is_away(path: Path) -> str:
    return f"{path} cannot be read (no such file or directory): searched by what the database knows of it"


@pytest.mark.parametrize("gone", ["a folder that was renamed", "a disk that is unplugged", "a file that was deleted"])
def test_an_indexed_image_that_is_away_is_searched_with_by_its_path(
    gone: str, photos: Path, open_db: Open, instant: Instant
) -> None:
    """It was "no such file or directory", though all that a search needs is in the catalog."""
    database = open_db(backbone=instant)
    database.build(photos)
    path, other, here = photos / "3.png", photos / "below" / "10.png", save(Path("here.png"), 50)
    before = [database.search(path, exact=True), database.search(here, without=[path, other, path], exact=True)]
    both = database.search_together([path, other, path], exact=True)
    if gone == "a folder that was renamed":
        photos.rename(photos.with_name("renamed"))
    elif gone == "a disk that is unplugged":
        shutil.rmtree(photos)
        photos.mkdir()  # where it was mounted
    else:
        path.unlink()
        other.unlink()
    instant.passes = 0
    result = database.search(str(path), exact=True)
    assert (result.query, result.matches, result.notes) == (str(path), before[0].matches, (is_away(path),))
    found = list(database.search_many([path, photos / "nowhere.png", other], k=1, exact=True))
    assert [one.notes for one in found if isinstance(one, Result)] == [(is_away(path),), (is_away(other),)]
    assert found[1] == Failure(str(photos / "nowhere.png"), "no such file or directory")
    joint = database.search_together([path, other, path], exact=True)
    assert (joint.matches, joint.notes) == (both.matches, (is_away(path), is_away(other)))
    assert instant.passes == 0
    turned = database.search(here, without=[path, other, path], exact=True)
    assert (turned.matches, turned.notes) == (before[1].matches, (is_away(path), is_away(other)))
    assert is_away(path) in database.search_text("category", without=path).notes
    added = database.search(path, add=True, exact=True)
    assert (added.added, added.notes) == (False, (is_away(path),))


def test_a_deleted_image_is_searched_with_until_the_next_build(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    (photos / "3.png").unlink()
    assert database.search(photos / "3.png", k=1).notes == (is_away(photos / "3.png"),)
    database.build(photos)
    with pytest.raises(ImageUnreadable, match="no such file or directory"):
        database.search(photos / "3.png", k=1)


def test_a_file_that_is_there_is_what_is_searched_with_though_another_one_is_indexed(
    photos: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    save(photos / "3.png", 77)
    instant.passes = 0
    changed = database.search(photos / "3.png", k=1, exact=True)
    assert (changed.notes, instant.passes) == ((), 1)
    assert changed[0].similarity < 0.999
    (photos / "3.png").unlink()
    (photos / "3.png").symlink_to("nowhere.png")
    with pytest.raises(ImageUnreadable, match="no such file or directory"):
        database.search(photos / "3.png")


# --- what comes back ------------------------------------------------------------------------------------------------


def test_a_match_brings_its_categories_and_probabilities(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    result = database.search(photos / "3.png", k=12, exact=True)
    names = {category.id: category.name for category in Instant.categories}
    for match in result:
        assert [category.probability for category in match.categories] == [0.5, 0.25, 0.125, 0.0625]
        assert all(names[category.id] == category.name for category in match.categories)
        assert len({category.id for category in match.categories}) == 4
    assert result.categories == result[0].categories


def test_a_result_is_a_sequence_of_matches(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    result = database.search(photos / "3.png", k=5, exact=True)
    assert list(result) == [result[number] for number in range(5)] == list(result[:])
    assert (result[-1].rank, len(result), result[0] in result) == (5, 5, True)
    with pytest.raises(IndexError):
        result[5]


def test_equal_images_come_in_the_order_in_which_they_were_indexed(
    photos: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    for name in ("z.png", "a.png", "m.png"):
        database.build(shutil.copy(photos / "3.png", photos / name))
    assert named(database.search(photos / "3.png")) == ["z.png", "a.png", "m.png"]


def test_a_copy_rotated_by_exif_finds_its_upright_original_first(tmp_path: Path, open_db: Open) -> None:
    scenes = render(tmp_path / "scenes", count=24)
    database = open_db(backbone="classic")
    database.build(tmp_path / "scenes")
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    for scene in scenes[::5]:
        for orientation, turn in turns.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            copy = tmp_path / f"turned{orientation}.jpg"
            Image.open(scene).convert("RGB").transpose(turn).save(copy, quality=92, exif=exif)
            result = database.search(copy, k=2)
            assert (result[0].path, result.widened) == (str(scene), False), orientation
            assert result[0].similarity > 0.98


def test_a_damaged_shard_is_read_from_the_catalog_and_said(
    photos: Path, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    open_db(backbone=instant).build(photos)
    sound = open_db(backbone=instant).search(photos / "3.png", k=12, exact=True)
    for shard in Path(tmp_path / "db" / "shards").rglob("*.h5"):
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
    database = open_db(backbone=instant)
    result = database.search(photos / "3.png", k=12, exact=True)
    assert result.matches == sound.matches
    assert len(result.notes) == result.populated and all("catdb check --repair" in note for note in result.notes)
    assert database.check(repair=True).ok
    assert open_db(backbone=instant).search(photos / "3.png").notes == ()


def test_too_few_matches_for_want_of_images_compared_are_explained(crowd: Database, tmp_path: Path) -> None:
    """15 of 167 images came back for ``k=100000``, and nothing said why or what to do."""
    image = picture(4)
    some = crowd.search(image, k=1, probes=1).scanned
    assert 1 < some < 150
    said = (
        f"only {some} of 150 images were compared, too few for k = {{}}: search with a recall target, or exact"
    ).format
    for k, notes in ((some, ()), (some + 1, (said(some + 1),)), (100_000, (said("100,000"),))):
        result = crowd.search(image, k=k, probes=1)
        assert (len(result), result.scanned, result.notes) == (some, some, notes)
    assert crowd.search_together([image, image], k=149, probes=1).notes == (said(149),)
    for everything in ({"exact": True}, {"probes": 10}, {"recall": 0.95}):  # below 500 images a target compares all
        result = crowd.search(image, k=100_000, **everything)  # type: ignore[arg-type]
        assert (len(result), result.notes) == (150, ())
    least, category = {"min_similarity": -1.0}, {"category": crowd.search(image).categories[0].id}
    for filtered in (least, category, {"under": tmp_path / "crowd"}):
        result = crowd.search(image, k=149, probes=1, **filtered)  # type: ignore[arg-type]
        assert result.notes == (), filtered


@pytest.mark.damaged
def test_a_catalog_without_memberships_ends_with_no_match(photos: Path, tmp_path: Path, instant: Instant) -> None:
    with Database(tmp_path / "db", backbone=instant) as database:
        database.build(photos)
    with sqlite3.connect(tmp_path / "db" / "catalog.sqlite", isolation_level=None) as sql:
        for table in ("member", "pending", "shard", "centroid"):
            sql.execute(f"DELETE FROM {table}")
    sql.close()
    with Database(tmp_path / "db", backbone=instant) as database:
        result = database.search(picture(3))
        assert (len(result), result.scanned, result.total) == (0, 0, 12)
        assert not database.check().ok
