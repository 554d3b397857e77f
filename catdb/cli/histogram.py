"""``catdb categories``: which categories hold how many images, as bars where a person looks at them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from catdb import shapes
from catdb.cli.options import as_json, database, open_database
from catdb.words import percent, show

if TYPE_CHECKING:
    from catdb.database import CategoryInfo

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LONGEST = 32  # characters of a name before a bar
_LEAST = 8  # characters below which a bar says nothing


@click.command(short_help="List the categories, or the images in one.")
@click.argument("name", required=False)
@database
@as_json
def categories(name: str | None, db: str | None, as_json: bool) -> None:
    """List the categories that hold images; with NAME (or an id), list the images in one, the most probable first.

    On a terminal, each category has a bar. Elsewhere, each line holds the count, the id and the name.
    """
    with open_database(db, mode="r") as store:
        if name is None:
            found = store.categories()
            if as_json:
                click.echo(json.dumps(shapes.of_categories(found)))
                return
            for line in _lines(found):
                click.echo(line)
            return
        images = store.category(name)
    if as_json:
        click.echo(json.dumps(shapes.of_category(images)))
    for path, share in [] if as_json else images:
        click.echo(f"{percent(share):>6}  {show(path)}")


def _lines(found: Sequence[CategoryInfo]) -> Iterator[str]:
    """Yield a line for each category, with a bar where there is a terminal that is wide enough for it."""
    names = [show(category.name) for category in found]
    longest = min(max(map(len, names), default=0), _LONGEST)
    fullest = max((category.images for category in found), default=1)
    wide = max((len(category.id) for category in found), default=0)
    room = shutil.get_terminal_size().columns - longest - wide - 8 - 6 - 1
    terminal = sys.stdout is not None and sys.stdout.isatty()
    drawn, in_blocks = terminal and room >= _LEAST, _can_show(_EIGHTHS)
    for category, name in zip(found, names, strict=True):
        if not drawn:
            yield f"{category.images:>8,}  {category.id}  {name}"
            continue
        short = name if len(name) <= longest else name[:longest]
        drawing = bar(category.images, fullest, room, in_blocks=in_blocks)
        yield f"{category.images:>8,}  {category.id:<{wide}}  {short:<{longest}}  {drawing}"


def bar(count: int, fullest: int, width: int, *, in_blocks: bool) -> str:
    """Return a bar for ``count``, ``width`` characters long for ``fullest``, and never nothing for something."""
    if not in_blocks:
        return "#" * max(count * width // fullest, 1)
    eighths = max(count * width * 8 // fullest, 1)
    return (_EIGHTHS[-1] * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _can_show(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True
