"""The example collection: the same for the same seed, evenly divided, and of groups that can be told apart."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdb.images import scenes

PER_GROUP = 4


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return scenes.render(tmp_path_factory.mktemp("collection"), count=PER_GROUP * len(scenes.GROUPS))


def digests(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def describe(path: Path) -> np.ndarray:
    """Eight numbers: mean and spread of the colours, mean steepness across and down."""
    with Image.open(path) as image:
        pixels = np.asarray(image.reduce(3), dtype=np.float64)
    grey = pixels.mean(axis=2)
    steep = [np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)]
    return np.array([*pixels.mean(axis=(0, 1)), *pixels.std(axis=(0, 1)), *steep])


def test_the_collection_is_evenly_divided_and_named_by_group(collection: list[Path]) -> None:
    assert collection == sorted(collection)
    assert Counter(path.parent.name for path in collection) == dict.fromkeys(scenes.GROUPS, PER_GROUP)
    assert 8 <= len(scenes.GROUPS) <= 12
    names = [path.name for path in collection if path.parent.name == "sunset"]
    assert names == [f"sunset-{number:02d}.jpg" for number in range(1, PER_GROUP + 1)]
    root = collection[0].parent.parent
    assert sorted(path for path in root.rglob("*") if path.is_file()) == collection


def test_every_picture_is_a_jpeg_of_the_same_size(collection: list[Path]) -> None:
    for path in collection:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (480, 360))


def test_no_two_pictures_are_alike(collection: list[Path]) -> None:
    assert len(set(digests(collection))) == len(collection)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, collection: list[Path]) -> None:
    count = len(scenes.GROUPS)
    again = scenes.render(tmp_path / "again", count=count)
    first = [path for path in collection if path.stem.endswith("-01")]
    assert [path.name for path in again] == [path.name for path in first]
    assert digests(again) == digests(first)  # and the pictures do not depend on how many there are
    other = scenes.render(tmp_path / "other", count=count, seed=7)
    assert not set(digests(other)) & set(digests(collection))


def test_what_does_not_divide_goes_to_the_first_groups(tmp_path: Path) -> None:
    count = len(scenes.GROUPS) + 1
    groups = Counter(path.parent.name for path in scenes.render(tmp_path, count=count))
    assert groups == {name: 1 + (place == 0) for place, name in enumerate(scenes.GROUPS)}
    assert scenes.render(tmp_path / "none", count=0) == []


@pytest.mark.parametrize(("count", "seed"), [(-1, 0), (1, -1)])
def test_negative_numbers_are_refused(tmp_path: Path, count: int, seed: int) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        scenes.render(tmp_path, count=count, seed=seed)
    with pytest.raises(ValueError, match="must not be negative"):
        scenes.queries(tmp_path, seed=-1)


def test_nearest_neighbours_by_colour_and_edges_are_of_the_same_group(collection: list[Path]) -> None:
    features = np.stack([describe(path) for path in collection])
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    groups = np.array([path.parent.name for path in collection])
    assert (groups[distances.argmin(axis=1)] == groups).mean() >= 0.9


def test_queries_are_new_and_nearest_to_their_own_group(tmp_path: Path, collection: list[Path]) -> None:
    found = scenes.queries(tmp_path)
    assert len(found) == len({path.name for path in found}) == 3
    groups = [path.stem.removeprefix("query-") for path in found]
    assert [path.name for path in found] == [f"query-{group}.jpg" for group in sorted(groups)]
    assert set(groups) <= set(scenes.GROUPS)
    assert not set(digests(found)) & set(digests(collection))
    features = np.stack([describe(path) for path in [*collection, *found]])
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    for query, group in zip(features[len(collection) :], groups, strict=True):
        nearest = np.linalg.norm(features[: len(collection)] - query, axis=1).argmin()
        assert collection[int(nearest)].parent.name == group


def test_queries_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    assert digests(scenes.queries(tmp_path / "a", seed=3)) == digests(scenes.queries(tmp_path / "b", seed=3))
