"""The backbone without weights: what its vectors and categories say of pictures whose content is known."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from catdb.backbones import PER_IMAGE, Embedder
from catdb.backbones.classic import SIDE, TEXTURES, TONES, Classic

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def classic() -> Embedder:
    return Classic()


def plain(*rgb: int) -> Pixels:
    return np.full((SIDE, SIDE, 3), rgb, np.uint8)


def noise(seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def stripes(width: int) -> Pixels:
    """Vertical black and white stripes, each so many pixels wide."""
    row = (np.arange(SIDE) // width % 2 * 255).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (SIDE, SIDE, 3)).copy()


def scene(seed: int) -> Image.Image:
    """Discs of random colours on a random slope of two colours, 300 x 240: a picture with edges and areas."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:240, 0:300]
    one, two = random.integers(0, 256, (2, 3))
    canvas = one + (two - one) * (y / 240)[..., None]
    for _ in range(12):
        radius, cx, cy = random.integers(10, 60), random.integers(0, 300), random.integers(0, 240)
        canvas[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = random.integers(0, 256, 3)
    return Image.fromarray((canvas + random.normal(0, 6, canvas.shape)).clip(0, 255).astype(np.uint8))


def fit(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def reencoded(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream)


def ids(classic: Embedder, image: Pixels) -> list[str]:
    return [classic.categories[i].id for i in classic.embed(image[None]).categories[0]]


def cosine(classic: Embedder, one: Pixels, two: Pixels) -> float:
    first, second = classic.embed(np.stack([one, two])).features
    return float(first @ second)


def test_table_of_categories_is_every_tone_with_every_texture(classic: Embedder) -> None:
    names = [category.id for category in classic.categories]
    assert len(names) == len(set(names)) == len(TONES) * len(TEXTURES) == 75
    assert all(re.fullmatch(r"[a-z]+-[a-z]+", name) for name in names)
    assert names[:3] == ["black-fine", "black-coarse", "black-smooth"]  # indices are stored: the order must stay


def test_says_who_it_is(classic: Embedder) -> None:
    assert (classic.backbone, classic.engine, classic.precision) == ("classic", "classic", "f32")
    assert classic.weights_sha256 is None
    assert (classic.input_size, classic.dimension) == ((128, 128), 902)


@pytest.mark.parametrize(
    "image",
    [plain(0, 0, 0), plain(255, 255, 255), plain(127, 127, 127), plain(255, 0, 255), noise(), stripes(1), stripes(64)],
    ids=["black", "white", "grey", "magenta", "noise", "finest stripes", "two halves"],
)
def test_every_picture_has_a_unit_vector_and_four_categories(classic: Embedder, image: Pixels) -> None:
    found = classic.embed(image[None])
    assert found.features.dtype == np.float32 and found.features.shape == (1, classic.dimension)
    assert np.isfinite(found.features).all()
    assert np.linalg.norm(found.features[0]) == pytest.approx(1, abs=1e-6)
    assert found.categories.dtype == np.int32 and found.categories.shape == (1, PER_IMAGE)
    assert len(set(found.categories[0])) == PER_IMAGE
    assert found.categories.min() >= 0 and found.categories.max() < len(classic.categories)
    probabilities = found.probabilities[0]
    assert probabilities.dtype == np.float32
    assert (np.diff(probabilities) <= 0).all() and probabilities[-1] > 0 and probabilities.sum() <= 1


def test_an_image_does_not_depend_on_its_batch(classic: Embedder) -> None:
    batch = np.stack([noise(1), plain(0, 0, 0), fit(scene(1)), stripes(3), fit(scene(2))])
    together = classic.embed(batch)
    order = np.array([3, 0, 4, 2, 1])
    permuted = classic.embed(batch[order])
    alone = [classic.embed(image[None]) for image in batch]
    for field in ("features", "categories", "probabilities"):
        rows = getattr(together, field)
        np.testing.assert_array_equal(getattr(permuted, field), rows[order])
        np.testing.assert_array_equal(np.concatenate([getattr(one, field) for one in alone]), rows)


def test_two_of_a_kind_agree_and_the_layout_in_memory_is_no_matter(classic: Embedder) -> None:
    batch = np.stack([noise(1), fit(scene(1))])
    views = [batch[::-1], batch[:, ::-1], batch[..., ::-1], batch.transpose(0, 2, 1, 3)]
    for view in views:
        expected = Classic().embed(np.ascontiguousarray(view))
        np.testing.assert_array_equal(classic.embed(view).features, expected.features)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((0, SIDE, SIDE, 3), np.uint8),
        np.zeros((SIDE, SIDE, 3), np.uint8),
        np.zeros((1, SIDE, SIDE, 4), np.uint8),
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((1, SIDE, SIDE, 3), np.float32),
    ],
)
def test_refuses_other_pixels(classic: Embedder, pixels: Pixels) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 pixels \(n, 128, 128, 3\)"):
        classic.embed(pixels)


@pytest.mark.parametrize("tone", TONES)
def test_a_plain_picture_is_of_its_tone_and_smooth(classic: Embedder, tone: str) -> None:
    assert ids(classic, plain(*TONES[tone]))[0] == f"{tone}-smooth"


def test_full_red_green_and_blue_are_red_green_and_blue(classic: Embedder) -> None:
    assert [ids(classic, plain(*rgb))[0] for rgb in ((255, 0, 0), (0, 200, 0), (0, 0, 255))] == [
        "red-smooth",
        "green-smooth",
        "blue-smooth",
    ]


def test_narrow_stripes_are_fine_and_wide_waves_are_coarse(classic: Embedder) -> None:
    assert all(name.endswith("-fine") for name in ids(classic, stripes(2)))
    wave = 128 + 100 * np.sin(2 * np.pi * np.arange(SIDE) / 12)  # the octave that is two above the finest, 12 pixels
    image = np.broadcast_to(wave.astype(np.uint8)[None, :, None], (SIDE, SIDE, 3)).copy()
    assert all(name.endswith("-coarse") for name in ids(classic, image))


def test_a_small_vivid_spot_counts_as_a_category(classic: Embedder) -> None:
    image = plain(120, 120, 120)
    image[40:80, 40:80] = 200, 30, 30  # a tenth of the picture
    assert "red-smooth" in ids(classic, image)


def test_swapping_the_halves_costs_just_the_weight_of_the_layout(classic: Embedder) -> None:
    image = plain(200, 30, 30)
    image[64:] = 40, 80, 190
    assert cosine(classic, image, image[::-1].copy()) == pytest.approx(0.8, abs=0.02)


def test_similarity_is_the_overlap_of_areas(classic: Embedder) -> None:
    half = plain(200, 30, 30)
    half[:, 64:] = 200, 32, 31  # hardly another colour, hence no edge: only areas count
    assert cosine(classic, plain(200, 30, 30), half) > 0.99
    black, white = plain(0, 0, 0), plain(255, 255, 255)
    assert cosine(classic, black, white) == pytest.approx(0.4, abs=0.02)  # both smooth, and no more in common


def test_direction_of_stripes_is_told_apart(classic: Embedder) -> None:
    upright = stripes(3)
    assert cosine(classic, upright, np.roll(upright, 3, axis=1)) > 0.95
    assert cosine(classic, upright, upright.transpose(1, 0, 2).copy()) < 0.7


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_land_near(classic: Embedder, seed: int) -> None:
    image = scene(seed)
    others = {
        "re-encoded": reencoded(image),
        "half the size": image.resize((150, 120), Image.Resampling.LANCZOS),
        "twice the size": image.resize((600, 480), Image.Resampling.BICUBIC),
        "shifted": image.crop((15, 12, 300, 240)),
        "cropped": image.crop((15, 12, 285, 228)),
        "brighter": image.point(lambda value: min(255, round(value * 1.08))),
    }
    original, stranger = classic.embed(np.stack([fit(image), fit(scene(seed + 100))])).features
    for change, other in others.items():
        found = classic.embed(fit(other)[None])
        assert found.features[0] @ original > 0.9, change
        assert found.features[0] @ original > found.features[0] @ stranger + 0.1, change
        shared = set(found.categories[0]) & set(classic.embed(fit(image)[None]).categories[0])
        assert len(shared) >= 2, change


def _decode(path: Path) -> Pixels:
    with Image.open(path) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        return fit(image)


def test_finds_like_photographs_and_finds_them_in_their_own_categories(classic: Embedder) -> None:
    data = os.environ.get("CATDB_TEST_DATA")
    if data is None:
        pytest.skip("CATDB_TEST_DATA is not set: no photographs")
    folder = Path(data, "photos", "corel1k")
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    labels = np.array([row["label"] for row in rows])
    query = np.array([row["file"].startswith("queries/") for row in rows])
    found = classic.embed(np.stack([_decode(folder / row["file"]) for row in rows]))

    features = found.features.astype(np.float16).astype(np.float32)  # as the database stores them
    nearest = np.argsort(-(features[query] @ features[~query].T), axis=1)[:, :10]
    assert (labels[~query][nearest] == labels[query][:, None]).mean() >= 0.74

    member = np.zeros((len(rows), len(classic.categories)), bool)
    np.put_along_axis(member, found.categories.astype(np.intp), True, axis=1)
    scanned = (member[query].astype(int) @ member[~query].T.astype(int)) > 0
    assert scanned.mean() <= 0.25
    assert np.take_along_axis(scanned, nearest, axis=1).mean() >= 0.88
