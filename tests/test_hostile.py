"""A folder full of traps: the good images are indexed, each bad one is listed with its reason, and nothing else."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CATDB, picture, run, unprivileged
from PIL import Image

LONG = "n" * 251 + ".png"  # the longest name that a file can have
SCENE = (320, 240)


def encoded(seed: int, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = BytesIO()
    picture(seed, SCENE).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends after its header."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))


def bomb() -> bytes:
    """12,000 x 12,000 pixels in 18 KB, of which Pillow makes 732 MB."""
    stream = BytesIO()
    Image.new("1", (12_000, 12_000)).save(stream, "PNG")
    return stream.getvalue()


def grey16(path: Path) -> None:
    """The picture of seed 5 in 16-bit grey, which Pillow's own conversion would make almost white."""
    grey = np.asarray(picture(5, SCENE).convert("L"), np.uint16)
    Image.fromarray(grey * 257).save(path, "PNG")


def write_good(folder: Path) -> list[str]:
    """Write 30 files that are images, whatever they are called and however they are stored; return their names."""
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [picture(seed, SCENE) for seed in (1, 2)]
    animated = BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    files = {
        os.fsdecode(b"caf\xe9 \xff\xfe.jpg"): encoded(100, "JPEG"),
        "new\nline.png": encoded(101, "PNG"),
        "esc\x1b[2J\x1b]0;owned\x07.png": encoded(102, "PNG"),
        LONG: encoded(103, "PNG"),
        "-rf.jpg": encoded(104, "JPEG"),
        "   ": encoded(105, "PNG"),
        "no suffix": encoded(106, "JPEG"),
        "wrong.txt": encoded(107, "PNG"),
        "wrong.gif": encoded(108, "JPEG"),
        "naïve 写真 \u202e.png": encoded(109, "PNG"),
        "cmyk.jpg": encoded(110, "JPEG", "CMYK"),
        "palette.png": encoded(111, "PNG", "P", transparency=0),
        "alpha.png": encoded(112, "PNG", "LA"),
        "bits.png": encoded(113, "PNG", "1"),
        "float.tif": encoded(114, "TIFF", "F"),
        "rotated.jpg": encoded(115, "JPEG", exif=exif),
        "moving.gif": animated.getvalue(),
        "bitmap.bmp": encoded(116, "BMP"),
        "web.webp": encoded(117, "WEBP"),
        "new.avif": encoded(118, "AVIF"),
        "a folder.jpg/inside.jpg": encoded(119, "JPEG"),
        "one pixel.png": b"",
        "grey16.png": b"",
    }
    files |= {f"plain{seed}.jpg": encoded(200 + seed, "JPEG") for seed in range(30 - len(files))}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    Image.new("RGB", (1, 1), "red").save(folder / "one pixel.png")
    grey16(folder / "grey16.png")
    return list(files)


def write_bad(folder: Path) -> dict[str, str]:
    """Make 30 things that are called like an image and cannot be read as one; return why not, by name."""
    jpeg, png = encoded(1, "JPEG"), encoded(1, "PNG")
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    noise = np.random.default_rng(0).bytes(5000)
    files = {
        "zero.jpg": (b"", "an empty file"),
        "text.jpg": (b"this is no image\n", "not an image"),
        "page.png": (b"<!DOCTYPE html><html></html>", "not an image"),
        "zeros.jpg": (bytes(100_000), "not an image: it begins with zeros only"),
        "noise.jpg": (b"\x01" + noise, "not an image"),
        "print.png": (b"%PDF-1.7\n", "not an image"),
        "movie.heic": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + noise, "not an image"),
        "short.jpg": (jpeg[: len(jpeg) // 2], "truncated JPEG"),
        "start.jpg": (jpeg[:20], "damaged JPEG"),
        "magic.jpg": (b"\xff\xd8\xff" + noise, "damaged JPEG"),
        "short.png": (png[: len(png) // 2], "truncated PNG"),
        "broken.png": (bytes(broken), "damaged PNG"),
        "short.gif": (encoded(1, "GIF")[:500], "truncated GIF"),
        "short.webp": (encoded(1, "WEBP")[:200], "WebP"),
        "short.bmp": (encoded(1, "BMP")[:5000], "truncated BMP"),
        "short.tif": (encoded(1, "TIFF")[:5000], "TIFF"),
        "short.avif": (encoded(1, "AVIF")[:300], "AVIF"),
        "bomb.png": (bomb(), "too large: 144 megapixels"),
        "header.png": (png_header(2**31 - 1, 2**31 - 1), "PNG"),
        "wide.jpg": (jpeg[:2] + b"\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\x01\x03\x11\x01", "JPEG"),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "vector drawings (.svg) are not supported"),
        "raw.cr2": (b"II*\0\x10\0\0\0CR\x02\0" + noise, "RAW photographs (.cr2) are not supported"),
        "esc\x1b]0;owned\x07.jpg": (b"text", "not an image"),
        "two\nlines.jpg": (b"text", "not an image"),
        os.fsdecode(b"\xc3\x28.jpg"): (b"text", "not an image"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, (1e9, 1e9))  # old: else the unfinished ones would be waited for
    reasons = {name: reason for name, (_, reason) in files.items()}
    os.mkfifo(folder / "fifo.jpg")
    reasons["fifo.jpg"] = "a FIFO, not a regular file"
    here = os.getcwd()
    os.chdir(folder)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
    os.chdir(here)
    reasons["socket.jpg"] = "a socket, not a regular file"
    (folder / "dangling.jpg").symlink_to("nowhere")
    reasons["dangling.jpg"] = "a broken link: no such file or directory"
    (folder / "loop.jpg").symlink_to("loop.jpg")
    reasons["loop.jpg"] = "a broken link: too many levels of symbolic links"
    (folder / "secret.jpg").write_bytes(jpeg)
    (folder / "secret.jpg").chmod(0)
    reasons["secret.jpg"] = "permission denied"
    (folder / "round").symlink_to(".")  # and one that is no image at all
    return reasons


@dataclass
class Ended:
    code: int
    out: str
    err: str
    megabytes: float


# A process starts with the peak of the one that it was forked from, and pytest's is large by the time it comes here. So
# a small one stands between; it prints the peak of its only child.
BETWEEN = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
sys.exit(code)
"""


def measured(*words: str | Path) -> Ended:
    """Run the command as one who may not read everything, and take its greatest memory."""
    command = [sys.executable, "-c", BETWEEN, "megabytes", CATDB, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="surrogateescape", preexec_fn=unprivileged, timeout=120
    )
    return Ended(done.returncode, done.stdout, done.stderr, float(Path("megabytes").read_text()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str], dict[str, str]]]:
    place = tmp_path_factory.mktemp("hostile")
    good, bad = write_good(place), write_bad(place)
    assert len(good) == len(bad) == 30
    yield place, good, bad
    (place / "secret.jpg").chmod(0o600)


def test_the_good_are_indexed_and_each_bad_is_listed(folder: tuple[Path, list[str], dict[str, str]]) -> None:
    place, good, bad = folder
    done = measured("build", place, "--backbone", "classic", "--json")
    assert done.code == 3, done.err
    assert "Traceback" not in done.err + done.out
    assert done.megabytes < 1000
    report = json.loads(done.out)
    failed = {os.path.relpath(failure["path"], place): failure["reason"] for failure in report["failed"]}
    assert failed.keys() == bad.keys()
    assert {name: reason for name, reason in failed.items() if bad[name] not in reason} == {}
    assert (report["added"], report["total"], len(report["failed"])) == (30, 30, 30)

    shown = done.err.splitlines()
    assert len([line for line in shown if line.startswith("failed: ")]) == 30 == len(shown)
    assert all(line.isprintable() for line in shown)
    assert f"failed: {place}/esc\\x1b]0;owned\\x07.jpg: not an image" in shown
    assert f"failed: {place}/two\\nlines.jpg: not an image" in shown
    assert f"failed: {place}/\\xc3(.jpg: not an image" in shown

    again = measured("build", place, "--json")
    assert (again.code, again.megabytes < 1000) == (3, True)
    report = json.loads(again.out)
    assert (report["added"], report["unchanged"], len(report["failed"])) == (0, 30, 30)

    listed = run("failures", "--json")
    assert {os.path.relpath(f["path"], place) for f in json.loads(listed.stdout)["failures"]} == bad.keys()
    assert all(line.isprintable() for line in run("failures").stdout.splitlines())
    assert run("check").stdout == "all is well\n"

    queries = [place / name for name in good]
    answers = [
        json.loads(line) for line in run("search", *queries, "-k", "30", "--exact", "--json").stdout.splitlines()
    ]
    assert [os.fsencode(answer["query"]) for answer in answers] == [os.fsencode(query) for query in queries]
    assert all(answer["query"] in {match["path"] for match in answer["matches"]} for answer in answers)
    text = run("search", *queries, "-k", "2").stdout
    assert all(line.isprintable() for line in text.splitlines())
    assert "esc\\x1b[2J\\x1b]0;owned\\x07.png" in text and "\\u202e.png" in text and "new\\nline.png" in text


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    grey16(tmp_path / "p" / "grey16.png")
    Image.new("RGB", SCENE, "white").save(tmp_path / "p" / "white.png")
    picture(5, SCENE).convert("L").save(tmp_path / "grey8.png")
    assert run("build", tmp_path / "p", "--backbone", "classic").returncode == 0
    [answer] = map(json.loads, run("search", tmp_path / "grey8.png", "--exact", "--json").stdout.splitlines())
    first, second = answer["matches"]
    assert first["path"].endswith("grey16.png")
    assert first["similarity"] > 0.995 > 0.8 > second["similarity"]


def test_hostile_queries_end_as_errors(folder: tuple[Path, list[str], dict[str, str]], photos: Path) -> None:
    place, _, bad = folder
    assert run("build", photos, "--backbone", "classic").returncode == 0
    done = measured("search", *(place / name for name in bad), "--json", "--sheet", "s.png", "--csv", "s.csv")
    assert (done.code, done.megabytes < 1000) == (3, True), done.err
    assert "Traceback" not in done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [set(answer) for answer in answers] == [{"query", "error"}] * 30
    assert [os.fsencode(answer["query"]) for answer in answers] == [os.fsencode(place / name) for name in bad]


def test_a_sheet_of_odd_names_and_lost_files_is_drawn(folder: tuple[Path, list[str], dict[str, str]]) -> None:
    place, good, _ = folder
    assert measured("build", place, "--backbone", "classic").code == 3
    done = measured("search", *(place / name for name in good[:12]), "-k", "5", "--sheet", "s.png", "--csv", "s.csv")
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
    with Image.open("s.png") as sheet:
        assert 800 < sheet.width < 2500
    assert Path("s.csv").read_bytes().startswith(b"query,rank,similarity,path,shared\r\n")
