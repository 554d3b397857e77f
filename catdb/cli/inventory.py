"""``catdb info`` and ``catdb failures``: what the database is and holds, and which files it could not read."""

from __future__ import annotations

import json
import time

import click

from catdb import shapes
from catdb.cli.options import as_json, database, open_database
from catdb.words import count, show


@click.command()
@database
@as_json
def info(db: str | None, as_json: bool) -> None:
    """Show what the database is and holds."""
    with open_database(db, mode="r") as store:
        found = store.info()
    if as_json:
        click.echo(json.dumps(shapes.of_info(found)))
        return
    weights = f", weights {found.weights_sha256[:12]}" if found.weights_sha256 else ""
    held = f"{count(found.images, 'image')} in {count(found.categories, 'category')}, {count(found.bytes, 'byte')}"
    click.echo(f"{show(found.path)}: {held}")
    click.echo(f"backbone {found.backbone}{weights}, {found.dimension} dimensions ({found.engine}, {found.precision})")
    if found.dimensions:
        when = "" if found.shortened else ", once there are enough images to learn how"
        click.echo(f"shards hold vectors shortened to {count(found.dimensions, 'dimension')}{when}")
    if found.store == "int8":
        click.echo("shards hold int8 numbers, and what is found by those is compared again by whole vectors")
    if found.weights_sha256:
        click.echo(f"converted network: {show(found.cache) if found.cache else 'none here, made when first needed'}")
    waiting = "waits" if found.pending == 1 else "wait"
    pending, failed = count(found.pending, "membership"), count(found.failed, "file")
    click.echo(f"{pending} {waiting} to be folded, {failed} could not be read")
    click.echo(f"watched by {show(found.watcher)}" if found.watcher else "not watched")
    for root in found.roots:
        kind = "" if root.whole else " (single files only)"
        state = "online " if root.online else "offline"
        click.echo(f"{state}  {_when(root.reconciled):<30}  {count(root.images, 'image'):>15}  {show(root.path)}{kind}")
    for glob in found.excludes:
        click.echo(f"excluded: {show(glob)}")


@click.command()
@database
@as_json
def failures(db: str | None, as_json: bool) -> None:
    """List the files and folders that could not be read, and why.

    A build tries a file again when it has changed, and a folder every time.
    """
    with open_database(db, mode="r") as store:
        found = store.failures()
    if as_json:
        click.echo(json.dumps(shapes.of_failures(found)))
    for failure in [] if as_json else found:
        click.echo(f"{show(failure.path)}: {show(failure.reason)}")


def _when(reconciled: float | None) -> str:
    """Say when a folder was last looked through, in local time."""
    if reconciled is None:
        return "never reconciled"
    return f"reconciled {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(reconciled))}"
