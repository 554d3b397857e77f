"""``catdb demo``: build, search three images, show what was found and where it lies."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from catdb.backbones import DEFAULT
from catdb.cli.answers import print_answer, write_contact_sheet
from catdb.cli.options import nearest
from catdb.cli.output import Bar, notice, program, report_troubles, say, summary
from catdb.database import Database
from catdb.errors import WeightsNotFound
from catdb.images import Failure
from catdb.images.scenes import queries, render
from catdb.query import Result
from catdb.words import show

_MATCHES = 10


def on_examples() -> int:
    """Render the example collection into a temporary place and show the round trip; return the exit code."""
    place = Path(tempfile.mkdtemp(prefix="catdb-demo-"))
    say("catdb: rendering example images")
    render(place / "images")
    asked = queries(place / "queries")
    store, _ = _built(str(place / "demo.catdb"), str(place / "images"))
    with store:
        _show(store, [str(path) for path in asked], str(place / "contact-sheet.png"))
    click.echo(f"\nimages and database: {show(str(place))}")
    click.echo(f"next: try it on your own images:  {program()} demo FOLDER")
    return 0


def on_folder(folder: str, db: str | None) -> int:
    """Build (or bring in step) a person's own folder and show the round trip; the database is kept."""
    path = os.path.abspath(db or nearest() or ".catdb")
    store, failed = _built(path, folder)
    with store:
        count = len(store)
        if not count:
            say(f"catdb: {show(folder)}: no image could be indexed")
            return 1
        places = {count * part // 6 for part in (1, 3, 5)}
        chosen = [image for number, image in enumerate(store) if number in places]
        _show(store, chosen, os.path.join(path, "contact-sheet.png"))
    click.echo(f"\ndatabase: {show(path)}")
    click.echo(f"next:  {program()} search --db {show(shlex.quote(path))} IMAGE")
    return 3 if failed else 0


def _built(path: str, folder: str) -> tuple[Database, int]:
    """Return a database of the folder, with the default network where its weights can be had, else classic; and how
    many files failed."""
    store = Database(path, notice=notice)
    try:
        with Bar() as bar:
            report = store.build(folder, progress=bar)
    except WeightsNotFound:
        if len(store):
            raise  # an existing database keeps to its own network
        notice(f"the weights of {DEFAULT} cannot be had here, so this demo uses 'classic', which needs none")
        store = Database(path, backbone="classic", notice=notice)
        with Bar() as bar:
            report = store.build(folder, progress=bar)
    report_troubles(report)
    click.echo(f"built: {summary(report)}\n")
    return store, len(report.failed)


def _show(store: Database, asked: Sequence[str], sheet: str) -> None:
    results: list[Result] = []
    for answer in store.search_many(asked, k=_MATCHES):
        print_answer(answer, as_json=False)
        if not isinstance(answer, Failure):
            results.append(answer)
    write_contact_sheet(sheet, results)
    click.echo(f"\ncontact sheet: {show(sheet)}")
