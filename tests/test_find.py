"""Which files are found, in what order, and what becomes of everything that only looks like an image."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from catdb.checksum import checksum, digest
from catdb.images import (
    Content,
    Failure,
    Found,
    Stamp,
    Unlisted,
    excluded,
    find,
    fingerprint,
    identify,
    ignored,
)


def image_bytes(kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), (10, 20, 30)).save(stream, kind)
    return stream.getvalue()


PNG = image_bytes()


def put(path: Path, data: bytes = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(top: Path, **options: object) -> list[str]:
    """Paths found below ``top``, relative to it; whatever is no Found is a fault of the test that asks."""
    out = []
    for item in find(str(top), **options):  # type: ignore[arg-type]
        assert isinstance(item, Found), item
        out.append(os.path.relpath(item.path, top))
    return out


def as_nobody(ask: Callable[[], object]) -> object:
    """Run ``ask`` without root's power to ignore permissions, in a child where this process is root."""
    if os.geteuid() != 0:
        return ask()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            os.write(writer, json.dumps(ask()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return json.loads(answer)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that another user can reach (pytest's own are closed to all but their owner)."""
    top = Path(tempfile.mkdtemp(prefix="catdb-test-"))
    top.chmod(0o755)
    yield top
    for folder, below, _ in os.walk(top):
        for name in below:  # before the walk enters it
            os.chmod(os.path.join(folder, name), 0o755)
    shutil.rmtree(top)


# What is a candidate


@pytest.mark.parametrize("suffix", ["jpg", "jpe", "jfif", "png", "dib", "tiff", "avif", "heic", "hif", "svg", "cr2"])
def test_an_image_suffix_makes_a_candidate_whatever_is_inside(tmp_path: Path, suffix: str) -> None:
    put(tmp_path / f"a.{suffix}", b"some text")
    put(tmp_path / f"B.{suffix.upper()}", b"")
    assert names(tmp_path) == [f"B.{suffix.upper()}", f"a.{suffix}"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO"])
def test_content_makes_a_candidate_whatever_the_name(tmp_path: Path, kind: str) -> None:
    for name in ("no_suffix", "photo.dat", ".hidden", "a.txt"):
        put(tmp_path / name, image_bytes(kind))
    assert names(tmp_path) == [".hidden", "a.txt", "no_suffix", "photo.dat"]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"BM is how this text begins, and it goes on for a while",
        b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41",
        b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
        b"<x:xmpmeta/>",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"\x89PN",
        b"\xff\xd8",
        b"%PDF-1.7",
        b"ftypheic",
    ],
)
def test_other_files_are_silently_passed_over(tmp_path: Path, head: bytes) -> None:
    for name in ("a", "a.mp4", "a.txt", "a.xmp"):
        put(tmp_path / name, head)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "AVIF"),
        (b"\0\0\0\x14ftypcrx \0\0\0\1crx ", None),
        (b"\xff\xff\xff\xffftypheic", "HEIF"),
        (b"\0\0\0\0ftyp", None),
        (b"II+\0\x08\0\0\0", "TIFF"),
        (b"BM" + bytes(12) + b"\x28\0\0\0", "BMP"),
        (b"BM" + bytes(12) + b"\x29\0\0\0", None),
    ],
)
def test_identify_reads_the_magic_numbers(head: bytes, kind: str | None) -> None:
    assert identify(head) == kind


def test_half_written_files_and_droppings_are_ignored(tmp_path: Path) -> None:
    dropped = ["a.jpg.part", "a.tmp", "a.jpg.crdownload", "a.jpg~", ".a.jpg.swp", "._a.jpg", ".DS_Store", "Thumbs.db"]
    for name in [*dropped, "desktop.ini", "Desktop.ini", "a.PART", "part.jpg", "tmp"]:
        put(tmp_path / name)
    assert names(tmp_path) == ["part.jpg", "tmp"]


def test_hidden_and_system_folders_are_not_entered(tmp_path: Path) -> None:
    skipped = [".git", ".thumbnails", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"]
    for name in skipped:
        put(tmp_path / "in" / name / "a.png")
    put(tmp_path / "in" / "#recycled" / "a.png")
    assert names(tmp_path) == ["in/#recycled/a.png"]
    assert names(tmp_path / "in" / ".git") == ["a.png"]  # a top that was named is wanted
    assert all(ignored(name, True) for name in skipped)
    assert not ignored("#recycle", False) and not ignored(".hidden", False) and ignored("x~", False)


def test_a_file_as_top_is_found_whatever_it_is_called(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jpg.part", b"text")
    assert list(find(str(path))) == [Found(str(path), Stamp.of(path.stat()))]


def test_the_stamp_is_of_the_file(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png")
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    [found] = find(str(tmp_path))
    assert found.stamp == Stamp(len(PNG), 1_234_567_890_123_456_789, path.stat().st_ino)


def test_a_relative_top_gives_absolute_paths_and_a_link_in_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert [item.path for item in find("link/")] == [str(tmp_path / "link" / "a.png")]


# Order, names


def test_the_order_depends_on_the_names_alone(tmp_path: Path) -> None:
    wanted = ["B.png", "a.png", "c.png", "b/a.png", "b/z/a.png", "d/a.png"]
    for name in reversed(wanted):
        put(tmp_path / name)
    assert names(tmp_path) == wanted


def test_it_streams(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "folder" / "b.png")
    stream = find(str(tmp_path))
    assert next(stream).path == str(tmp_path / "a.png")
    put(tmp_path / "folder" / "a.png")  # the folder had not been listed yet
    assert [os.path.basename(item.path) for item in stream] == ["a.png", "b.png"]


@pytest.mark.parametrize("name", [b"caf\xe9 \xff.png", b"new\nline.png", b"tab\t\x01\x7f.png", "Ärger 猫.png".encode()])
def test_any_name_survives(tmp_path: Path, name: bytes) -> None:
    raw = os.fsencode(tmp_path) + b"/" + name
    with open(raw, "wb") as stream:
        stream.write(PNG)
    [found] = find(str(tmp_path))
    assert os.fsencode(found.path) == raw
    content = fingerprint(found.path)
    assert isinstance(content, Content) and content.path == found.path and content.digest == digest(io.BytesIO(PNG))


# Excludes, skip


@pytest.mark.parametrize(
    ("path", "pattern", "verdict"),
    [
        ("a/raw/b.jpg", "raw", True),
        ("a/raw/b.jpg", "raw/", True),
        ("a/raw/b.jpg", "RAW", False),
        ("a/raw/b.jpg", "a/raw", True),
        ("a/raw/b.jpg", "/a/raw/", True),
        ("a/raw/b.jpg", "a/b", False),
        ("a/raw/b.jpg", "raw/b.jpg", False),
        ("a/raw/b.jpg", "*/b.jpg", True),
        ("a/raw/b.jpg", "*.jpg", True),
        ("a/raw/b.jpg", "*.JPG", False),
        ("a/raw/b.jpg", "r?w", True),
        ("a/raw/b.jpg", "[!a]aw", True),
        ("a/raw/b.jpg", "aw", False),
        ("a/new\nline.jpg", "*.jpg", True),
        ("a.jpg", "", False),
        ("a.jpg", "/", False),
        ("a.jpg", "/a.jpg", True),
        ("b/a.jpg", "/a.jpg", False),
    ],
)
def test_excluded(path: str, pattern: str, verdict: bool) -> None:
    assert excluded(path, ["nothing", pattern]) is verdict


def test_find_leaves_out_exactly_what_is_excluded(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "raw/a.png", "x/raw/b.png", "x/y/a.png", "x/y/c.png", "rawer/a.png"):
        put(tmp_path / name)
    everything = names(tmp_path)
    for patterns in ([], ["raw"], ["x/*"], ["x/y/a.png"], ["*.jpg", "rawer"], ["*"], ["a.png"], [tmp_path.name]):
        assert names(tmp_path, excludes=patterns) == [name for name in everything if not excluded(name, patterns)]


def test_skipped_folders_and_databases_are_not_entered(tmp_path: Path) -> None:
    put(tmp_path / "db" / "thumbs" / "a.png")
    put(tmp_path / "other" / "catalog.sqlite", b"x")
    put(tmp_path / "other" / "below" / "a.png")
    put(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "way in").symlink_to(tmp_path / "db")
    assert names(tmp_path, skip=[str(tmp_path / "db") + "/"]) == ["photos/a.png"]
    assert names(tmp_path / "other") == []


# Links


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    target = put(tmp_path / "out" / "a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.jpg").symlink_to(target)
    [found] = find(str(tmp_path / "in"))
    assert found == Found(str(tmp_path / "in" / "link.jpg"), Stamp.of(target.stat()))


def test_loops_end_and_the_real_path_wins(tmp_path: Path) -> None:
    put(tmp_path / "z real" / "a.png")
    (tmp_path / "a link").symlink_to("z real")
    (tmp_path / "z real" / "self").symlink_to(".")
    (tmp_path / "z real" / "up").symlink_to(tmp_path)
    (tmp_path / "a loop.png").symlink_to("a loop.png")
    first, second = find(str(tmp_path))
    assert isinstance(first, Failure) and first.path.endswith("a loop.png") and "link" in first.reason
    assert second.path == str(tmp_path / "z real" / "a.png")


def test_a_linked_folder_outside_is_visited_once(tmp_path: Path) -> None:
    put(tmp_path / "out" / "sub" / "a.png")
    put(tmp_path / "in" / "b.png")
    for name in ("one", "two"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "out")
    assert names(tmp_path / "in") == ["b.png", "one/sub/a.png"]


def test_a_part_of_a_folder_gives_no_other_paths_than_all_of_it(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for place in ("a.png", "real/b.png", ".hidden/c.png", "left out/d.png", "part/e.png"):
        put(top / place)
    put(tmp_path / "out" / "f.png")
    part = top / "part"
    for name, target in (
        ("up", top),
        ("to real", top / "real"),
        ("to hidden", top / ".hidden"),
        ("to left out", top / "left out"),
        ("to out", tmp_path / "out"),
        ("over", tmp_path),
    ):
        (part / name).symlink_to(target)
    excludes = ["left out"]
    everything = {found.path for found in find(str(top), excludes=excludes)}
    below = {path for path in everything if path.startswith(f"{part}/")}
    assert {os.path.relpath(path, top) for path in everything - below} == {"a.png", "real/b.png"}
    assert len(below) == 4
    for named in (True, False):  # by somebody who builds it, or because something happened there
        found = [f.path for f in find(str(part), base=str(top), excludes=excludes, named=named)]
        assert sorted(found) == sorted(below), named
    # A link that appears is looked at alone.
    assert not list(find(str(part / "up"), base=str(top), excludes=excludes, named=False))
    assert not list(find(str(part / "to real"), base=str(top), excludes=excludes, named=False))
    [hidden] = find(str(part / "to hidden"), base=str(top), excludes=excludes, named=False)
    assert hidden.path == str(part / "to hidden" / "c.png")
    # But whoever names one, and nothing else, means it.
    [real] = find(str(part / "to real"), base=str(top), excludes=excludes)
    assert real.path == str(part / "to real" / "b.png")


def test_broken_links(tmp_path: Path) -> None:
    for name in ("a.jpg", "album", "notes.txt"):
        (tmp_path / name).symlink_to("nowhere")
    image, folder = find(str(tmp_path))
    assert image == Failure(str(tmp_path / "a.jpg"), "a broken link: no such file or directory")
    # It may be a disk that is not mounted, whose images must not be taken for deleted.
    assert folder == Unlisted(str(tmp_path / "album"), "a broken link: no such file or directory")


# What is no file


def test_a_fifo_or_socket_is_a_failure_at_once_and_only_if_named_like_an_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dev.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s.png"))
        found = list(find(str(tmp_path)))
    assert [(os.path.basename(item.path), item.reason) for item in found if isinstance(item, Failure)] == [
        ("a.jpg", "a FIFO, not a regular file"),
        ("dev.png", "a device, not a regular file"),
        ("s.png", "a socket, not a regular file"),
    ]
    assert len(found) == 3
    for item in found:
        again = fingerprint(item.path)
        assert isinstance(item, Failure) and again == Failure(item.path, item.reason)
    [top] = find(str(tmp_path / "pipe"))
    assert isinstance(top, Failure) and top.reason == "a FIFO, not a regular file"


def test_what_cannot_be_listed_is_told_from_what_is_empty(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    assert list(find(gone)) == [Unlisted(gone, "no such file or directory")]
    assert list(find(str(tmp_path))) == []
    [odd] = find("/no\0where")
    assert isinstance(odd, Unlisted)


def test_a_closed_folder_is_unlisted_and_a_closed_file_a_failure(public: Path) -> None:
    put(public / "closed" / "a.png")
    put(public / "half" / "a.png")
    put(public / "half" / "plain")
    put(public / "open" / "secret.png").chmod(0)
    put(public / "open" / "secret").chmod(0)
    (public / "closed").chmod(0)
    (public / "half").chmod(0o744)  # its names can be listed, but nothing can be learned of them

    def ask() -> object:
        out = []
        for item in find(str(public)):
            again = fingerprint(item.path) if isinstance(item, Found) else item
            reason = again.reason if isinstance(again, Failure) else ""
            out.append([type(item).__name__, os.path.relpath(item.path, public), reason])
        return out

    if os.geteuid() != 0:
        (public / "half").chmod(0o444)
    assert as_nobody(ask) == [
        ["Unlisted", "closed", "permission denied"],
        ["Unlisted", "half", "permission denied"],
        ["Found", "open/secret.png", "permission denied"],
    ]


def test_a_folder_that_vanishes_while_it_is_walked_is_unlisted(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "gone" / "b.png")
    stream = find(str(tmp_path))
    next(stream)
    shutil.rmtree(tmp_path / "gone")
    assert list(stream) == [Unlisted(str(tmp_path / "gone"), "no such file or directory")]


# Fingerprint, checksum


def test_fingerprint_is_of_the_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(3_000_001)
    path = put(tmp_path / "a.png", data)
    assert fingerprint(str(path)) == Content(str(path), Stamp.of(path.stat()), xxhash.xxh3_128(data).digest())
    assert fingerprint(str(tmp_path)) == Failure(str(tmp_path), "a folder, not a regular file")
    assert fingerprint(str(path) + "x") == Failure(str(path) + "x", "no such file or directory")
    assert isinstance(fingerprint("/a\0b"), Failure)


def test_fingerprint_notices_a_change_while_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.png")

    def slow(stream: io.BufferedReader) -> bytes:
        with open(path, "ab") as other:
            other.write(b"more")
        return digest(stream)

    # By sys.modules, for the package's attribute of that name is the function.
    monkeypatch.setattr(sys.modules["catdb.images.find"], "digest", slow)
    assert fingerprint(str(path)) == Failure(str(path), "changed while it was being read")


def test_digest_takes_the_rest_of_a_stream() -> None:
    stream = io.BytesIO(b"headtail")
    stream.seek(4)
    assert digest(stream) == digest(io.BytesIO(b"tail")) != digest(io.BytesIO(b"headtail"))
    assert len(digest(io.BytesIO())) == 16


def test_checksum_fits_a_signed_64_bit_integer() -> None:
    sums = [checksum(bytes([n])) for n in range(64)]
    assert min(sums) < 0 < max(sums) and all(-(2**63) <= value < 2**63 for value in sums)
    assert [value % 2**64 for value in sums] == [xxhash.xxh3_64_intdigest(bytes([n])) for n in range(64)]
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert checksum(rows) == checksum(rows.tobytes()) == checksum(bytearray(rows.tobytes()))


def test_ten_thousand_files_are_found_quickly(tmp_path: Path) -> None:
    for folder in range(100):
        (tmp_path / f"{folder:02}").mkdir()
        for number in range(100):
            (tmp_path / f"{folder:02}" / f"{number:02}.jpg").touch()
    start = time.thread_time()
    assert len(names(tmp_path, excludes=["*.gif", "x/y"])) == 10_000
    assert time.thread_time() - start < 2


def test_a_file_that_nobody_named_is_found_only_as_its_folder_would_have_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "unnamed").write_bytes(b"\xff\xd8\xff and more")
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "broken.txt").symlink_to("nowhere")
    whole = sorted(find(str(tmp_path)), key=lambda found: found.path)
    single = [found for path in sorted(tmp_path.iterdir()) for found in find(str(path), named=False)]
    assert single == whole
    assert [os.path.basename(found.path) for found in whole] == ["bad.png", "broken", "broken.png", "unnamed"]
    assert list(find(str(tmp_path / "gone.png"), named=False)) == []
