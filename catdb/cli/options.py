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
    help="The database directory. Default: $CATDB_DB, else the nearest .catdb from here upwards.",
)
waiting = click.option(
    "--wait",
    metavar="SECONDS",
    type=Number(0),
    default=10.0,
    help="How long to wait for another process that is writing [10].",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def building(command: Command) -> Command:
    """Add the options of a command that builds."""
    for option in (
        click.option("--backbone", metavar="NAME", help="The network of a new database [inception_resnet_v2]."),
        click.option("--weights", metavar="FILE", type=path_type, help="Its weights file, instead of Keras' download."),
        click.option(
            "--dimensions",
            metavar="D",
            type=click.IntRange(1),
            help="Have a new database search vectors shortened to D, for less disk and memory [whole ones].",
        ),
        click.option(
            "--store",
            type=click.Choice(["float16", "int8"]),
            help="Numbers that a new database searches: int8 takes half the disk and memory [float16].",
        ),
        click.option("--exclude", metavar="GLOB", multiple=True, help="Leave out what matches; remembered."),
        click.option("--include", metavar="GLOB", multiple=True, help="Take a remembered --exclude GLOB back."),
        click.option("--prune", is_flag=True, help="Drop the images of folders that seem to be away."),
        click.option("--nice", is_flag=True, help="Leave the machine to others: lowest priority."),
        click.option("-j", "--jobs", metavar="N", type=click.IntRange(1), help="Images decoded at once [all cores]."),
    ):
        command = option(command)
    return command


def asking(command: Command) -> Command:
    """Add the options that say what is asked, how much is to be returned, and how far to look."""
    for option in reversed(
        (
            click.option("-k", metavar="N", type=click.IntRange(1), default=10, help="Matches of each query [10]."),
            click.option("--probes", metavar="N", type=click.IntRange(1), help="Categories to search [its own 4]."),
            click.option(
                "--recall",
                metavar="SHARE",
                type=Number(0, 1, min_open=True),
                help="Instead, as far as it takes to find this share of the 10 nearest: 0.95 for instance.",
            ),
            click.option("--exact", is_flag=True, help="Compare with every image."),
            click.option("--category", metavar="NAME", help="Only images of this category, all of them."),
            click.option("--under", metavar="FOLDER", type=path_type, help="Only images in this folder and below."),
            click.option("--min-similarity", metavar="S", type=Number(-1, 1), help="No image that is less alike."),
            click.option("--together", is_flag=True, help="Take all images as one query: what they have in common."),
            click.option(
                "--without",
                metavar="IMAGE",
                multiple=True,
                type=path_type,
                help="Turn away from this image.",
            ),
            click.option("--text", metavar="WORDS", help="Search by the names of categories instead of an image."),
            click.option("--add", is_flag=True, help="Have the images join the database as well, first."),
        )
    ):
        command = option(command)
    return command


def running(command: Command) -> Command:
    """Add the options of a command that may run a network."""
    engines, precisions = click.Choice(["auto", "openvino", "tensorflow"]), click.Choice(["auto", "f32", "bf16"])
    command = click.option(
        "--precision", type=precisions, default="auto", help="Numbers to compute in [bf16 if native]."
    )(command)
    return click.option("--engine", type=engines, default="auto", help="What runs the network [openvino].")(command)


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
