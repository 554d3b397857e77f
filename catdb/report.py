"""What was found as one HTML file to keep or to send: the look of the page in the browser, and nothing from elsewhere.

    answers, groups of copies ─ pictures, by the decode workers ─▶ text and data: URIs ─▶ the file, whole or not at all

Style and pictures are in the file, and its policy (CSP) lets it load and run nothing: whatever a file or a category is
called, it is text. A picture is made anew, so that no metadata of a file (such as where it was taken) goes along; paths
do, they are what was asked for.

Size: a JPEG of at most SIDE pixels a side for each picture, and a third more for its being text. Memory: the file is
written as it comes about, and a few pictures are held at a time.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from itertools import islice
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from catdb.errors import DecoderFailed, ImageUnreadable
from catdb.images import Decoders
from catdb.images.find import explain, open_regular
from catdb.whole import replacing
from catdb.words import TIERS, closer, copied, count, percent, searched, shared, show

if TYPE_CHECKING:
    from catdb.duplicates import Duplicate, Duplicates, Group
    from catdb.images import Failure
    from catdb.query import Match, Result

SIDE = 320
"""Pixels of the longer side of a picture, at most."""

_TOGETHER = 64  # pictures made before they are written
_NAMED = 3  # images in a heading

Tell = Callable[[int, int], None]  # how many pictures are made, of how many
Picture = bytes | str  # a JPEG, or why there is none


@contextmanager
def report(path: str, title: str, database: str, *, now: float, jobs: int | None = None) -> Iterator[Report]:
    """Give a report to be filled, which becomes the file at ``path`` when the block is left without an error.

    ``database``: the path of what was asked; ``now``: when, in seconds since the epoch; ``jobs``: pictures made at
    once. Raises StorageError where it cannot be written, and DecoderFailed.
    """
    with (
        replacing(path) as stream,
        ThreadPoolExecutor(jobs or os.cpu_count()) as pool,
        Decoders() as decoders,  # left first: what is not made then is given up
    ):

        def pictures(paths: Sequence[str]) -> Iterator[Picture]:
            return pool.map(lambda path: _picture(decoders, path), paths)

        yield Report(stream, pictures, title, database, now)
        stream.write(b"</main>\n</body>\n</html>\n")


class Report:
    """An HTML file that is being written; see :func:`report`."""

    def __init__(
        self,
        stream: IO[bytes],
        pictures: Callable[[Sequence[str]], Iterator[Picture]],
        title: str,
        database: str,
        now: float,
    ) -> None:
        """``pictures`` makes those of the files at some paths."""
        self._stream, self._pictures = stream, pictures
        self._write(_head(title, database, now))

    def add_answer(self, result: Result, tell: Tell = lambda done, of: None) -> None:
        """Add the answer to a query: its picture and categories, what was searched, and its matches."""
        queries = list(filter(None, (result.query, *result.together)))
        away = list(filter(None, result.without))
        shown = self._shown([*queries, *away, *(match.path for match in result)], tell)
        self._write(f'<section class="answer">\n<h2>{_text(_heading(result))}</h2>\n<div class="query">\n')
        for number, (path, picture) in enumerate(islice(shown, len(queries) + len(away))):
            self._write(_figure(path, picture, away=number >= len(queries)))
        self._write(f"<div>\n{_categories(result)}{_paragraph(searched(result))}{_notes(result.notes)}</div>\n</div>\n")
        self._write('<ol class="grid">\n' if result.matches else '<p class="empty">no matches</p>\n')
        for match, (_, picture) in zip(result.matches, shown, strict=True):
            self._write(_match(result, match, picture))
        self._write("</ol>\n</section>\n" if result.matches else "</section>\n")

    def add_unanswered(self, query: Failure) -> None:
        """Add why a query has no answer."""
        name, path = _text(os.path.basename(query.path) or query.path), _text(query.path)
        self._write(f'<section class="answer">\n<h2>{name}</h2>\n<p class="path">{path}</p>\n')
        self._write(f'<p class="error">{_text(query.reason)}</p>\n</section>\n')

    def add_copies(self, found: Duplicates, tell: Tell = lambda done, of: None) -> None:
        """Add the groups of copies by tier, the one to keep first in each, and the files that could not be compared."""
        self._write(f"{_paragraph(copied(found))}{_notes(found.notes)}")
        shown = self._shown([image.path for group in found.groups for image in group.images], tell)
        for tier, name in TIERS.items():
            groups = [(number, group) for number, group in enumerate(found.groups, 1) if group.tier == tier]
            if groups:
                self._write(f"<h2>{_text(name.capitalize())} <small>{len(groups):,}</small></h2>\n")
            for number, group in groups:
                self._write(_group(number, group))
                for image, (_, picture) in zip(group.images, islice(shown, len(group.images)), strict=True):
                    self._write(_copy(image, picture, keep=image is group.images[0]))
                self._write("</ol>\n</section>\n")
        if found.unread:
            self._write(f"<h2>Not compared <small>{len(found.unread):,}</small></h2>\n<ul>\n")
            for failure in found.unread:
                self._write(f"<li>{_text(failure.path)}: {_text(failure.reason)}</li>\n")
            self._write("</ul>\n")

    def _shown(self, paths: Sequence[str], tell: Tell) -> Iterator[tuple[str, Picture]]:
        """Yield each path with its picture, some of which are made ahead."""
        for start in range(0, len(paths), _TOGETHER):
            some = paths[start : start + _TOGETHER]
            for number, (path, picture) in enumerate(zip(some, self._pictures(some), strict=True), start + 1):
                tell(number, len(paths))
                yield path, picture

    def _write(self, text: str) -> None:
        self._stream.write(text.encode())


def _picture(decoders: Decoders, path: str) -> Picture:
    try:
        with open_regular(path) as stream:
            return decoders.thumbnail(stream, SIDE)
    except DecoderFailed:  # of no picture in particular
        raise
    except ImageUnreadable as error:
        return str(error)
    except OSError as error:
        return explain(error)


# What is in the file.


def _head(title: str, database: str, now: float) -> str:
    style = files("catdb").joinpath("web", "page", "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(now))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(title)} · {when}</title>
<style>{style}</style>
</head>
<body>
<main class="report">
<h1>{_text(title)}</h1>
<p class="path">{_text(database)} · {when}</p>
"""


def _heading(result: Result) -> str:
    """Say in a line what was asked, the first of many images by name: all are shown below it, with their paths."""
    images = result.together or (result.query,)
    what = _first(images) if result.text is None else f'"{result.text}"'
    several = f"{count(len(images), 'image')} together: " if len(images) > 1 else ""
    return f"{several}{what}{f'; turned away from {_first(result.without)}' if result.without else ''}"


def _first(paths: Sequence[str | None]) -> str:
    """Name the first few of some images."""
    names = [os.path.basename(path) if path else "an image" for path in paths[:_NAMED]]
    return ", ".join([*names, "..."] if len(paths) > _NAMED else names)


def _categories(result: Result) -> str:
    chips = (
        f'<li class="chip">{_text(category.name)} <small>{percent(category.probability)}</small></li>\n'
        for category in result.categories
    )
    return f'<ul class="chips">\n{"".join(chips)}</ul>\n' if result.categories else ""


def _match(result: Result, match: Match, picture: Picture) -> str:
    percentile = closer(match.percentile, result.ceiling)
    both = shared(result, match)
    return (
        f'<li class="card">\n{_image(match.path, picture, f"match {match.rank}: ")}'
        f"<p><strong>{match.similarity:.4f}</strong> <small>{match.rank}</small></p>\n"
        f"{_paragraph(percentile)}{_paragraph(both)}{_place(match.path)}</li>\n"
    )


def _group(number: int, group: Group) -> str:
    freed = f"{count(len(group.images), 'image')}, {_size(group.freed)} could be freed"
    return f'<section class="group">\n<h3>{number}. <small>{freed}</small></h3>\n<ol class="grid">\n'


def _copy(image: Duplicate, picture: Picture, *, keep: bool) -> str:
    badge = '<strong class="keep">keep</strong> ' if keep else ""
    alike = "" if keep or image.similarity == 1 else f"alike {image.similarity:.3f}"
    more = f"and {image.copies:,} of a group above" if image.copies else ""
    size = f"{image.width:,} × {image.height:,}, {_size(image.bytes)}"
    return (
        f'<li class="card">\n{_image(image.path, picture, "keep: " if keep else "copy: ")}<p>{badge}{size}</p>\n'
        f"{_paragraph(alike)}{_paragraph(more)}{_place(image.path)}</li>\n"
    )


def _figure(path: str, picture: Picture, *, away: bool) -> str:
    image = _image(path, picture, "turned away from " if away else "query: ")
    label = "<p><strong>turned away from</strong></p>\n" if away else ""
    return f"<figure>\n{image}<figcaption>{label}{_place(path)}</figcaption>\n</figure>\n"


def _image(path: str, picture: Picture, role: str) -> str:
    """Show a picture that leads to its file, or say why there is none."""
    alt = _text(f"{role}{os.path.basename(path)}")
    if isinstance(picture, str):
        return f'<p class="missing" role="img" aria-label="{alt}: {_text(picture)}">{_text(picture)}</p>\n'
    data = base64.b64encode(picture).decode()
    return f'<a href="file://{quote(os.fsencode(path))}"><img src="data:image/jpeg;base64,{data}" alt="{alt}"></a>\n'


def _place(path: str) -> str:
    """Name a file. In a card a long line is cut short: its title is the whole path."""
    name, whole = _text(os.path.basename(path)), _text(path)
    return f'<p class="name" title="{whole}">{name}</p>\n<p class="path" title="{whole}">{whole}</p>\n'


def _paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>\n" if text else ""


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="note">{_text(note)}</p>\n' for note in notes)


def _size(count: int) -> str:
    """Return a number of bytes in the unit that leaves it two or three digits."""
    size, unit = float(count), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"


def _text(text: str) -> str:
    """Return what is text in HTML, and in a quoted attribute, whatever it holds."""
    return escape(show(text))
