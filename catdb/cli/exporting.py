"""``catdb export``: the catalog as a table for other programs, in a file or on stdout."""

from __future__ import annotations

import sys

import click

from catdb.cli.options import database, open_database, path_type
from catdb.cli.output import Bar, say
from catdb.cli.targets import require_no_image
from catdb.words import count, show


@click.command(short_help="Write a table of all images, as CSV or NPZ.")
@click.option("--csv", "csv_file", metavar="FILE", type=path_type, help="Write CSV; - is stdout.  [default: -]")
@click.option("--npz", "npz_file", metavar="FILE", type=path_type, help="Write arrays for numpy.load; - is stdout.")
@click.option("--vectors", is_flag=True, help="Include the vector of each image.")
@database
def export(csv_file: str | None, npz_file: str | None, vectors: bool, db: str | None) -> None:
    """Write a table of all images: path, size, and the four categories with their probabilities.

    The table is of a single moment, even while others write. An existing file is replaced only once the new one is
    complete.
    """
    if csv_file and npz_file:
        raise click.UsageError("--csv and --npz: one at a time")
    form, target = ("npz", npz_file) if npz_file else ("csv", csv_file or "-")
    if target == "-" and sys.stdout is None:
        raise click.UsageError("stdout is closed; name a file")
    if form == "npz" and target == "-" and sys.stdout.isatty():
        raise click.UsageError("--npz -: not to a terminal; name a file")
    with open_database(db, mode="r") as store, Bar() as bar:
        require_no_image(store, csv_file, npz_file)
        where = sys.stdout.buffer if target == "-" else target
        written = store.export(where, form=form, vectors=vectors, progress=bar)
    if target != "-":
        say(f"{show(target)}: {count(written, 'image')}")
