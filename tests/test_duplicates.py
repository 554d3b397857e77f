"""Copies: candidates and groups against brute force, likeness by its values, and all of it on files that are copies."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import child, run, save
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from catdb import Database, DatabaseReadOnly, PathNotFound, Progress
from catdb.duplicates import Duplicates, Group
from catdb.duplicates import candidates as searching
from catdb.duplicates.candidates import candidates
from catdb.duplicates.groups import components, form_groups, linked
from catdb.duplicates.likeness import SIDE, glance, likeness, may_be_equal, may_be_one, sketch
from catdb.images import decoders, fit
from catdb.images.scenes import render
from catdb.search import Block
from catdb.shard import Rows

ROOT = Path(__file__).resolve().parent.parent
Open = Callable[..., Database]


# --- candidates -----------------------------------------------------------------------------------------------------


@st.composite
def collections(draw: st.DrawFn) -> tuple[NDArray[np.float16], NDArray[np.int32], list[int], list[int]]:
    """Features whose cosines are exact, categories (n, 4) with -1 for none, ids left out, and ids that are dead."""
    count = draw(st.integers(0, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features = rng.choice([-1, 1], (max(1, count // 2), 16))[rng.integers(0, max(1, count // 2), count)]
    flips = rng.random((count, 16)) < 0.08
    categories = np.stack([rng.permutation(6)[:4] for _ in range(count)]) if count else np.empty((0, 4))
    categories[:, 3] = np.where(rng.random(count) < 0.3, -1, categories[:, 3])
    left_out, dead = ([i for i in range(count) if rng.random() < 0.1] for _ in range(2))
    return np.where(flips, -features, features).astype(np.float16) / 4, categories.astype(np.int32), left_out, dead


def brute(
    features: NDArray[np.float16], categories: NDArray[np.int32], hidden: set[int], floor: float, most: int
) -> list[list[int]]:
    """Say in a sentence what candidates are: alike enough, in a shared category, and near for one of the two."""
    cosines: dict[tuple[int, int], float] = {}
    for one, other in itertools.combinations([i for i in range(len(features)) if i not in hidden], 2):
        cosine = float(features[one].astype(float) @ features[other].astype(float))
        shared = set(categories[one].tolist()) & set(categories[other].tolist()) - {-1}
        if cosine >= floor and shared:
            cosines[one, other] = cosine
    kept = set()
    for image in range(len(features)):
        own = [(-cosine, *(set(pair) - {image}), pair) for pair, cosine in cosines.items() if image in pair]
        kept |= {pair for *_, pair in sorted(own)[:most]}
    return [list(pair) for pair in sorted(kept)]


@given(collections(), st.sampled_from([0.0, 0.5, 0.75, 1.0]), st.integers(1, 4), st.integers(1, 30), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_candidates_are_those_of_brute_force(
    made: tuple[NDArray[np.float16], NDArray[np.int32], list[int], list[int]],
    floor: float,
    most: int,
    tile: int,
    parts: int,
) -> None:
    features, categories, left_out, dead = made
    shards = []
    for category in range(6):
        rows = np.flatnonzero((categories == category).any(axis=1))
        blocks = [
            Block(category, Rows(features[part], part.astype(np.int64), categories[part]), np.isin(part, dead))
            for part in np.array_split(rows, parts)
        ]
        shards.append((category, blocks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "_TILE", tile)
        patch.setattr(searching, "_BUFFER", tile)
        found = candidates(shards, np.array(left_out, np.int64), floor=floor, most=most)
    assert found.tolist() == brute(features, categories, {*left_out, *dead}, floor, most)


# --- groups ---------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[int], set[frozenset[int]], set[frozenset[int]]]:
    count = draw(st.integers(0, 9))
    pairs = [frozenset(pair) for pair in itertools.combinations(range(count), 2)]
    edges = draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    apart = draw(st.sets(st.sampled_from(pairs), max_size=3)) if pairs else set()
    return draw(st.permutations(range(count))), edges, apart


def group(order: list[int], edges: set[frozenset[int]], apart: set[frozenset[int]] = frozenset()) -> list[list[int]]:  # type: ignore[assignment]
    pairs = np.array([sorted(edge) for edge in edges], np.int64).reshape(-1, 2)
    found = form_groups(
        order,
        linked(pairs),
        lambda keeper, image: 0.95 if frozenset((keeper, image)) in edges else None,
        lambda one, other: frozenset((one, other)) in apart,
    )
    assert all(
        likeness == (1.0 if image == members[0][0] else 0.95) for members in found for image, likeness in members
    )
    return [[image for image, _ in members] for members in found]


@given(graphs())
@settings(max_examples=300, deadline=None)
def test_groups_are_those_of_brute_force(made: tuple[list[int], set[frozenset[int]], set[frozenset[int]]]) -> None:
    order, edges, apart = made
    expected, taken = [], set[int]()
    for keeper in order:
        if keeper not in taken:
            members = [keeper]
            for image in order[order.index(keeper) + 1 :]:
                free = image not in taken and not any(frozenset((image, member)) in apart for member in members)
                if free and frozenset((keeper, image)) in edges:
                    members.append(image)
            taken |= set(members)
            expected += [members] if len(members) > 1 else []
    assert group(order, edges, apart) == expected


def test_look_alikes_make_no_chain() -> None:
    chain = {frozenset((n, n + 1)) for n in range(5)}
    assert group([0, 1, 2, 3, 4, 5], chain) == [[0, 1], [2, 3], [4, 5]]
    assert group([2, 0, 1, 3, 4, 5], chain) == [[2, 1, 3], [4, 5]]


def test_a_copy_is_found_through_another_copy_but_confirmed_against_the_keeper() -> None:
    neighbours = {0: [1], 1: [0, 2], 2: [1, 3], 3: [2]}  # 3 resembles 2 only
    asked = []

    def alike(keeper: int, image: int) -> float | None:
        asked.append((keeper, image))
        return 0.9 if image < 3 else None

    assert form_groups([0, 1, 2, 3], neighbours, alike, lambda one, other: False) == [[(0, 1.0), (1, 0.9), (2, 0.9)]]
    assert asked == [(0, 1), (0, 2), (0, 3)]


def test_components_hold_what_pairs_connect() -> None:
    assert components(np.array([[5, 9], [1, 2], [2, 9], [7, 8]])) == [[1, 2, 5, 9], [7, 8]]
    assert components(np.empty((0, 2), np.int64)) == []


# --- likeness -------------------------------------------------------------------------------------------------------


def scene(seed: int = 3, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """Draw a picture with detail of every size: blobs and lines on a slope of colour."""
    rng = random.Random(seed)
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, r = rng.randrange(size[0]), rng.randrange(size[1]), rng.randrange(4, 50)
        colour = tuple(rng.randrange(256) for _ in range(3))
        draw.ellipse((x - r, y - r // 2, x + r, y + r // 2), fill=colour)
    return image


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    return fit(image, (SIDE, SIDE))[0]


def alike(one: Image.Image, other: Image.Image) -> float:
    stretch = ((other.width / other.height) / (one.width / one.height)) ** 0.5
    return likeness(sketch(pixels(one)), sketch(pixels(other)), stretch)


def test_a_picture_is_entirely_like_itself() -> None:
    assert alike(scene(), scene()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (20, 15, 380, 285), (20, 0, 400, 300), (0, 0, 400, 285), (20, 15, 400, 300)]
)
@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_a_crop_of_any_size_is_alike_in_both_directions(box: tuple[int, int, int, int], scale: float) -> None:
    whole = scene()
    part = whole.crop(box) if box[2] > 1 else whole
    part = part.resize((round(part.width * scale), round(part.height * scale)), Image.Resampling.LANCZOS)
    assert alike(whole, part) > 0.97
    assert alike(part, whole) > 0.97


def test_what_differs_in_one_place_is_not_alike() -> None:
    other = scene()
    ImageDraw.Draw(other).ellipse((150, 100, 200, 150), fill=(255, 255, 255))
    assert alike(scene(), other) < 0.6


def test_each_showing_what_the_other_does_not_is_no_crop() -> None:
    wide = scene(size=(440, 300))
    assert alike(wide.crop((0, 0, 400, 300)), wide.crop((40, 0, 440, 300))) == 0
    assert alike(wide, wide.crop((40, 0, 440, 300))) > 0.97


@pytest.mark.parametrize(
    "other",
    [
        scene(4),
        scene().transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        scene().transpose(Image.Transpose.ROTATE_180),
        Image.eval(scene(), lambda value: 255 - value),
        scene().resize((400, 180)),
        Image.new("RGB", (400, 300), "white"),
    ],
    ids=["another", "mirrored", "upside down", "negative", "squashed", "blank"],
)
def test_what_is_no_copy_is_not_alike(other: Image.Image) -> None:
    assert alike(scene(), other) < 0.2


def test_a_picture_without_detail_proves_nothing() -> None:
    assert alike(Image.new("RGB", (90, 90), "grey"), Image.new("RGB", (90, 90), "grey")) == 0


def test_stripes_cannot_be_aligned_along_themselves() -> None:
    stripes = Image.new("L", (128, 128))
    for x in range(0, 128, 16):
        stripes.paste(255, (x, 0, x + 8, 128))
    assert 0 <= alike(stripes.convert("RGB"), stripes.convert("RGB")) <= 1


def test_glances_let_copies_pass_and_tell_colours_apart() -> None:
    whole, tinted = scene(), scene()
    red, green, blue = tinted.split()
    tinted = Image.merge("RGB", (blue, green, red))
    seen = np.stack([glance(pixels(image)) for image in (whole, whole.crop((20, 15, 380, 285)), tinted, scene(4))])
    assert may_be_one(seen[[0, 0, 0, 0]], seen).tolist() == [True, True, False, False]
    assert may_be_equal(seen[[0, 0, 0, 0]], seen).tolist() == [True, False, False, False]


# --- the whole ------------------------------------------------------------------------------------------------------


def commented(jpeg: bytes, text: bytes) -> bytes:
    """Return a JPEG with a comment: other bytes, the same pixels."""
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures; of three of them copies, by bytes, by pixels, re-encoded, halved and cropped, all younger."""
    folder = tmp_path_factory.mktemp("album") / "album"
    for number, path in enumerate(render(folder / "own", count=12)):
        path.rename(folder / f"{number}.jpg")
    shutil.rmtree(folder / "own")
    (folder / "copies").mkdir()
    for number in range(3):
        original = folder / f"{number}.jpg"
        for place in range(2):
            shutil.copy(original, folder / "copies" / f"{number} bytes {place}.jpg")
        (folder / "copies" / f"{number} pixels.jpg").write_bytes(commented(original.read_bytes(), b"hello"))
        image = Image.open(original)
        image.save(folder / "copies" / f"{number} encoded.jpg", quality=50)
        image.resize((240, 180)).save(folder / "copies" / f"{number} half.png")
        image.crop((12, 9, 468, 351)).save(folder / "copies" / f"{number} cropped.webp", quality=80)
    for place, path in enumerate(sorted(folder.rglob("*.*"))):
        os.utime(path, (10**9 + place, 10**9 + place))
    return folder


@pytest.fixture
def album(original: Path, tmp_path: Path) -> Path:
    """The pictures and their copies, to do with as one likes."""
    return Path(shutil.copytree(original, tmp_path / "album"))


def named(found: Duplicates, tier: str | None = None) -> list[list[str]]:
    """Return the names in groups (of a tier), each group without its first sorted, the groups by name."""

    def names(group: Group) -> list[str]:
        first, *others = (Path(image.path).name.rsplit(".", 1)[0] for image in group.images)
        return [first, *sorted(others)]

    return sorted(names(group) for group in found.groups if tier in (None, group.tier))


BYTES = [["0", "0 bytes 0", "0 bytes 1"], ["1", "1 bytes 0", "1 bytes 1"], ["2", "2 bytes 0", "2 bytes 1"]]
PIXELS = [["0", "0 pixels"], ["1", "1 pixels"], ["2", "2 pixels"]]
NEAR = [[n, f"{n} cropped", f"{n} encoded", f"{n} half"] for n in "012"]


@pytest.fixture
def indexed(album: Path, open_db: Open) -> Database:
    """A database of the album."""
    database = open_db(backbone="classic")
    database.build(album, jobs=1)
    return database


def test_every_copy_is_found_in_its_tier_and_nothing_else(album: Path, indexed: Database) -> None:
    before = {path: path.read_bytes() for path in album.rglob("*.*")}
    steps: list[Progress] = []
    found = indexed.duplicates(progress=steps.append)
    assert [named(found, tier) for tier in ("bytes", "pixels", "near")] == [BYTES, PIXELS, NEAR]
    assert [group.tier for group in found.groups] == ["bytes"] * 3 + ["pixels"] * 3 + ["near"] * 3
    assert (found.images, found.unread) == (30, ())
    near = next(group for group in found.groups if group.tier == "near")
    keeper = near.images[0]
    assert (keeper.width, keeper.height, keeper.bytes) == (480, 360, os.path.getsize(keeper.path))
    assert (keeper.similarity, keeper.copies) == (1, 3)
    assert all(0.9 <= image.similarity <= 1 and image.copies == 0 for image in near.images[1:])
    assert near.freed == sum(image.bytes for image in near.images[1:])
    assert found.freed == sum(path.stat().st_size for path in before if path.parent.name == "copies")
    ended = [step.step for step in steps if step.done == step.total]
    assert ended == ["comparing", "looking", "comparing pixels", "comparing images"]
    assert {path: path.read_bytes() for path in album.rglob("*.*")} == before


def test_the_groups_are_the_same_from_run_to_run(album: Path, indexed: Database, open_db: Open) -> None:
    first = indexed.duplicates(jobs=1)
    assert indexed.duplicates(jobs=3) == first
    with Database(indexed.path, mode="r") as reader:
        assert reader.duplicates() == first
    other = open_db("other", backbone="classic")
    paths = sorted(album.rglob("*.*"), reverse=True)
    for start in range(0, len(paths), 10):  # other ids, other shards, some images not in one yet
        other.add(paths[start : start + 10], jobs=1)
    assert other.duplicates() == first
    other.compact()
    assert other.duplicates() == first


def test_the_largest_is_kept_then_the_oldest_then_the_first_by_name(album: Path, indexed: Database) -> None:
    Image.open(album / "0.jpg").resize((960, 720), Image.Resampling.BICUBIC).save(album / "copies" / "0 double.jpg")
    os.utime(album / "copies" / "1 bytes 1.jpg", (10, 10))
    for path in album.rglob("2*"):
        os.utime(path, (10, 10))
    indexed.build(album)
    found = indexed.duplicates()
    assert named(found, "near")[0] == ["0 double", "0", "0 cropped", "0 encoded", "0 half"]
    assert named(found, "bytes")[1:] == [["1 bytes 1", "1", "1 bytes 0"], ["2", "2 bytes 0", "2 bytes 1"]]
    surplus = [image.path for group in found.groups for image in group.images[1:]]
    assert len(surplus) == len(set(surplus)) == 19
    left = {str(path) for path in album.rglob("*.*")} - set(surplus)
    assert {Path(path).name.split()[0].removesuffix(".jpg") for path in left} == {str(n) for n in range(12)}


def test_a_stricter_similarity_leaves_out_what_is_less_alike(indexed: Database) -> None:
    near = [group for group in indexed.duplicates().groups if group.tier == "near"]
    values = sorted(image.similarity for group in near for image in group.images[1:])
    strict = indexed.duplicates(similarity=values[4])
    assert sorted(i.similarity for g in strict.groups if g.tier == "near" for i in g.images[1:]) == values[4:]
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            indexed.duplicates(similarity=wrong)


def test_equal_bytes_are_found_without_reading_a_file(
    tmp_path: Path, open_db: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = save(tmp_path / "photos" / "one.png", 1)
    shutil.copy2(one, tmp_path / "photos" / "two.png")
    database = open_db(backbone="classic")
    database.build(tmp_path / "photos")
    monkeypatch.setattr(decoders, "_MODULE", "no_such_module")
    assert named(database.duplicates()) == [["one", "two"]]


def test_further_names_of_a_file_are_no_copies_of_it(tmp_path: Path, open_db: Open) -> None:
    """A link came first by name and was the one to keep: whoever deleted the copies had deleted the picture."""
    photos = tmp_path / "photos"
    file = save(photos / "the file.png", 1)
    (photos / "a link.png").symlink_to("the file.png")
    os.link(save(photos / "one name.png", 2), photos / "other name.png")
    database = open_db(backbone="classic")
    assert database.build(photos).total == 4
    assert database.duplicates().groups == ()
    os.utime(shutil.copy(file, photos / "younger copy.png"), (2e9, 2e9))
    database.build(photos)
    [group] = database.duplicates().groups
    assert [Path(image.path).name for image in group.images] == ["the file.png", "younger copy.png"]
    assert group.freed == file.stat().st_size


def test_no_images_have_no_copies(tmp_path: Path, open_db: Open) -> None:
    (tmp_path / "empty").mkdir()
    database = open_db(backbone="classic")
    database.build(tmp_path / "empty")
    assert database.duplicates() == Duplicates((), (), 0)


def test_what_is_gone_changed_or_damaged_costs_itself_alone(album: Path, indexed: Database) -> None:
    gone, changed, damaged = (album / "copies" / f"0 {name}" for name in ("bytes 0.jpg", "half.png", "encoded.jpg"))
    gone.unlink()
    shutil.copy(album / "5.jpg", changed)
    times = damaged.stat()
    with open(damaged, "r+b") as file:  # the disk, not a program: neither size nor time nor inode say so
        file.seek(2)
        file.write(bytes(times.st_size - 2))
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    found = indexed.duplicates()
    assert {failure.path: failure.reason.split(":")[0].split(";")[0] for failure in found.unread} == {
        str(gone): "no such file or directory",
        str(changed): "changed since it was indexed",
        str(damaged): "not an image",
    }
    assert named(found, "bytes") == [["0", "0 bytes 1"], *BYTES[1:]]
    assert named(found, "near") == [["0", "0 cropped"], *NEAR[1:]]


def test_files_that_kill_their_decoder_cost_themselves_alone(
    album: Path, open_db: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("segfault", "spin", "abort")):
        Image.open(album / f"{number}.jpg").save(album / f"{name}.jpg", quality=80)
    database = open_db(backbone="classic")
    database.build(album)  # by a decoder that they do not kill
    monkeypatch.setattr(decoders, "_MODULE", "deadly")
    monkeypatch.setattr(decoders, "SECONDS", 0.5)
    found = database.duplicates()
    assert sorted(Path(failure.path).stem for failure in found.unread) == ["abort", "segfault", "spin"]
    assert [named(found, tier) for tier in ("bytes", "pixels", "near")] == [BYTES, PIXELS, NEAR]


def test_where_the_first_of_equal_files_cannot_be_read_another_is(album: Path, indexed: Database) -> None:
    times = (album / "0.jpg").stat()
    (album / "0.jpg").write_bytes(bytes(times.st_size))
    os.utime(album / "0.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))
    found = indexed.duplicates()
    assert [failure.path for failure in found.unread] == [str(album / "0.jpg")]
    assert named(found, "near") == NEAR


# --- what is said to be no copy -------------------------------------------------------------------------------------


def test_what_is_marked_as_distinct_is_in_no_group_any_more(album: Path, indexed: Database) -> None:
    copies = album / "copies"
    assert indexed.mark_distinct(album / "0.jpg", copies / "0 half.png") == 1
    assert indexed.mark_distinct([copies / "0 half.png", album / "0.jpg"]) == 0
    assert indexed.mark_distinct(album / "1.jpg", copies / "1 pixels.jpg", copies / "1 bytes 0.jpg") == 2
    found = indexed.duplicates()
    assert named(found, "near")[0] == ["0", "0 cropped", "0 encoded"]
    assert named(found, "bytes") == [BYTES[0], BYTES[2]]
    # of equal pixels that are told apart, each may have copies, but the two are in no group together
    assert named(found, "pixels") == [PIXELS[0], PIXELS[2]]
    assert named(found, "near")[1] == NEAR[1]


def test_a_mark_of_one_that_is_stood_for_holds_for_the_one_that_stands(album: Path, indexed: Database) -> None:
    indexed.mark_distinct(album / "copies" / "0 pixels.jpg", album / "copies" / "0 half.png")
    assert named(indexed.duplicates(), "near")[0] == ["0", "0 cropped", "0 encoded"]


def test_of_two_that_are_distinct_the_better_one_stays_in_a_group(album: Path, indexed: Database) -> None:
    indexed.mark_distinct(album / "copies" / "0 encoded.jpg", album / "copies" / "0 half.png")
    assert named(indexed.duplicates(), "near")[0] == ["0", "0 cropped", "0 encoded"]


def test_a_mark_is_of_the_content_and_lasts(album: Path, indexed: Database, open_db: Open) -> None:
    half = album / "copies" / "0 half.png"
    indexed.mark_distinct(album / "copies" / "0 bytes 1.jpg", half)  # the same bytes as 0.jpg
    expected = named(indexed.duplicates())
    assert ["0", "0 cropped", "0 encoded"] in expected
    indexed.remove(album)
    indexed.add(album)
    assert named(indexed.duplicates()) == expected
    half.rename(album / "moved.png")
    indexed.build(album)
    assert named(indexed.duplicates()) == expected
    backup = indexed.backup(Path(indexed.path).parent / "backup")
    assert named(open_db(backup.path).duplicates()) == expected


def test_only_images_of_the_database_can_be_marked(album: Path, indexed: Database) -> None:
    with pytest.raises(PathNotFound, match="not an image of the database; nothing was changed"):
        indexed.mark_distinct(album / "0.jpg", album / "1.jpg", album / "nothing.jpg")
    with pytest.raises(ValueError, match="at least two different images"):
        indexed.mark_distinct(album / "0.jpg", str(album / "0.jpg"))
    with Database(indexed.path, mode="r") as reader, pytest.raises(DatabaseReadOnly):
        reader.mark_distinct(album / "0.jpg", album / "1.jpg")
    assert indexed.mark_distinct(album / "0.jpg", album / "1.jpg") == 1  # nothing of the above was kept


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_lines_json_and_csv(album: Path, indexed: Database, tmp_path: Path) -> None:
    done = run("duplicates", "--db", indexed.path, "--json", "--csv", tmp_path / "found.csv")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found.keys() == {"groups", "unread", "images", "freed", "notes"}
    assert [group["tier"] for group in found["groups"]] == ["bytes"] * 3 + ["pixels"] * 3 + ["near"] * 3
    assert found["groups"][0]["images"][0].keys() == {
        *("path", "width", "height", "bytes", "modified", "similarity", "copies", "id")
    }
    with open(tmp_path / "found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["group", "tier", "keep", "path", "width", "height", "bytes", "similarity"]
    listed = [(str(n), g["tier"], i["path"]) for n, g in enumerate(found["groups"], 1) for i in g["images"]]
    assert [(row["group"], row["tier"], row["path"]) for row in rows] == listed
    assert [row["keep"] for row in rows[:3]] == ["yes", "no", "no"]
    lines = run("duplicates", "--db", indexed.path).stdout.splitlines()
    assert lines[0].startswith("1. the same bytes: 3 images, ")
    assert lines[1].startswith("  keep      480x360 ")
    assert sum(line.startswith("  keep") for line in lines) == 9
    assert lines[-1] == (
        f"9 groups (3 bytes, 3 pixels, 3 near) in 30 images: 18 copies, {found['freed']:,} bytes could be freed;"
        " nothing was deleted"
    )


def test_the_command_marks_and_says_what_is_wrong(album: Path, indexed: Database) -> None:
    at = ("--db", indexed.path)
    done = run("duplicates", *at, "--mark-distinct", album / "0.jpg", album / "copies" / "0 half.png")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 pair marked as distinct\n", "")
    for words, code, message in (
        (("--mark-distinct", album / "0.jpg"), 2, "takes two images or more"),
        (("--mark-distinct", album / "0.jpg", album / "0.jpg"), 2, "takes two images or more"),
        ((album / "0.jpg",), 2, "paths are for --mark-distinct"),
        (("--similarity", "0"), 2, "0<x<=1"),
        (("--mark-distinct", album / "0.jpg", album / "none.jpg"), 1, "none.jpg: not an image of the database"),
        (("--csv", album / "none" / "found.csv"), 1, "No such file or directory"),
    ):
        done = run("duplicates", *at, *words)
        assert (done.returncode, done.stdout) == (code, "") and message in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr
    (album / "copies" / "0 bytes 0.jpg").unlink()
    done = run("duplicates", *at, "--json")
    assert done.returncode == 3
    assert [Path(failure["path"]).name for failure in json.loads(done.stdout)["unread"]] == ["0 bytes 0.jpg"]
    assert "0 bytes 0.jpg: no such file or directory" in done.stderr


def test_an_interruption_ends_it_and_its_workers(album: Path, open_db: Open) -> None:
    path = album / "sleep.jpg"
    Image.open(album / "0.jpg").save(path, quality=80)
    database = open_db(backbone="classic")
    database.build(album)
    os.mkfifo(f"{path}.fifo")
    script = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from catdb.cli import main
from catdb.images import decoders
decoders._MODULE = "deadly"
sys.argv[1:] = ["duplicates", "--db", sys.argv[1]]
main()
"""
    with child(script, database.path) as process:
        with open(f"{path}.fifo") as fifo:  # the worker is at it
            worker = os.pidfd_open(int(fifo.read()))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "catdb: interrupted\n")
    assert select.select([worker], [], [], 120)[0]  # it has ended
    os.close(worker)


# --- real photographs -----------------------------------------------------------------------------------------------


def test_copies_of_real_photographs_are_found_and_nothing_else(data: Path) -> None:
    options = ["--backbone", "classic", "--images", "400", "--copies", "60"]
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "duplicates", data / "photos" / "corel1k", "--json", *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] == [60, 60] and found["pixels"] == [60, 60]
    assert {kind: counts[1] for kind, counts in found["near"].items()} == dict.fromkeys(found["near"], 60)
    assert all(counts[0] >= 57 for counts in found["near"].values()), found
    assert found["false"] == []
