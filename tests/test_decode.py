"""What pixels come out of a file: right ones, upright ones, or a reason; and nothing that takes the process with it."""

from __future__ import annotations

import io
import os
import signal
import struct
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps

from catdb.errors import ImageUnreadable
from catdb.images import Content, Failure, Picture, Stamp, decode, find, fingerprint, fit, read

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
SIZE = (40, 60)  # not square, so that a mistaken height for a width shows
BILINEAR = Image.Resampling.BILINEAR
Array = NDArray[np.uint8]


def scene(height: int = 160, width: int = 240) -> Array:
    """A smooth image without any symmetry, (height, width, 3)."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = (x * 255, y * 200 + 20, 127 + 120 * np.sin(4 * x + 2 * y * y))
    return np.stack(planes, axis=-1).astype(np.uint8)


def blocks() -> Array:
    """Four plain quarters: red, green / blue, grey. Squashed, their middles are what they were."""
    image = np.zeros((80, 120, 3), np.uint8)
    image[:40, :60], image[:40, 60:] = (200, 30, 30), (30, 200, 30)
    image[40:, :60], image[40:, 60:] = (30, 30, 200), (90, 90, 90)
    return image


def quarters(pixels: Array) -> list[list[int]]:
    height, width = pixels.shape[:2]
    return [pixels[y, x].tolist() for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]


def squashed(image: Array | Image.Image, size: tuple[int, int] = SIZE) -> Array:
    """The plain sentence that every decode is held against."""
    whole = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.array(whole.convert("RGB").resize(size[::-1], BILINEAR))


def encoded(image: Image.Image | Array, kind: str, **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(stream, **options)
    else:
        image.save(stream, kind, **options)
    return stream.getvalue()


def pixels_of(data: bytes, size: tuple[int, int] = SIZE) -> Array:
    return decode(io.BytesIO(data), size)[0]


def apart(one: NDArray[Any], two: NDArray[Any]) -> int:
    assert one.shape == two.shape
    return int(np.abs(one.astype(int) - two.astype(int)).max())


def content_of(path: Path | str) -> Content:
    content = fingerprint(str(path))
    assert isinstance(content, Content), content
    return content


def put(path: Path, data: bytes, age: float = 60) -> Content:
    """Write a file that looks ``age`` seconds old, and fingerprint it."""
    path.write_bytes(data)
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return content_of(path)


def reason(path: Path, data: bytes) -> str:
    """Why a file of these bytes cannot be read; that it is a lasting Failure is tested on the way."""
    content = put(path, data)
    outcome = read(content, SIZE)
    assert isinstance(outcome, Failure), outcome
    assert (outcome.path, outcome.stamp) == (str(path), content.stamp)
    assert "\n" not in outcome.reason and len(outcome.reason) < 160
    with pytest.raises(ImageUnreadable) as caught:
        decode(str(path), SIZE)
    assert str(caught.value) == outcome.reason
    return outcome.reason


# Formats and modes


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("JPEG", 8), ("PNG", 0), ("WEBP", 8), ("GIF", 0), ("BMP", 0), ("TIFF", 0), ("AVIF", 8), ("HEIF", 8), ("MPO", 8)],
)
def test_every_format_shows_what_was_saved(tmp_path: Path, kind: str, tolerance: int) -> None:
    content = put(tmp_path / "misnamed.txt", encoded(blocks(), kind))
    picture = read(content, SIZE)
    assert isinstance(picture, Picture)
    assert (picture.content, picture.width, picture.height) == (content, 120, 80)
    assert picture.pixels.shape == (40, 60, 3) and picture.pixels.dtype == np.uint8 and picture.pixels.flags.writeable
    found = np.array(quarters(picture.pixels))
    assert np.abs(found - quarters(blocks())).max() <= tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "MPO"])
def test_index_and_query_see_the_same_pixels(tmp_path: Path, kind: str) -> None:
    data = encoded(scene(700, 900), kind)
    picture = read(put(tmp_path / "a", data), SIZE)
    assert isinstance(picture, Picture)
    for source in (str(tmp_path / "a"), io.BytesIO(data)):
        pixels, width, height = decode(source, SIZE)
        assert (width, height) == (900, 700)
        np.testing.assert_array_equal(pixels, picture.pixels)
    with open(tmp_path / "a", "rb") as stream:
        stream.seek(10)
        np.testing.assert_array_equal(decode(stream, SIZE)[0], picture.pixels)
        assert not stream.closed
    assert apart(decode(Image.open(tmp_path / "a"), SIZE)[0], picture.pixels) <= (0 if kind in ("PNG", "TIFF") else 6)


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [("L", 0), ("1", 0), ("P", 0), ("CMYK", 0), ("YCbCr", 2), ("LAB", 16), ("RGBX", 0), ("HSV", 4)],
)
def test_every_mode_becomes_rgb(mode: str, tolerance: int) -> None:
    source = Image.fromarray(blocks())
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.buildTransform(srgb, lab, "RGB", "LAB").apply(source)
    else:
        image = source.convert(mode, palette=Image.Palette.ADAPTIVE)
    wanted = blocks() if mode not in ("L", "1") else np.asarray(image.convert("RGB"))
    assert apart(fit(image, SIZE)[0], squashed(wanted)) <= tolerance
    if mode in ("L", "1", "P", "CMYK", "LAB"):
        assert apart(pixels_of(encoded(image, "TIFF")), squashed(wanted)) <= tolerance


def test_a_cmyk_jpeg() -> None:
    data = encoded(Image.fromarray(blocks()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(np.array(quarters(pixels_of(data))) - quarters(blocks())).max() < 12


def test_alpha_is_laid_on_white() -> None:
    colour = np.full((8, 8, 4), (200, 0, 100, 255), np.uint8)
    colour[:, 4:, 3] = 0
    colour[4:, :4, 3] = 51  # a fifth: 0.2 * colour + 0.8 * white
    image = Image.fromarray(colour)
    wanted = [[200, 0, 100], [255, 255, 255], [244, 204, 224], [255, 255, 255]]
    for source in (encoded(image, "PNG"), encoded(image, "WEBP", lossless=True), encoded(image, "TIFF")):
        assert np.abs(np.array(quarters(pixels_of(source, (8, 8)))) - wanted).max() <= 1
    grey = pixels_of(encoded(image.convert("LA"), "PNG"), (8, 8))
    assert grey[2, 6].tolist() == [255, 255, 255] and abs(int(grey[2, 2, 0]) - 71) <= 1
    assert apart(fit(image.convert("RGBa"), (8, 8))[0], pixels_of(encoded(image, "PNG"), (8, 8))) <= 2
    assert apart(fit(image.convert("PA"), (8, 8))[0][:4], pixels_of(encoded(image, "PNG"), (8, 8))[:4]) <= 20


@pytest.mark.parametrize(("mode", "kind"), [("P", "PNG"), ("L", "PNG"), ("RGB", "PNG"), ("1", "PNG"), ("P", "GIF")])
def test_a_transparent_colour_becomes_white(mode: str, kind: str) -> None:
    black = Image.new(mode, (6, 6), 0 if mode != "RGB" else (0, 0, 0))
    data = encoded(black, kind, transparency=0 if mode != "RGB" else (0, 0, 0))
    assert pixels_of(data, (6, 6)).min() == 255
    assert pixels_of(encoded(black, kind), (6, 6)).max() == 0


def test_sixteen_bit_grey_keeps_its_gradient() -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    wanted = np.tile(np.arange(256)[None, :, None], (4, 1, 3))
    swapped = Image.frombytes("I;16B", (256, 4), ramp.astype(">u2").tobytes())
    for image in (Image.fromarray(ramp), swapped, Image.fromarray(ramp.astype(np.int32))):
        assert apart(fit(image, (4, 256))[0], wanted) <= 1
        assert apart(pixels_of(encoded(image, "TIFF"), (4, 256)), wanted) <= 1
    assert apart(pixels_of(encoded(Image.fromarray(ramp), "PNG"), (4, 256)), wanted) <= 1


def test_float_and_wide_integers_span_black_to_white() -> None:
    ramp = np.tile(np.linspace(-3, 5, 256).astype(np.float32), (4, 1))
    wanted = np.tile(np.arange(256)[None, :, None], (4, 1, 3))
    assert apart(pixels_of(encoded(Image.fromarray(ramp), "TIFF"), (4, 256)), wanted) <= 1
    wide = Image.fromarray((ramp * 1e8).astype(np.int32))
    assert apart(pixels_of(encoded(wide, "TIFF"), (4, 256)), wanted) <= 1


def test_float_oddities_are_harmless() -> None:
    odd = np.tile(np.linspace(0, 1, 256).astype(np.float32), (4, 1))
    odd[0], odd[1], odd[2] = np.nan, np.inf, -np.inf
    pixels = pixels_of(encoded(Image.fromarray(odd), "TIFF"), (4, 256))
    assert [int(row.max()) for row in pixels[:3]] == [0, 255, 0]
    assert apart(pixels[3:], np.arange(256)[None, :, None].repeat(3, 2)) <= 1
    for plain in (np.nan, np.inf, 0.0, 3e38, -5.0):
        image = Image.fromarray(np.full((4, 4), plain, np.float32))
        assert pixels_of(encoded(image, "TIFF"), (4, 4)).max() == 0
    extremes = Image.fromarray(np.array([[-3.4e38, 3.4e38]], np.float32))
    assert fit(extremes, (1, 2))[0][0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_the_first_frame_of_several_counts(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    pixels = pixels_of(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(pixels.astype(int) - (250, 0, 0)).max() <= 6


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (1, 6000), (2, 3)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_thin_and_tiny_images(shape: tuple[int, int], kind: str) -> None:
    pixels, width, height = decode(io.BytesIO(encoded(np.full((*shape, 3), 77, np.uint8), kind)), SIZE)
    assert (height, width) == shape and np.abs(pixels.astype(int) - 77).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "F", "I;16"])
def test_bands_of_a_large_image_give_what_the_whole_gives(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    if mode in ("F", "I;16"):
        image = Image.fromarray(rng.integers(0, 65536, (301, 203)).astype(np.float32 if mode == "F" else np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (301, 203, 3), dtype=np.uint8)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, (301, 203), dtype=np.uint8)))
    whole = fit(image, SIZE)[0]
    for band in (1, 203 * 7, 203 * 150, 203 * 300):
        monkeypatch.setattr(sys.modules["catdb.images.decode"], "_BAND", band)
        np.testing.assert_array_equal(fit(image, SIZE)[0], whole)


def test_one_column_of_fifty_megapixels_is_not_widened_as_it_is() -> None:
    """Squashed along its rows first, it became 9 GB for these pixels, and 60 GB for those of a network."""
    image = Image.new("L", (1, 50_000_000))
    image.paste(255, (0, 25_000_000, 1, 50_000_000))
    before = peak_megabytes()
    pixels, width, height = fit(image, (40, 60))
    assert (width, height) == (1, 50_000_000)
    assert pixels[:19].max() == 0 and pixels[21:].min() >= 254
    assert peak_megabytes() - before < 250


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "P"])
def test_a_tall_image_is_nearly_what_it_would_be_otherwise(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(scene(3000, 20))
    image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    wanted = fit(image, SIZE)[0]
    monkeypatch.setattr(sys.modules["catdb.images.decode"], "_TALL", 1000)
    assert apart(fit(image, SIZE)[0], wanted) <= 1
    monkeypatch.setattr(sys.modules["catdb.images.decode"], "_BAND", 200)
    assert apart(fit(image, SIZE)[0], wanted) <= 1


def test_no_more_is_set_aside_than_a_file_holds() -> None:
    asked = []

    class Asked(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            asked.append(count)
            return super().read(count)

    data = encoded(scene(), "PNG")
    huge = data[:33] + struct.pack(">I", 0x7FFFFFF0) + b"tEXt" + data[41:]
    with pytest.raises(ImageUnreadable, match="truncated PNG"):
        decode(Asked(huge), SIZE)
    assert max(asked) <= len(huge)


# Draft


@pytest.mark.parametrize("shape", [(160, 240), (1200, 1800), (3000, 2000), (90, 4000)])
@pytest.mark.parametrize("size", [(40, 60), (299, 299), (224, 100)])
def test_a_draft_is_nearly_the_full_decode(shape: tuple[int, int], size: tuple[int, int]) -> None:
    data = encoded(scene(*shape), "JPEG", quality=92)
    pixels, width, height = decode(io.BytesIO(data), size)
    assert (height, width) == shape
    difference = np.abs(pixels.astype(int) - squashed(Image.open(io.BytesIO(data)), size))
    assert difference.max() <= 8 and difference.mean() < 0.8


# Orientation


def turned(image: Array, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The image as a camera held otherwise would store it, and the EXIF block that says so."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # members of Image.Transpose, each the inverse of EXIF's wish
    stored = Image.fromarray(image)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return (stored.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else stored), exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"])
def test_all_orientations_show_the_same(kind: str, orientation: int) -> None:
    image = scene(320, 480)
    stored, exif = turned(image, orientation)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 92} if kind not in ("PNG", "TIFF") else {}
    data = encoded(stored, kind, exif=exif.tobytes(), **options)
    if kind != "HEIF":  # the test's own sentence, told by Pillow
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert upright.size == (480, 320)
    pixels, width, height = decode(io.BytesIO(data), SIZE)
    assert (width, height) == (480, 320)
    assert apart(pixels, squashed(image)) <= (2 if kind in ("PNG", "TIFF", "WEBP") else 8)


def test_a_pillow_image_is_turned_too_but_not_twice() -> None:
    image = scene()
    stored, exif = turned(image, 6)
    opened = Image.open(io.BytesIO(encoded(stored, "PNG", exif=exif)))
    assert apart(fit(opened, SIZE)[0], squashed(image)) <= 1
    assert fit(opened, SIZE)[1:] == (240, 160)
    assert opened.size == (160, 240)  # the caller's image is as it was
    upright = ImageOps.exif_transpose(opened)
    assert apart(fit(upright, SIZE)[0], squashed(image)) <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
@pytest.mark.parametrize(
    "tail", [b"junkjunk", b"", b"II*\0\xff\xff\xff\x7f", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01"]
)
def test_broken_exif_costs_the_orientation_and_not_the_image(kind: str, tail: bytes) -> None:
    pixels, width, height = decode(io.BytesIO(encoded(blocks(), kind, exif=b"Exif\0\0" + tail)), SIZE)
    assert (width, height) == (120, 80)
    assert np.abs(np.array(quarters(pixels)) - quarters(blocks())).max() <= 8


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_out_of_range_is_none(value: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    assert apart(pixels_of(encoded(scene(), "PNG", exif=exif)), squashed(scene())) == 0


def real_photographs() -> Path:
    data = os.environ.get("CATDB_TEST_DATA")
    if not data:
        pytest.skip("CATDB_TEST_DATA names no folder of test photographs")
    folder = Path(data) / "photos" / "exif"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    return folder


@pytest.mark.parametrize(("name", "size"), [("Landscape", (1800, 1200)), ("Portrait", (1200, 1800))])
def test_real_photographs_in_all_orientations(name: str, size: tuple[int, int]) -> None:
    folder = real_photographs()
    first, *others = [decode(str(folder / f"{name}_{number}.jpg"), (224, 160)) for number in range(9)]
    assert first[1:] == size and first[0].std() > 30
    for pixels, width, height in others:
        assert (width, height) == size
        assert np.abs(pixels.astype(int) - first[0]).mean() < 2


@pytest.mark.parametrize(
    ("name", "size", "mean"),
    [("IMG_5195.HEIC", (2566, 3313), (124.1, 120.1, 118.7)), ("samplefilehub.heif", (640, 426), (62.8, 51.1, 43.6))],
)
def test_real_heic_photographs(name: str, size: tuple[int, int], mean: tuple[float, float, float]) -> None:
    path = real_photographs() / name
    picture = read(content_of(path), (299, 299))
    assert isinstance(picture, Picture) and (picture.width, picture.height) == size
    np.testing.assert_allclose(picture.pixels.mean((0, 1)), mean, atol=2)
    assert picture.pixels.std() > 20


# Hazards


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int, bits: int = 1) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))


def flat_png(side: int) -> bytes:
    rows = zlib.compress(bytes(((side + 7) // 8 + 1) * side), 9)
    return png_header(side, side) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def peak_megabytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    bomb = flat_png(12_000)
    assert len(bomb) < 20_000
    before = peak_megabytes()
    assert reason(tmp_path / "a.png", bomb) == "too large: 144 megapixels, the limit is 50 (100 for JPEG)"
    bomb = encoded(Image.new("1", (16_000, 12_000)), "TIFF", compression="group4")
    assert reason(tmp_path / "a.tif", bomb).startswith("too large: 192 megapixels")
    gif = b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0x80, 0, 0) + bytes(6)
    gif += b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02\x4c\x01\x00;"
    assert reason(tmp_path / "a.gif", gif).startswith("too large: 3,600 megapixels")
    bmp = b"BM" + bytes(8) + b"\x36\0\0\0" + struct.pack("<IiiHHIIiiII", 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0)
    assert reason(tmp_path / "a.bmp", bmp).startswith("too large: 400 megapixels")
    assert peak_megabytes() - before < 60


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path: Path) -> None:
    data = encoded(np.full((64, 64, 3), 90, np.uint8), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    picture = read(put(tmp_path / "a.jpg", data[:-2] + last * 50 + data[-2:]), SIZE)
    assert isinstance(picture, Picture) and apart(picture.pixels, pixels_of(data)) == 0
    for between in (b"", b"\xff\xfe\0\x06\xff\xd9\xff\xd9", b"\xff\xff"):  # nor does a comment hide them
        bomb = data[:-2] + (between + last) * 1000 + data[-2:]
        assert reason(tmp_path / "b.jpg", bomb) == "damaged JPEG: more than 200 scans of one image"


def test_the_limit_is_fifty_megapixels_and_a_hundred_for_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = encoded(np.zeros((8, 8, 3), np.uint8), "JPEG")
    at = header.index(b"\xff\xc0") + 5
    huge = header[:at] + struct.pack(">HH", 10_001, 10_000) + header[at + 4 :]
    assert reason(tmp_path / "a.jpg", huge) == "too large: 100.01 megapixels, the limit is 50 (100 for JPEG)"
    # Without its last two bytes, the end marker, after which libjpeg would fill what is missing with grey.
    allowed = header[:at] + struct.pack(">HH", 9_999, 10_000) + header[at + 4 : -2]
    assert reason(tmp_path / "b.jpg", allowed).startswith("truncated JPEG")
    assert reason(tmp_path / "c.png", png_header(5_001, 10_000) + b"\0\0\0\0IDAT").startswith("too large: 50.01 mega")
    monkeypatch.setattr(sys.modules["catdb.images.decode"], "_MEGABYTES", 0)
    assert reason(tmp_path / "d.png", encoded(np.zeros((600, 600, 3), np.uint8), "BMP")).startswith("too large: a file")


def test_the_host_programs_own_limit_and_warnings_do_not_interfere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("PNG", "JPEG", "GIF", "BMP", "AVIF"):
            assert pixels_of(encoded(scene(), kind)).shape == (40, 60, 3)
    assert Image.MAX_IMAGE_PIXELS == 100 and not ImageFile.LOAD_TRUNCATED_IMAGES
    for kind in ("TIFF", "WEBP"):  # these readers ask it themselves: then its stricter limit holds, as a reason
        with pytest.raises(ImageUnreadable, match="too large"):
            pixels_of(encoded(scene(), kind))


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [
        ("a.jpg", b"", "an empty file"),
        ("a.jpg", b"just some text, no image", "not an image"),
        ("a.png", bytes(5000), "not an image: it begins with zeros only"),
        ("a.png", b"BM text", "not an image"),
        ("a.jpg", b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41", "not an image"),
        ("a.png", png_header(2**31 - 1, 2**31 - 1), "truncated PNG: the file ends before the image does"),
        ("a.png", png_header(0, 5) + png_chunk(b"IDAT", b""), "damaged PNG: not identified by this driver"),
        ("a.gif", b"GIF89a\x05\0\x05\0\0\0\0;", "truncated GIF: the file ends before the image does"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/'/>", "vector drawings (.svg) are not supported: export as PNG"),
        ("a.CR2", b"II*\0\x10\0\0\0CR\2\0", "RAW photographs (.cr2) are not supported: export as JPEG or TIFF"),
        ("a.cr3", b"\0\0\0\x18ftypcrx ", "RAW photographs (.cr3) are not supported: export as JPEG or TIFF"),
        ("a.webp", b"RIFF\x10\0\0\0WEBPVP8 junkjunk", "damaged WebP: could not create decoder object"),
    ],
)
def test_what_is_no_image_says_why(tmp_path: Path, name: str, data: bytes, wanted: str) -> None:
    assert reason(tmp_path / name, data) == wanted


def test_an_image_in_a_raw_files_name_is_an_image(tmp_path: Path) -> None:
    picture = read(put(tmp_path / "a.nef", encoded(blocks(), "PNG")), SIZE)
    assert isinstance(picture, Picture) and apart(picture.pixels, squashed(blocks())) == 0
    assert reason(tmp_path / "b.dng", encoded(blocks(), "TIFF")).startswith("RAW photographs (.dng)")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("part", [0.02, 0.1, 0.35, 0.7, 0.95])
def test_a_truncated_file_is_a_failure(tmp_path: Path, kind: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    data = encoded(noise, kind, **options)
    assert reason(tmp_path / "a", data[: int(len(data) * part)]).startswith(("truncated", "damaged"))


def test_a_png_with_a_wrong_checksum_or_damaged_data_is_a_failure(tmp_path: Path) -> None:
    data = bytearray(encoded(scene(), "PNG"))
    header = bytes(data[:29]) + b"\0\0\0\0" + bytes(data[33:])
    assert reason(tmp_path / "a.png", header).startswith("damaged PNG: broken PNG file")
    middle = data.index(b"IDAT") + 200
    data[middle : middle + 50] = os.urandom(50)
    assert reason(tmp_path / "b.png", bytes(data)).startswith(("damaged PNG", "truncated PNG"))


def test_other_formats_are_not_let_in(tmp_path: Path) -> None:
    for kind in ("PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000"):
        assert reason(tmp_path / "a.png", encoded(blocks(), kind)) == "not an image"


def test_a_file_that_shrinks_while_it_is_decoded_does_not_kill_the_process(tmp_path: Path) -> None:
    """libtiff maps the file where it is given a descriptor, and dies of SIGBUS then: seen with Pillow 13."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    path, data = str(tmp_path / "a.tif"), encoded(noise, "TIFF", compression="tiff_lzw")
    for delay in (0.001, 0.003, 0.01):
        Path(path).write_bytes(data)
        child = os.fork()
        if child == 0:
            try:
                threading.Timer(delay, os.truncate, (path, 5000)).start()
                decode(path, SIZE)
            except ImageUnreadable:
                pass
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status != -signal.SIGBUS and status == 0


def test_heic_without_its_library_is_tried_again_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = put(tmp_path / "a.heic", encoded(blocks(), "HEIF"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert read(content, SIZE) == Failure(content.path, "HEIC needs an extra: pip install 'catdb[heic]'")
    monkeypatch.undo()
    assert isinstance(read(content, SIZE), Picture)
    assert "HEIF" not in Image.OPEN  # nothing was registered with the host program's Pillow


class Broken(io.BytesIO):
    """A disk that fails, after the first bytes or from the beginning."""

    good = 1

    def read(self, count: int | None = -1) -> bytes:
        if self.tell() >= self.good:
            raise OSError(5, "Input/output error")
        return super().read(count)


def test_a_failing_disk_is_no_damaged_image() -> None:
    with pytest.raises(ImageUnreadable, match="^input/output error$"):
        decode(Broken(encoded(scene(), "JPEG")), SIZE)
    stream = Broken(encoded(scene(), "JPEG"))
    stream.good = 0
    with pytest.raises(ImageUnreadable, match="^input/output error$"):
        decode(stream, SIZE)


@pytest.mark.parametrize(
    "error",
    [OSError("x"), SyntaxError("x"), ValueError("x\ny"), struct.error("x"), MemoryError(), ZeroDivisionError(),
     RecursionError("x"), Image.DecompressionBombError("x"), KeyError("x"), OverflowError(), RuntimeError("x")],
)  # fmt: skip
def test_whatever_a_reader_raises_is_a_failure(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    data = encoded(scene(), "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert reason(tmp_path / "a.png", data).startswith(("damaged PNG", "truncated PNG", "too large"))


def test_an_interrupt_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    content = put(tmp_path / "a.png", encoded(scene(), "PNG"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read(content, SIZE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "HEIF"])
def test_mutated_files_never_raise_and_never_hang(kind: str) -> None:
    rng = np.random.default_rng(sum(kind.encode()))
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    data = encoded(scene(24, 36), kind, **options)
    readable = 0
    for number in range(500):
        changed = bytearray(data)
        span = len(data) if number % 2 else min(len(data), 120)  # the headers are where it hurts
        for at in rng.integers(0, span, rng.integers(1, 6)):
            changed[at] = rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))])
        if number % 5 == 0:
            del changed[rng.integers(0, len(changed)) :][: rng.integers(1, 40)]
        start = time.thread_time()  # of computing, whoever else is
        try:
            pixels, width, height = decode(io.BytesIO(changed), SIZE)
            assert pixels.shape == (40, 60, 3) and width > 0 and height > 0
            readable += 1
        except ImageUnreadable as error:
            assert str(error)
        assert time.thread_time() - start < 5
    assert readable > 0


# read(): files that change


def test_a_file_that_changed_since_it_was_fingerprinted_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    old = put(path, encoded(scene(), "PNG"), age=100)
    put(path, encoded(blocks(), "PNG"), age=50)
    assert read(old, SIZE) == Failure(str(path), "changed while it was being read")
    path.unlink()
    assert read(old, SIZE) == Failure(str(path), "no such file or directory")
    os.mkfifo(path)
    assert read(old, SIZE) == Failure(str(path), "a FIFO, not a regular file")


def test_a_file_still_being_written_is_waited_for(tmp_path: Path) -> None:
    path, data = tmp_path / "a.jpg", encoded(scene(), "JPEG")
    parts = [data[: len(data) // 2], data]
    content, waited = put(path, data[:500], age=0), []

    def write_on(seconds: float) -> None:
        waited.append(seconds)
        path.write_bytes(parts[len(waited) - 1])

    picture = read(content, SIZE, wait=write_on)
    assert waited == [0.2, 0.5]
    assert isinstance(picture, Picture) and picture.content == content_of(path) != content
    np.testing.assert_array_equal(picture.pixels, pixels_of(data))


@pytest.mark.parametrize("data", [b"", bytes(100), encoded(scene(), "JPEG")[:1000], encoded(scene(), "PNG")[:30]])
def test_a_file_that_stays_half_is_a_failure_after_three_pauses(tmp_path: Path, data: bytes) -> None:
    content, waited = put(tmp_path / "a.jpg", data, age=0), list[float]()
    outcome = read(content, SIZE, wait=waited.append)
    assert waited == [0.2, 0.5, 1.0]
    assert isinstance(outcome, Failure) and outcome.stamp == content.stamp


def test_only_half_files_and_only_young_ones_are_waited_for(tmp_path: Path) -> None:
    def never(_: float) -> None:
        raise AssertionError("waited")

    half = encoded(scene(), "JPEG")[:1000]
    for age, data in ((10, half), (-3600, half), (0, b"text"), (0, flat_png(12_000)), (0, encoded(scene(), "PNG"))):
        read(put(tmp_path / "a", data, age), SIZE, wait=never)


def test_a_file_that_vanishes_while_it_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    content = put(path, b"", age=0)
    assert read(content, SIZE, wait=lambda _: path.unlink()) == Failure(str(path), "no such file or directory")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"new\nline.png"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as stream:
            stream.write(encoded(scene(), "PNG"))
    for found in find(str(tmp_path)):
        picture = read(content_of(found.path), SIZE)
        assert isinstance(picture, Picture) and apart(picture.pixels, squashed(scene())) == 0


def test_threads_see_what_one_sees(tmp_path: Path) -> None:
    contents = []
    for number, kind in enumerate(["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "GIF", "BMP"] * 6):
        image = np.roll(scene(300, 400), number * 7, axis=1)
        contents.append(put(tmp_path / f"{number}", encoded(image, kind)))
    alone = [read(content, SIZE) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda content: read(content, SIZE), contents))
    for one, other in zip(alone, together, strict=True):
        assert isinstance(one, Picture) and isinstance(other, Picture)
        np.testing.assert_array_equal(one.pixels, other.pixels)


# fit(): what is in memory


def test_an_array_is_squashed_as_a_file_is() -> None:
    image = scene()
    pixels, width, height = fit(image, SIZE)
    assert (width, height) == (240, 160)
    np.testing.assert_array_equal(pixels, squashed(image))
    np.testing.assert_array_equal(pixels, pixels_of(encoded(image, "PNG")))
    flipped = image[::-1, ::-1]  # strides that Pillow would not take
    np.testing.assert_array_equal(fit(flipped, SIZE)[0], squashed(np.ascontiguousarray(flipped)))
    same = fit(image, (160, 240))[0]
    np.testing.assert_array_equal(same, image)
    same[:] = 0
    assert image.any()


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8),
     np.zeros((1, 4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.int8)],
)  # fmt: skip
def test_an_array_of_another_kind_is_refused_with_its_dtype_and_shape(array: Array) -> None:
    with pytest.raises(ImageUnreadable) as caught:
        fit(array, SIZE)
    assert str(caught.value) == f"an array must be uint8 (h, w, 3), not {array.dtype} {array.shape}"


def test_pillow_images_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ImageUnreadable, match="truncated PNG"):
        fit(Image.open(io.BytesIO(encoded(scene(), "PNG")[:500])), SIZE)
    with pytest.raises(ImageUnreadable):
        fit(Image.new("RGB", (0, 5)), SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bomb = Image.open(io.BytesIO(flat_png(12_000)))
    with pytest.raises(ImageUnreadable, match="too large: 144 megapixels"):
        fit(bomb, SIZE)


def test_a_stream_that_cannot_seek() -> None:
    reader, writer = os.pipe()
    data = encoded(scene(), "PNG")
    with open(reader, "rb") as stream:
        with open(writer, "wb") as sink:
            sink.write(data)  # less than a pipe holds
        assert apart(decode(stream, SIZE)[0], squashed(scene())) == 0


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match="^no such file or directory$"):
        decode(str(tmp_path / "x"), SIZE)
    with pytest.raises(ImageUnreadable, match="^a folder, not a regular file$"):
        decode(str(tmp_path), SIZE)
    assert isinstance(read(Content("/a\0b", Stamp(0, 0, 0), b""), SIZE), Failure)
