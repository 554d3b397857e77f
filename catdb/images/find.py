"""What counts as an image file, where in a folder they are, and how one is known to be still the same file.

Content decides: a name may nominate a file, but only its first bytes admit it. No image library is needed for that,
and nothing is opened that could block (a FIFO named ``.jpg``). Paths are absolute ``str`` as :func:`os.fsdecode` makes
them, so that a name which is no valid UTF-8, or holds a newline, survives the round trip.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from catdb.checksum import digest
from catdb.errors import ImageUnreadable

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".heic",
    ".heif", ".hif",
))
RAW_SUFFIXES = frozenset((
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mos", ".mrw", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
))
DRAWING_SUFFIXES = frozenset((".svg", ".svgz"))
# fmt: on
HEAD = 256
"""Bytes of a file that :func:`identify` wants to see."""

_NOMINATED = IMAGE_SUFFIXES | RAW_SUFFIXES | DRAWING_SUFFIXES
_IGNORED_FOLDERS = frozenset(("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
_IGNORED_FILES = frozenset((".ds_store", "thumbs.db", "desktop.ini"))
_IGNORED_ENDS = (".part", ".tmp", ".crdownload", "~", ".swp")
_CATALOG = "catalog.sqlite"
_CHANGED = "changed while it was being read"
# Absent on Windows, where a file cannot be a FIFO and text mode has to be refused instead.
_OPEN = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY"))
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_CONTAINER_BRANDS = {b"mif1", b"msf1", b"miaf", b"MiHB", b"MiHE"}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a stat says of a file's content: where it differs, the content may differ; where not, it does not."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Take the stamp from a stat that followed links."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be read, and why, in one short sentence for people.

    With a stamp it is worth another try only once the file's stamp differs. Without one the fault may lie outside the
    file (permission, a disk, a package that is missing): try again every time.
    """

    path: str
    reason: str
    stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class Unlisted(Failure):
    """A folder that could not be listed: what is indexed at or below it must not be taken for deleted."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is probably an image."""

    path: str
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Content:
    """A file's fingerprint: ``digest`` (16 bytes) is of exactly the bytes that ``stamp`` describes."""

    path: str
    stamp: Stamp
    digest: bytes


def find(
    top: str,
    *,
    excludes: Sequence[str] = (),
    base: str | None = None,
    skip: Collection[str] = (),
    named: bool = True,
) -> Iterator[Found | Failure]:
    """Find the image files in ``top`` and below, in an order that depends on the names alone.

    A ``top`` that is a file is yielded whatever it is called, unless nobody ``named`` it. ``excludes``: globs, see
    :func:`excluded`; paths are matched as they are seen from ``base``, a folder at or above ``top`` (by default
    ``top`` itself). ``skip``: folders never to be entered; nor is any folder that holds a catdb database. Links are
    followed, but every folder is visited once, under its real path where it has one below ``base``, and only there:
    so a part of it gives no other paths than all of it. Holds one folder's names at a time.
    Never raises for what it meets: a folder that cannot be listed is an :class:`Unlisted` (``top`` itself too, where
    it does not exist), a FIFO or dangling link named like an image is a :class:`Failure`.
    """
    top = os.path.abspath(top)
    if not named and not os.path.isdir(top):
        try:
            yield from _candidate(Path(top))
        except OSError as error:
            yield Unlisted(top, explain(error))
        return
    try:
        status = os.stat(top)
    except (OSError, ValueError) as error:
        yield Unlisted(top, explain(error))
        return
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(top, base or top, tuple(excludes), {os.path.abspath(path) for path in skip}, named)
    elif stat.S_ISREG(status.st_mode):
        yield Found(top, Stamp.of(status))
    else:
        yield Failure(top, _irregular(status), Stamp.of(status))


def excluded(relative_path: str, patterns: Sequence[str]) -> bool:
    """Tell whether globs exclude a path, given relative to the top: itself, or a folder that it lies in.

    A pattern without ``/`` is matched against each single name on the way, one with ``/`` against the path so far
    (its ``*`` matches ``/`` too). A slash at the end changes nothing. Case counts.
    """
    if not patterns:
        return False
    names = relative_path.replace(os.sep, "/").split("/")
    return any(_matches(name, "/".join(names[: depth + 1]), patterns) for depth, name in enumerate(names))


def ignored(name: str, is_dir: bool) -> bool:
    """Tell whether a name marks what is never an image: half-written files, droppings of systems, hidden folders."""
    if is_dir:
        return name.startswith(".") or name in _IGNORED_FOLDERS
    lower = name.lower()
    return lower.startswith("._") or lower.endswith(_IGNORED_ENDS) or lower in _IGNORED_FILES


def identify(head: bytes) -> str | None:
    """Name the format that a file's first :data:`HEAD` bytes announce, as Pillow names it; None if none of ours.

    One of JPEG (also MPO, whose first frame is a plain JPEG), PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(_TIFF):
        return "TIFF"
    # "BM" begins many a text, so that the length of the next header has to be right as well.
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return _container(head) if head[4:8] == b"ftyp" else None


def fingerprint(path: str) -> Content | Failure:
    """Digest a regular file's bytes. What prevents that may pass, so that this Failure never has a stamp."""
    path = os.path.abspath(path)
    try:
        with open_regular(path) as stream:
            stamp = Stamp.of(os.fstat(stream.fileno()))
            content = Content(path, stamp, digest(stream))
            if Stamp.of(os.fstat(stream.fileno())) != stamp:
                return Failure(path, _CHANGED)
            return content
    except ImageUnreadable as error:
        return Failure(path, str(error))
    except (OSError, ValueError) as error:
        return Failure(path, explain(error))


def open_regular(path: str, *, folder: int | None = None) -> BinaryIO:
    """Open a file for reading without ever waiting for one. OSError; ImageUnreadable where it is not a regular file.

    ``folder``: the descriptor of the one in which the path is a name, and then it may be no link.
    """
    # Asked before opening, for opening alone can have effects on a device; and after, for the name may have moved on.
    _require_regular(os.stat(path, dir_fd=folder, follow_symlinks=folder is None))
    descriptor = os.open(path, _OPEN if folder is None else _OPEN | os.O_NOFOLLOW, dir_fd=folder)
    try:
        _require_regular(os.fstat(descriptor))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def explain(error: OSError | ValueError) -> str:
    """Put an operating system's error into a few words: ``permission denied``."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _walk(top: str, base: str, excludes: Sequence[str], skip: set[str], named: bool) -> Iterator[Found | Failure]:
    start = top if named else base  # a link that somebody named is followed in any case
    seen = set(_identities(skip))  # a link to a skipped folder is no way in either
    folders, links = [top], deque[str]()
    while folders or links:
        # Links last: then the real path of a folder wins over any link to it, and a loop ends where it began.
        folder = folders.pop() if folders else links.popleft()
        try:
            status = os.stat(folder)
            if folder in skip or (status.st_dev, status.st_ino) in seen:
                continue
            if top != base and _is_elsewhere(folder, start, base, excludes):
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Unlisted(folder, explain(error))
            continue
        if any(entry.name == _CATALOG for entry in entries):
            continue
        below: list[str] = []
        closed: OSError | None = None
        for entry in _admitted(entries, base, excludes):
            if not _is_folder(entry):
                try:
                    yield from _candidate(entry)
                except OSError as error:
                    closed = error
            else:
                (links if entry.is_symlink() else below).append(entry.path)
        if closed is not None:  # there are names, but nobody knows what stands behind some of them
            yield Unlisted(folder, explain(closed))
        folders.extend(reversed(below))


def _is_elsewhere(folder: str, start: str, base: str, excludes: Sequence[str]) -> bool:
    """Tell whether links between ``start`` and a folder lead to where it has another path, by which it is found."""
    real, home = os.path.realpath(folder), os.path.realpath(base)
    if real == os.path.normpath(os.path.join(os.path.realpath(start), os.path.relpath(folder, start))):
        return False
    if real == home:
        return True
    below = os.path.join(home, "")
    names = real[len(below) :].split(os.sep)
    hidden = any(ignored(name, is_dir=True) for name in names) or excluded("/".join(names), excludes)
    return real.startswith(below) and not hidden


def _admitted(entries: list[os.DirEntry[str]], base: str, excludes: Sequence[str]) -> Iterator[os.DirEntry[str]]:
    start = len(base.rstrip(os.sep)) + 1
    for entry in entries:
        relative = entry.path[start:].replace(os.sep, "/")
        if not ignored(entry.name, _is_folder(entry)) and not _matches(entry.name, relative, excludes):
            yield entry


def _candidate(entry: os.DirEntry[str] | Path) -> Iterator[Found | Failure]:
    """Yield the Found or Failure that a directory entry, no folder, amounts to, or nothing. OSError: who knows."""
    path, suffix = os.fspath(entry), os.path.splitext(entry.name)[1].lower()
    try:
        status = entry.stat()
    except OSError as error:
        if entry.is_symlink():
            yield from _broken_link(path, suffix, error)
        elif not isinstance(error, FileNotFoundError):  # which says only that it was deleted since it was listed
            raise
        return
    if not stat.S_ISREG(status.st_mode):
        if suffix in _NOMINATED:
            yield Failure(path, _irregular(status), Stamp.of(status))
    elif suffix in _NOMINATED or _holds_image(path):
        yield Found(path, Stamp.of(status))


def _broken_link(path: str, suffix: str, error: OSError) -> Iterator[Failure]:
    reason = f"a broken link: {explain(error)}"
    if suffix in _NOMINATED:
        yield Failure(path, reason)
    elif not suffix:
        # Most likely to a folder on a disk that is not there today; its images are not gone for that.
        yield Unlisted(path, reason)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop, or into a folder that is closed to us
        return False


def _holds_image(path: str) -> bool:
    try:
        descriptor = os.open(path, _OPEN)
    except OSError:
        return False
    try:
        return identify(os.read(descriptor, HEAD)) is not None
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _identities(paths: Collection[str]) -> Iterator[tuple[int, int]]:
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        yield status.st_dev, status.st_ino


def _matches(name: str, relative_path: str, patterns: Sequence[str]) -> bool:
    for pattern in patterns:
        bare = pattern.rstrip("/")
        if fnmatchcase(relative_path, bare.lstrip("/")) if "/" in bare else fnmatchcase(name, bare):
            return True
    return False


def _container(head: bytes) -> str | None:
    """Tell AVIF from HEIF, and both from video, by the brands of an ISO media file's ``ftyp`` box."""
    length = min(int.from_bytes(head[:4], "big"), len(head))
    major, others = head[8:12], {head[at : at + 4] for at in range(16, length - 3, 4)}
    brands = others | {major} if major in _CONTAINER_BRANDS else {major}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & (_HEIF_BRANDS | _CONTAINER_BRANDS):
        return "HEIF"
    return None


def _irregular(status: os.stat_result) -> str:
    kind = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
    return f"{kind}, not a regular file"


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageUnreadable(_irregular(status))
