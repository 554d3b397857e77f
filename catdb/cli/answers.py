"""Answers to queries, as a person or a program wants them: lines, JSON, CSV, a contact sheet."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from catdb import shapes
from catdb.cli.output import Bar, say
from catdb.cli.targets import csv_file_of
from catdb.images import Failure
from catdb.images.sheet import Row, write_sheet
from catdb.query import Match, Result
from catdb.reconcile import Progress
from catdb.report import Report, Tell, report
from catdb.words import asked, closer, named, searched, shared, short, show

_MOST = 10  # images of one query that are named in a line


def print_answer(answer: Result | Failure, *, as_json: bool) -> None:
    """Print one answer on stdout; as JSON one object on a line, also for a query that could not be read."""
    if isinstance(answer, Failure):
        say(f"catdb: {show(answer.path)}: {show(answer.reason)}")
        if as_json:
            click.echo(json.dumps(shapes.of_unanswered(answer)))
        return
    for note in answer.notes:
        say(f"catdb: {show(note)}")
    if as_json:
        click.echo(json.dumps(shapes.of_result(answer)))
        return
    click.echo(f"{show(asked(answer, most=_MOST))}\n  {named(answer.categories)}")
    for match in answer:
        likeness = closer(match.percentile, answer.ceiling)
        line = [f"{match.rank:>4}  {match.similarity:.4f}", show(match.path), shared(answer, match)]
        click.echo("  ".join([*line, likeness] if likeness else line))
    click.echo(f"  {searched(answer)}{'; added' if answer.added else ''}")


@contextmanager
def told(
    database: str, *, as_json: bool, csv_file: str | None, sheet: str | None, html: str | None
) -> Iterator[Callable[[Result | Failure], None]]:
    """Give what tells an answer on stdout, and in files, which are there when the block is left without an error."""
    results: list[Result] = []
    with _csv_lines(csv_file) as write, _answers_page(html, database) as add:

        def tell(answer: Result | Failure) -> None:
            print_answer(answer, as_json=as_json)
            add(answer)
            if not isinstance(answer, Failure):
                write(answer)
                results.extend([answer] if sheet else [])

        yield tell
    if sheet:
        write_contact_sheet(sheet, results)
        say(f"contact sheet: {show(os.path.abspath(sheet))}")


@contextmanager
def _csv_lines(path: str | None) -> Iterator[Callable[[Result], None]]:
    """Give what writes an answer to a CSV file, a line per match: query, rank, similarity, path, shared categories."""
    if path is None:
        yield lambda result: None
        return
    with csv_file_of(path) as writer:
        writer.writerow(["query", "rank", "similarity", "path", "shared"])

        def write(result: Result) -> None:
            query = result.query or asked(result)
            for match in result:
                similarity = f"{match.similarity:.6f}"
                writer.writerow([query, match.rank, similarity, match.path, shared(result, match)])

        yield write


@contextmanager
def _answers_page(path: str | None, database: str) -> Iterator[Callable[[Result | Failure], None]]:
    """Give what adds an answer to an HTML file."""
    if path is None:
        yield lambda answer: None
        return
    with html_page(path, "Nearest images", database) as page:

        def add(answer: Result | Failure) -> None:
            if isinstance(answer, Failure):
                page.add_unanswered(answer)
            else:
                with drawing() as tell:
                    page.add_answer(answer, tell)

        yield add


@contextmanager
def html_page(path: str, title: str, database: str, *, jobs: int | None = None) -> Iterator[Report]:
    """Give a report to be filled, and say where it is when the block is left without an error."""
    with report(os.path.abspath(path), title, database, now=time.time(), jobs=jobs) as page:
        yield page
    say(f"page: {show(os.path.abspath(path))}")


@contextmanager
def drawing() -> Iterator[Tell]:
    """Give what tells on stderr how many pictures of a report are made."""
    with Bar() as bar:
        yield lambda done, of: bar(Progress("drawing", done, of, 0))


def write_contact_sheet(path: str, results: Sequence[Result]) -> None:
    """Write a picture that shows each query beside what was found."""
    rows = [
        Row(
            query=next(filter(None, (result.query, *result.together)), None),
            title="" if result.query else asked(result, most=_MOST),
            caption=f"{named(result.categories)}\n{searched(result)}",
            matches=[(match.path, _tile(match, result.ceiling)) for match in result],
        )
        for result in results
    ]
    write_sheet(os.path.abspath(path), rows)


def _tile(match: Match, ceiling: float | None) -> str:
    """Return what stands beneath a match, in 200 pixels."""
    percentile = short(match.percentile, ceiling)
    return f"{match.rank}  {match.similarity:.3f}" + (f"  ({percentile})" if percentile else "")
