"""``catdb relocate``: a moved disk, in one command."""

from __future__ import annotations

import dataclasses
import json

import click

from catdb.cli.options import as_json, database, open_database, path_type, waiting
from catdb.cli.output import Bar
from catdb.words import count, show


@click.command(short_help="Tell the database that folders have moved.")
@click.argument("old", type=path_type)
@click.argument("new", type=path_type)
@database
@waiting
@as_json
def relocate(old: str, new: str, db: str | None, wait: float, as_json: bool) -> None:
    """Tell the database that OLD has moved to NEW, with all of its folders at or below OLD.

    First, up to 20 images of each folder are compared by content. If more than one in ten is not the same in the new
    place, nothing is changed. The next build looks through NEW without a network pass.
    """
    with open_database(db, wait=wait) as store, Bar() as bar:
        moved = store.relocate(old, new, progress=bar)
    if as_json:
        click.echo(json.dumps({"moved": [dataclasses.asdict(folder) for folder in moved]}))
    for folder in [] if as_json else moved:
        same = f"{folder.same:,} of {folder.sampled:,} sampled {'is' if folder.same == 1 else 'are'} the same"
        click.echo(f"{show(folder.source)} -> {show(folder.path)}: {count(folder.images, 'image')} ({same})")
