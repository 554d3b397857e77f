"""The command ``catdb``: each command is a method of Database with a mouth. Only this room prints and exits."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import click

from catdb.cli.exporting import export
from catdb.cli.histogram import categories
from catdb.cli.inventory import failures, info
from catdb.cli.options import (
    Number,
    as_json,
    asking,
    building,
    database,
    following,
    jobs,
    open_database,
    path_type,
    running,
    waiting,
)
from catdb.cli.output import Bar, notice, report_troubles, say, summary
from catdb.cli.relocating import relocate
from catdb.cli.serving import serve
from catdb.errors import CatdbError
from catdb.words import count, show

if TYPE_CHECKING:
    from catdb.reconcile import Report

FAILED, SOME_FAILED, INTERRUPTED = 1, 3, 130
_WRITING = ("build", "add", "compact", "demo", "watch")


class _Commands(click.Group):
    """Turns expected errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which they are defined

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            raise  # click ends quietly
        except OSError as error:  # of --help and --version, which print while the words are parsed
            say(f"catdb: {error.strerror or error}")
            raise SystemExit(FAILED) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CatdbError as error:
            _fail(ctx, str(error))
        except BrokenPipeError:
            raise  # click ends quietly
        except OSError as error:
            name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
            _fail(ctx, f"{name}{error.strerror or error}")
        except KeyboardInterrupt:
            safe = "; what was committed is safe, the same command goes on from there"
            say(f"catdb: interrupted{safe if ctx.invoked_subcommand in _WRITING else ''}")
            ctx.exit(INTERRUPTED)


def _fail(ctx: click.Context, message: str) -> NoReturn:
    say(f"catdb: {show(message)}")
    ctx.exit(FAILED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="catdb", message="catdb %(version)s")
def cli() -> None:
    """Search your own images by image. catdb reads your images, and never changes, moves or copies them.

    \b
    Examples:
      catdb demo                   try it on example images first
      catdb build ~/Pictures       index a folder into ./.catdb, or update it
      catdb search boat.jpg        list the 10 images most like this one
      catdb search boat.jpg --html found.html    the same as a page with pictures
      catdb serve --open           search and browse in a web browser

    "catdb COMMAND --help" explains a command.
    """


@cli.command(short_help="Build the database from folders, or update it.")
@click.argument("folders", nargs=-1, type=path_type)
@database
@building
@running
@waiting
@as_json
@click.pass_context
def build(
    ctx: click.Context,
    /,
    folders: tuple[str, ...],
    db: str | None,
    backbone: str | None,
    weights: str | None,
    engine: str,
    precision: str,
    dimensions: int | None,
    store: str | None,
    wait: float,
    nice: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build the database from FOLDERS, or update it; without FOLDERS, update all that it knows.

    Adds new images, embeds changed ones again, follows moved ones and drops those that are gone. Run it again at any
    time. If there is no database yet, it makes one: ./.catdb, unless --db says otherwise.
    """
    if nice:
        os.nice(19)
    network = {"backbone": backbone, "weights": weights, "engine": engine, "precision": precision}
    with open_database(db, create=True, wait=wait, dimensions=dimensions, store=store, **network) as opened:
        if not folders and not os.path.exists(os.path.join(opened.path, "catalog.sqlite")):
            raise click.UsageError("there is no database yet: name the folders to build it from")
        with Bar() as bar:
            report = opened.build(*folders, progress=bar, **options)
    _finish(ctx, report, as_json)


@cli.command(short_help="Keep the database up to date until interrupted.")
@click.argument("folders", nargs=-1, type=path_type)
@database
@building
@following
@running
@waiting
@click.option("--json", "as_json", is_flag=True, help="Also print each change as a line of JSON on stdout.")
@click.pass_context
def watch(ctx: click.Context, /, folders: tuple[str, ...], db: str | None, as_json: bool, **options: Any) -> None:
    """Build the database, then keep it up to date with FOLDERS until interrupted; without FOLDERS, with all it knows.

    Meanwhile, any number of other processes may search it, and add and remove images.
    """
    from catdb.cli.watching import Signals, keep_in_step

    with Signals() as signals:
        ctx.exit(keep_in_step(signals, folders, db, as_json=as_json, **options))


@cli.command(short_help="Find the images most like an image.")
@click.argument("queries", metavar="[IMAGE|FOLDER]...", nargs=-1, type=path_type)
@database
@asking
@running
@as_json
@click.option("--csv", "csv_file", metavar="FILE", type=path_type, help="Also write the matches as CSV.")
@click.option("--sheet", metavar="FILE.png", type=path_type, help="Also write a contact sheet.")
@click.option("--html", metavar="FILE", type=path_type, help="Also write a web page to keep or send.")
@click.pass_context
def search(ctx: click.Context, /, queries: tuple[str, ...], db: str | None, **options: Any) -> None:
    """Find the images most like each IMAGE, and each image in a FOLDER.

    With --together, find the images most like all of them at once; with --text, those typical of the categories that
    the words name. Give at most one of --probes, --recall and --exact, which say how far to search.

    Each match also says what share of random pairs of images in this database are less alike.
    """
    from catdb.cli.searching import ask

    if bool(queries) == (options["text"] is not None):
        raise click.UsageError("name the images to search with, or else give a --text")
    outputs = {name: options.pop(name) for name in ("as_json", "csv_file", "sheet", "html")}
    ctx.exit(ask(queries, db, outputs=outputs, **options))


@cli.command(short_help="Measure how much searches find of what an exact one does.")
@database
@click.option("--sample", metavar="N", type=click.IntRange(1), default=1000, help="How many images to search with.")
@click.option("-k", metavar="N", type=click.IntRange(1), default=10, help="How many nearest images to look for.")
@as_json
@click.option("--plot", metavar="FILE.png", type=path_type, help="Also draw recall over the share of images searched.")
def recall(db: str | None, sample: int, k: int, as_json: bool, plot: str | None) -> None:
    """Measure, on your own images, how much each kind of search finds, and how much it searches for that.

    The kinds are the default, fewer and more --probes, and several --recall targets.
    """
    from catdb.cli.recalling import report

    report(db, sample, k, as_json=as_json, plot=plot)


@cli.command(short_help="Explain how alike two images are, and who finds whom.")
@click.argument("a", type=path_type)
@click.argument("b", type=path_type)
@database
@running
@as_json
def why(a: str, b: str, db: str | None, as_json: bool, **options: Any) -> None:
    """Explain how alike images A and B are, which shards they share, and whether a search with one finds the other.

    They need not be in the database; one that is not costs a pass through the network.
    """
    from catdb.cli.searching import explain

    explain(a, b, db, as_json=as_json, **options)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=path_type)
@database
@running
@waiting
@click.pass_context
def add(ctx: click.Context, /, paths: tuple[str, ...], db: str | None, **options: Any) -> None:
    """Add files and folders, and take back removed ones."""
    with open_database(db, create=True, **options) as store, Bar() as bar:
        report = store.add(paths, progress=bar)
    _finish(ctx, report, as_json=False)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=path_type)
@database
@waiting
def remove(paths: tuple[str, ...], db: str | None, wait: float) -> None:
    """Remove images or folders from the database.

    The files stay where they are. Later builds leave them out until you add them again.
    """
    with open_database(db, wait=wait) as store:
        removed = store.remove(paths)
        click.echo(f"{removed:,} removed; {count(len(store), 'image')}")


cli.add_command(info)
cli.add_command(categories)
cli.add_command(failures)


@cli.command(short_help="List images that are copies of one another.")
@click.argument("paths", metavar="[PATH PATH...]", nargs=-1, type=path_type)
@database
@click.option(
    "--similarity",
    metavar="S",
    type=Number(0, 1, min_open=True),
    default=0.93,
    help="How similar the least similar part of a near copy must be.",
)
@click.option("--mark-distinct", is_flag=True, help="Remember that the images at PATH PATH... are not copies.")
@jobs
@click.option("--csv", "csv_file", metavar="FILE", type=path_type, help="Also write a line for each image as CSV.")
@click.option("--html", metavar="FILE", type=path_type, help="Also write a web page to keep or send.")
@waiting
@as_json
@click.pass_context
def duplicates(
    ctx: click.Context,
    paths: tuple[str, ...],
    db: str | None,
    similarity: float,
    mark_distinct: bool,
    jobs: int | None,
    csv_file: str | None,
    html: str | None,
    wait: float,
    as_json: bool,
) -> None:
    """List groups of copies: same bytes; same pixels; or re-encoded, resized or slightly cropped.

    In each group the one to keep comes first: the one with the most pixels, then the oldest file. Nothing is deleted.
    """
    from catdb.cli import copies

    if mark_distinct and (len(set(map(os.path.abspath, paths))) < 2 or csv_file or html):
        raise click.UsageError("--mark-distinct takes two images or more, and no --csv or --html")
    if paths and not mark_distinct:
        raise click.UsageError("paths are for --mark-distinct; the whole database is looked through")
    if mark_distinct:
        copies.mark_distinct(db, paths, wait=wait, as_json=as_json)
    elif not copies.list_duplicates(
        db, similarity=similarity, jobs=jobs, as_json=as_json, csv_file=csv_file, html=html
    ):
        ctx.exit(SOME_FAILED)


@cli.command()
@database
@click.option("--repair", is_flag=True, help="First rebuild damaged shards from the catalog.")
@waiting
@as_json
@click.pass_context
def check(ctx: click.Context, db: str | None, repair: bool, wait: float, as_json: bool) -> None:
    """Verify the catalog, every shard and every vector."""
    with open_database(db, mode="a" if repair else "r", wait=wait) as store:
        found = store.check(repair=repair)
    if as_json:
        problems = [dataclasses.asdict(problem) for problem in found.problems]
        lists = {"leftovers": list(found.leftovers), "repaired": list(found.repaired)}
        click.echo(json.dumps({"ok": found.ok, "problems": problems, **lists}))
    else:
        for line in found.repaired:
            say(f"catdb: {line}")
        for problem in found.problems:
            click.echo(f"{problem.kind}: {show(problem.where)}: {show(problem.detail)}")
        remedy = " left" if repair else "; catdb check --repair"
        click.echo("all is well" if found.ok else f"{count(len(found.problems), 'problem')}{remedy}")
    ctx.exit(0 if found.ok else FAILED)


@cli.command(short_help="Write all waiting images into their shards.")
@database
@click.option("--refit", is_flag=True, help="First learn again how to shorten vectors (see build --dimensions).")
@waiting
@as_json
def compact(db: str | None, refit: bool, wait: float, as_json: bool) -> None:
    """Write all waiting images into their shards, and drop removed ones from them.

    A build leaves few of either, and they cost a search little time and no accuracy. If interrupted, run it again.
    """
    with open_database(db, wait=wait) as store, Bar() as bar:
        written = store.compact(refit=refit, progress=bar)
    if as_json:
        click.echo(json.dumps({"shards": written}))
        return
    click.echo(
        f"{count(written, 'shard')} written" if written else "0 shards written: all images are in their shards already"
    )


@cli.command(short_help="Copy the database to a new folder.")
@click.argument("target", metavar="DIR", type=path_type)
@click.option(
    "--link", is_flag=True, help="Hard-link the shards instead of copying them: fast and small, same disk only."
)
@database
@as_json
def backup(target: str, link: bool, db: str | None, as_json: bool) -> None:
    """Copy the database to DIR, even while others write to it.

    DIR must be new or empty, or hold what an interrupted backup left. The copy is of a single moment, and verified; it
    becomes a database only once it is complete. The images are not copied. An existing backup is never replaced: make
    a new one beside it, then delete the old one.
    """
    with open_database(db, mode="r") as store, Bar() as bar:
        done = store.backup(target, link=link, progress=bar)
    for category in done.damaged:
        notice(f"the shard of {category} is damaged: made anew in the backup; run catdb check --repair here")
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(done), "seconds": round(done.seconds, 3)}))
        return
    linked = f" ({done.linked:,} linked)" if done.linked else ""
    held = f"{count(done.images, 'image')}, {count(done.shards, 'shard')}{linked}, {count(done.bytes, 'byte')}"
    click.echo(f"{show(done.path)}: {held} ({done.seconds:.1f} s)")


cli.add_command(export)
cli.add_command(relocate)
cli.add_command(serve)


@cli.command(short_help="Try catdb on example images, or on your own.")
@click.argument("folder", required=False, type=path_type)
@database
@click.pass_context
def demo(ctx: click.Context, folder: str | None, db: str | None) -> None:
    """Build a database and search it: on rendered example images, or on your own FOLDER, whose database is kept."""
    from catdb.cli.demo import on_examples, on_folder

    ctx.exit(on_folder(folder, db) if folder else on_examples())


def _finish(ctx: click.Context, report: Report, as_json: bool) -> None:
    """Print what a build did and leave with its exit code."""
    report_troubles(report)
    if as_json:
        fields = {
            name: getattr(report, name) for name in ("added", "changed", "moved", "removed", "unchanged", "total")
        }
        failed = [{"path": failure.path, "reason": failure.reason} for failure in report.failed]
        kept = [{"path": kept.path, "images": kept.images} for kept in report.kept]
        click.echo(json.dumps({**fields, "failed": failed, "kept": kept, "seconds": round(report.seconds, 3)}))
    else:
        click.echo(summary(report))
    ctx.exit(SOME_FAILED if report.failed else 0)


def main() -> None:
    """Run the command line."""
    warnings.filterwarnings("ignore", module="PIL")  # of metadata that it cannot read; the images are fine
    for stream in (sys.stdout, sys.stderr):  # a name must never end the program because of a terminal's encoding
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    cli.main(prog_name="catdb")
