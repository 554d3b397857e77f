"""Two thousand malformed images in one folder with good ones: the good are indexed, each other one is or says why not.

The files are mutations of small seeds of every kind that is read. They differ from day to day; $CATDB_SEED repeats a
day. As a program, it mutates and decodes for as long as it is let, and keeps what ends a decoder or takes long:

    python tests/test_fuzz.py FOLDER [COUNT] [SEED]
"""

from __future__ import annotations

import datetime
import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from catdb.errors import ImageUnreadable
from catdb.images import Decoders, decode, identify

try:
    import pillow_heif
except ImportError:
    pillow_heif = None

TESTS = str(Path(__file__).parent)
Random = np.random.Generator
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


# --- the seeds ------------------------------------------------------------------------------------------------------


def scene(shift: int, height: int = 32, width: int = 48) -> Image.Image:
    """A picture with edges, slopes and a little noise, so that every coder has all of its work to do."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = np.stack([x * 255, y * 200 + 20, 127 + 120 * np.sin(9 * x + shift + 5 * y * y)], axis=-1)
    planes[height // 4 : height // 2, width // 4 : width // 2] = (shift * 37 % 256, 200, 40)
    noise = np.random.default_rng(shift).integers(-9, 10, planes.shape)
    return Image.fromarray((planes + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    # Copies: Pillow leaves settings of one format in an image, and trips over them when it writes the next.
    options = {
        name: [one.copy() for one in value] if name == "append_images" else value for name, value in options.items()
    }
    image.copy().save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def interlaced(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG by Adam7, which Pillow reads and does not write."""
    height, width = pixels.shape[:2]
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels[y::dy, x::dx])
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def runs(image: Image.Image) -> bytes:
    """A BMP of 8 bits, run-length encoded, which Pillow reads and does not write."""
    grey = np.asarray(ImageOps.posterize(image.convert("L"), 3))
    data = b"".join(b"".join(bytes((1, value)) for value in row.tolist()) + b"\0\0" for row in grey[::-1]) + b"\0\1"
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    head = struct.pack("<IiiHHIIiiII", 40, image.width, image.height, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + 40 + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


@lru_cache(maxsize=1)
def seeds() -> dict[str, bytes]:
    """Make one small file of each kind and variant, by name."""
    image, exif = scene(1), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    alpha = image.convert("RGBA")
    alpha.putalpha(image.getchannel("R"))
    grey = image.convert("L")
    deep = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    floats = Image.fromarray(np.asarray(grey, np.float32))
    frames = {"save_all": True, "append_images": (scene(2), scene(3))}
    files = {
        "base.jpg": encoded(image, "JPEG"),
        "fine.jpg": encoded(image, "JPEG", quality=96, subsampling=0, restart_marker_rows=1),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "grey.jpg": encoded(grey, "JPEG"),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "cmyk progressive.jpg": encoded(image.convert("CMYK"), "JPEG", progressive=True),
        "exif.jpg": encoded(image, "JPEG", exif=exif),
        "several.jpg": encoded(image, "MPO", **frames),
        "rgb.png": encoded(image, "PNG"),
        "alpha.png": encoded(alpha, "PNG", exif=exif),
        "interlaced.png": interlaced(np.asarray(image)),
        "deep.png": encoded(deep, "PNG"),
        "palette.png": encoded(image.quantize(16), "PNG", transparency=0),
        "bits.png": encoded(image.convert("1"), "PNG"),
        "grey alpha.png": encoded(image.convert("LA"), "PNG"),
        "moving.png": encoded(image, "PNG", **frames),
        "lossy.webp": encoded(image, "WEBP", exif=exif),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "alpha.webp": encoded(alpha, "WEBP"),
        "moving.webp": encoded(image, "WEBP", **frames),
        "plain.gif": encoded(image, "GIF"),
        "moving.gif": encoded(image, "GIF", transparency=0, **frames),
        "rgb.bmp": encoded(image, "BMP"),
        "palette.bmp": encoded(image.quantize(16), "BMP"),
        "bits.bmp": encoded(image.convert("1"), "BMP"),
        "runs.bmp": runs(image),
        "raw.tif": encoded(image, "TIFF"),
        "alpha.tif": encoded(alpha, "TIFF", compression="tiff_lzw"),
        "deep.tif": encoded(deep, "TIFF", compression="tiff_adobe_deflate"),
        "float.tif": encoded(floats, "TIFF"),
        "float lzw.tif": encoded(floats, "TIFF", compression="tiff_lzw"),
        "packbits.tif": encoded(image.quantize(16), "TIFF", compression="packbits"),
        "group3.tif": encoded(image.convert("1"), "TIFF", compression="group3"),
        "group4.tif": encoded(image.convert("1"), "TIFF", compression="group4"),
        "jpeg.tif": encoded(image, "TIFF", compression="jpeg"),
        "cmyk.tif": encoded(image.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "several.tif": encoded(image, "TIFF", **frames),
        "big.tif": encoded(image, "TIFF", big_tiff=True),
        "plain.avif": encoded(image, "AVIF", speed=10),
        "alpha.avif": encoded(alpha, "AVIF", speed=10, exif=exif),
    }
    if pillow_heif:
        for name, source in (("plain.heic", image), ("alpha.heic", alpha)):
            stream = io.BytesIO()
            pillow_heif.from_pillow(source).save(stream)
            files[name] = stream.getvalue()
    return files


# --- the mutations --------------------------------------------------------------------------------------------------


def place(rng: Random, data: bytes | bytearray) -> int:
    """A place in the file: every other time among its headers, where it hurts."""
    return int(rng.integers(0, max(1, min(len(data), 200) if rng.random() < 0.5 else len(data))))


def flip(rng: Random, data: bytearray, _: bytes) -> None:
    for _ in range(rng.integers(1, 9)):
        data[place(rng, data)] ^= 1 << int(rng.integers(8))


def scatter(rng: Random, data: bytearray, _: bytes) -> None:
    for _ in range(rng.integers(1, 9)):
        data[place(rng, data)] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))


def extreme(rng: Random, data: bytearray, _: bytes) -> None:
    """A field of two, four or eight bytes becomes as small or as large as it can be."""
    for _ in range(rng.integers(1, 4)):
        at, width = place(rng, data), int(rng.choice([2, 4, 8]))
        value = int(rng.choice(EXTREMES)) & ((1 << 8 * width) - 1)
        data[at : at + width] = value.to_bytes(width, "big" if rng.random() < 0.5 else "little")


def insert(rng: Random, data: bytearray, _: bytes) -> None:
    at = place(rng, data)
    data[at:at] = rng.bytes(int(rng.integers(1, 64)))


def delete(rng: Random, data: bytearray, _: bytes) -> None:
    at = place(rng, data)
    del data[at : at + int(rng.integers(1, 64))]


def duplicate(rng: Random, data: bytearray, _: bytes) -> None:
    at = place(rng, data)
    part = data[at : at + int(rng.integers(1, 300))]
    to = place(rng, data)
    data[to:to] = part * int(rng.integers(1, 20))


def truncate(rng: Random, data: bytearray, _: bytes) -> None:
    del data[int(rng.integers(0, len(data))) :]


def splice(rng: Random, data: bytearray, other: bytes) -> None:
    """The head of one file and the tail of another."""
    data[place(rng, data) :] = other[place(rng, other) :]


MUTATIONS = (flip, flip, scatter, extreme, extreme, insert, delete, duplicate, truncate, splice)


def mended(data: bytes) -> bytes:
    """A PNG with right checksums again: else nearly every mutation of one would end there."""
    at, chunks = 8, [data[:8]]
    while len(data) - at >= 12:
        length = int.from_bytes(data[at : at + 4], "big")
        if length > len(data) - at - 12:
            break
        chunks.append(chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join([*chunks, data[at:]])


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Make malformed files: (name, bytes), each of one seed in turn, by one to three mutations."""
    rng, files = np.random.default_rng(seed), list(seeds().items())
    for number in range(count):
        name, data = files[number % len(files)]
        other = files[int(rng.integers(len(files)))][1]
        changed = bytearray(data)
        while changed == data:
            for _ in range(int(rng.choice([1, 1, 2, 3]))):
                MUTATIONS[int(rng.integers(len(MUTATIONS)))](rng, changed, other)
                changed = changed or bytearray(b"\0")
        if name.endswith(".png") and rng.random() < 0.7:
            changed = bytearray(mended(changed))
        yield f"{number:05} {name}", bytes(changed)


# --- the suite's part -----------------------------------------------------------------------------------------------

BUILD = """
import json, sys
sys.path.insert(0, {tests!r})
from conftest import Instant
from catdb import Database
from catdb.images import decoders

started, real = [], decoders._Worker.__init__
def start(worker):
    real(worker)
    started.append(worker)
decoders._Worker.__init__ = start

with Database("db", backbone=Instant()) as database:
    report = database.build(sys.argv[1], jobs=2)
    failed = [(failure.path, failure.reason) for failure in report.failed]
    print(json.dumps([sorted(database), failed, len(started), database.check().ok]))
"""


def day() -> int:
    return int(os.environ.get("CATDB_SEED") or f"{datetime.date.today():%Y%m%d}")


def test_two_thousand_malformed_images_cost_only_themselves(tmp_path: Path) -> None:
    seed, folder = day(), tmp_path / "p"
    folder.mkdir()
    bad = dict(mutants(seed, 2000))
    good = {f"{41 * number:05} good {name}": data for number, (name, data) in enumerate(seeds().items())}
    assert not bad.keys() & good.keys() and len(good) >= 40
    for name, data in (bad | good).items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (1e9, 1e9))  # old: else the unfinished ones would be waited for
    command = [sys.executable, "-c", BUILD.format(tests=TESTS), folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    hint = f"repeat with CATDB_SEED={seed}"
    assert (done.returncode, done.stderr) == (0, ""), hint
    indexed, failed, started, ok = json.loads(done.stdout)
    readable = {os.path.basename(path) for path in indexed}
    reasons = {os.path.basename(path): reason for path, reason in failed}
    assert good.keys() <= readable, hint
    assert readable | reasons.keys() == bad.keys() | good.keys() and not readable & reasons.keys(), hint
    assert all(0 < len(reason) < 300 and "\n" not in reason for reason in reasons.values()), hint
    assert len(reasons) > 1000 and len(readable) > 200, hint  # neither all refused nor all harmless
    assert len(set(reasons.values())) > 30, hint
    died = [name for name, reason in reasons.items() if "its decoder" in reason or "takes more than" in reason]
    assert started <= 2 + 2 * len(died) and ok, (hint, died)


def test_the_seeds_are_images_and_each_kind_has_several() -> None:
    files = seeds()
    for name, data in files.items():
        assert decode(io.BytesIO(data), (16, 16))[0].std() > 10, name
        with pytest.raises(ImageUnreadable):
            decode(io.BytesIO(data[:20]), (16, 16))
    kinds = Counter(identify(data[:256]) for data in files.values())
    assert len(kinds) == (8 if pillow_heif else 7) and min(kinds.values()) >= 2


def test_a_seed_makes_the_same_mutants_again() -> None:
    first, again, other = (list(mutants(seed, 100)) for seed in (1, 1, 2))
    assert first == again
    assert sum(one != two for one, two in zip(first, other, strict=True)) > 90
    assert not {data for _, data in first} & set(seeds().values())


# --- by hand --------------------------------------------------------------------------------------------------------


def main(folder: str, count: str = "20000", seed: str = "") -> None:
    """Decode mutants by workers, and keep in the folder those that end one or take more than two seconds."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    reasons: Counter[str] = Counter()
    slowest = 0.0

    def attempt(mutant: tuple[str, bytes]) -> tuple[str, float]:
        path = Path(folder, mutant[0])
        path.write_bytes(mutant[1])
        start, reason = time.perf_counter(), "readable"
        try:
            workers.decode(str(path), (299, 299))
        except ImageUnreadable as error:
            reason = str(error)
        seconds = time.perf_counter() - start
        if "its decoder" in reason or "takes more than" in reason or seconds > 2:
            print(f"{seconds:6.1f} s  {path}: {reason}", flush=True)
        else:
            path.unlink()
        return reason, seconds

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool, Decoders() as workers:
        for reason, seconds in pool.map(attempt, mutants(int(seed or day()), int(count))):
            reasons[reason] += 1
            slowest = max(slowest, seconds)
    print(f"{count} mutants of seed {seed or day()} in {time.perf_counter() - start:.0f} s, slowest {slowest:.1f} s")
    for reason, number in reasons.most_common():
        print(f"{number:8}  {reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
