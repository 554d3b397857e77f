"""Options that several commands share, and where the database is when none is named."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from catdb.cli.output import notice

if TYPE_CHECKING:
    from catdb.database import Database

_NAME = ".catdb"
Command = Callable[..., Any]


class Number(click.FloatRange):
    """A number in a range. "nan" is in none, but no comparison says so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or fail as click does."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


path_type = click.Path(path_type=str, readable=False)  # a closed one is told of like any other that cannot be read
database = click.option(
    "--db",
    metavar="DIR",
    envvar="CATDB_DB",
    type=path_type,
    help="The database directory.",
    show_default="$CATDB_DB, else the nearest .catdb from here upwards",
)
waiting = click.option(
    "--wait",
    metavar="SECONDS",
    type=Number(0),
    default=10,
    help="How long to wait while another process is writing.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")

jobs = click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(1),
    help="How many images to decode at once.",
    show_default="all cores",
)


def _with(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options, which help lists in the order in which they stand here."""
    for option in reversed(options):
        command = option(command)
    return command


def building(command: Command) -> Command:
    """Add the options of a command that builds."""
    return _with(
        command,
        click.option(
            "--exclude",
            metavar="GLOB",
            multiple=True,
            help="Leave out files and folders that match, now and later. Can be repeated.",
        ),
        click.option(
            "--include", metavar="GLOB", multiple=True, help="Undo an earlier --exclude GLOB. Can be repeated."
        ),
        click.option(
            "--prune",
            is_flag=True,
            help="Drop the images of folders that seem to be away: missing, or more than half gone.",
        ),
        click.option(
            "--backbone", metavar="NAME", help="The network of a new database.  [default: inception_resnet_v2]"
        ),
        click.option(
            "--weights",
            metavar="FILE",
            type=path_type,
            help="The weights of its network.",
            show_default="$CATDB_WEIGHTS, else Keras' cache or download",
        ),
        click.option(
            "--dimensions",
            metavar="D",
            type=click.IntRange(1),
            help="Shorten the vectors that a new database searches to D numbers, for less disk and memory.",
            show_default="not shortened",
        ),
        click.option(
            "--store",
            metavar="TYPE",
            type=click.Choice(["float16", "int8"]),
            help="Numbers that a new database searches: float16, or int8 in half the space.  [default: float16]",
        ),
        jobs,
        click.option("--nice", is_flag=True, help="Run at the lowest priority, so that other programs go first."),
    )


def following(command: Command) -> Command:
    """Add the options that say how a watch learns of changes, and what it tells of them."""
    return _with(
        command,
        click.option(
            "--rescan",
            metavar="MINUTES",
            type=Number(0, min_open=True),
            default=10,
            help="How often to look through everything, whatever file events say.",
        ),
        click.option("--poll", is_flag=True, help="Look through everything every few seconds, without file events."),
        click.option(
            "--alert",
            metavar="SIMILARITY",
            type=Number(0, 1),
            help="For each new image, list the images that are at least this similar.",
        ),
    )


def asking(command: Command) -> Command:
    """Add the options that say what is asked, how much is to be returned, and how far to look."""
    return _with(
        command,
        click.option(
            "-k",
            metavar="N",
            type=click.IntRange(1),
            default=10,
            help="How many matches to find for each query.",
        ),
        click.option(
            "--probes",
            metavar="N",
            type=click.IntRange(1),
            help="Search this many categories.",
            show_default="the query's own 4",
        ),
        click.option(
            "--recall",
            metavar="SHARE",
            type=Number(0, 1, min_open=True),
            help="Search as far as it takes to find this share of the 10 nearest images, such as 0.95.",
        ),
        click.option("--exact", is_flag=True, help="Compare with every image."),
        click.option("--category", metavar="NAME", help="Return only images of this category; search all of them."),
        click.option("--under", metavar="FOLDER", type=path_type, help="Return only images in this folder and below."),
        click.option(
            "--min-similarity", metavar="S", type=Number(-1, 1), help="Return only images at least this similar."
        ),
        click.option("--together", is_flag=True, help="Take all images as one query: what they have in common."),
        click.option(
            "--without",
            metavar="IMAGE",
            multiple=True,
            type=path_type,
            help="Steer the search away from this image. Can be repeated.",
        ),
        click.option("--text", metavar="WORDS", help="Search by the names of categories instead of by image."),
        click.option("--add", is_flag=True, help="Add the query images to the database before searching."),
    )


def running(command: Command) -> Command:
    """Add the options of a command that may run a network."""
    return _with(
        command,
        click.option(
            "--engine",
            metavar="NAME",
            type=click.Choice(["auto", "openvino", "tensorflow"]),
            default="auto",
            help="What runs the network: openvino, tensorflow, or auto: openvino, else tensorflow.",
        ),
        click.option(
            "--precision",
            metavar="TYPE",
            type=click.Choice(["auto", "f32", "bf16"]),
            default="auto",
            help="What the network computes in: f32, bf16, or auto: the database's own, else bf16 if native.",
        ),
    )


def nearest() -> str | None:
    """Return the nearest ``.catdb`` from the current directory upwards."""
    folder = os.getcwd()
    while True:
        if os.path.isdir(os.path.join(folder, _NAME)):
            return os.path.join(folder, _NAME)
        if folder == os.path.dirname(folder):
            return None
        folder = os.path.dirname(folder)


def open_database(db: str | None, *, create: bool = False, **options: Any) -> Database:
    """Open the database that was named, or the nearest; a new one only where ``create`` allows it."""
    from catdb.database import Database
    from catdb.errors import DatabaseNotFound

    if db == "":  # of a shell variable that is not set: another database must not be taken for the one that was meant
        raise click.UsageError("--db is empty: name the database directory, or leave --db out")
    path = db or nearest()
    if path is None and not create:
        raise DatabaseNotFound("there is no .catdb here or above: name one with --db, or make one with catdb build")
    path = path or _NAME
    if not create and not os.path.exists(os.path.join(path, "catalog.sqlite")):
        raise DatabaseNotFound(f"{path}: there is no database here; catdb build makes one")
    return Database(path, notice=notice, **options)
