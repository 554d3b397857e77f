"""``catdb duplicates``: groups of copies as lines, JSON or CSV, and which images are none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from catdb import shapes
from catdb.cli.answers import drawing, html_page
from catdb.cli.options import open_database
from catdb.cli.output import Bar, say
from catdb.cli.targets import csv_file_of, require_no_image, require_target
from catdb.words import TIERS, copied, count, show

if TYPE_CHECKING:
    from catdb.duplicates import Duplicate, Duplicates


def list_duplicates(
    db: str | None, *, similarity: float, jobs: int | None, as_json: bool, csv_file: str | None, html: str | None
) -> bool:
    """Find and print the groups of copies; return whether every file that was looked at could be read."""
    for target in filter(None, (csv_file, html)):
        require_target(target)
    with open_database(db, mode="r") as store, Bar() as bar:
        require_no_image(store, csv_file, html)
        found = store.duplicates(similarity=similarity, jobs=jobs, progress=bar)
    for note in found.notes:
        say(f"catdb: {note}")
    for failure in found.unread:
        say(f"not compared: {show(failure.path)}: {show(failure.reason)}")
    if csv_file:
        _write_csv(csv_file, found)
    if html:
        with html_page(html, "Copies", store.path, jobs=jobs) as page, drawing() as tell:
            page.add_copies(found, tell)
    if as_json:
        click.echo(json.dumps(shapes.of_duplicates(found)))
    else:
        _print(found)
    return not found.unread


def mark_distinct(db: str | None, paths: tuple[str, ...], *, wait: float, as_json: bool) -> None:
    """Remember that images are no duplicates of one another."""
    with open_database(db, wait=wait) as store:
        marked = store.mark_distinct(*paths)
    click.echo(json.dumps({"marked": marked}) if as_json else f"{count(marked, 'pair')} marked as distinct")


def _print(found: Duplicates) -> None:
    for number, group in enumerate(found.groups, 1):
        freed = count(group.freed, "byte")
        click.echo(f"{number}. {TIERS[group.tier]}: {count(len(group.images), 'image')}, {freed} could be freed")
        for image in group.images:
            click.echo(_line(image, keep=image is group.images[0]))
    click.echo(copied(found))


def _line(image: Duplicate, *, keep: bool) -> str:
    size = f"{image.width}x{image.height}"
    alike = "" if keep or image.similarity == 1 else f"  {image.similarity:.3f}"
    more = f"  (and {image.copies} of a group above)" if image.copies else ""
    return f"  {'keep' if keep else '    '}  {size:>11}  {image.bytes:>12,}  {show(image.path)}{alike}{more}"


def _write_csv(path: str, found: Duplicates) -> None:
    with csv_file_of(path) as writer:
        writer.writerow(["group", "tier", "keep", "path", "width", "height", "bytes", "similarity"])
        for number, group in enumerate(found.groups, 1):
            for image in group.images:
                keep = "yes" if image is group.images[0] else "no"
                size = (image.width, image.height, image.bytes)
                writer.writerow([number, group.tier, keep, image.path, *size, f"{image.similarity:.4f}"])
