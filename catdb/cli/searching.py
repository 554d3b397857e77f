"""``catdb search`` and ``catdb why``: from what was typed to what is asked, and from the answers to what is shown."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from catdb.backbones import PER_IMAGE
from catdb.cli.answers import told
from catdb.cli.options import open_database
from catdb.cli.targets import require_no_image, require_target
from catdb.errors import ImageUnreadable
from catdb.images import Failure, Unlisted, find
from catdb.roots import absolute
from catdb.words import closer, count, named, show

if TYPE_CHECKING:
    from catdb.database import Database
    from catdb.query import Result
    from catdb.why import Finding, Side, Why

_SOME_FAILED = 3


def ask(
    paths: Sequence[str], db: str | None, *, outputs: dict[str, Any], engine: str, precision: str, **asked: Any
) -> int:
    """Do what ``catdb search`` does and return its exit code. Raises as the searches of Database do.

    ``outputs``: the options of :func:`catdb.cli.answers.told`.
    """
    sheet = outputs["sheet"]
    if sheet and os.path.splitext(sheet)[1].lower() not in ("", ".png", ".jpg", ".jpeg"):
        raise click.UsageError(f"--sheet {show(sheet)}: a contact sheet is written as .png or .jpg")
    if asked["text"] is not None and (asked["together"] or asked["add"]):
        raise click.UsageError("--together and --add are for images, not for --text")
    far = [f"--{name}" for name in ("probes", "recall", "exact") if asked[name]]
    if len(far) > 1:
        raise click.UsageError(f"{' and '.join(far)}: each says how far to search, so give only one of them")
    asked["probes"] = asked["probes"] or PER_IMAGE
    targets = (outputs["csv_file"], sheet, outputs["html"])
    for target in filter(None, targets):
        require_target(target)
    unlisted: list[Failure] = []
    answered = failed = 0
    mode = "a" if asked["add"] else "r"
    with open_database(db, mode=mode, engine=engine, precision=precision) as store:
        require_no_image(store, *targets)
        with told(store.path, **outputs) as tell:
            for answer in _answers(store, _queries(paths, unlisted), **asked):
                tell(answer)
                answered += 1
                failed += isinstance(answer, Failure)
            for folder in unlisted:
                tell(folder)
            if not answered and not unlisted:
                raise ImageUnreadable(f"no image to search with in {', '.join(paths)}")
    return _SOME_FAILED if failed or unlisted else 0


def _answers(
    store: Database, queries: Iterator[str], *, text: str | None, together: bool, add: bool, **options: Any
) -> Iterator[Result | Failure]:
    """Yield the answers: to words, to all images together, or to each."""
    if text is not None:
        yield store.search_text(text, **options)
    elif together:
        images = list(queries)
        if images:
            yield _answer_together(store, images, add=add, **options)
    else:
        yield from store.search_many(queries, add=add, **options)


def _answer_together(store: Database, images: Sequence[str], **options: Any) -> Result | Failure:
    """Return the answer to images that are one query, or the Failure of one of them that cannot be read.

    Raises ImageUnreadable where it is one to be without.
    """
    try:
        return store.search_together(images, **options)
    except ImageUnreadable as error:
        if error.path not in map(absolute, images):
            raise
        return Failure(error.path, error.reason)


def _queries(paths: Sequence[str], unlisted: list[Failure]) -> Iterator[str]:
    """Yield the query images: files as they are named, and the images found in folders."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for found in find(path):
            if isinstance(found, Unlisted):
                unlisted.append(found)
            else:
                yield found.path


def explain(a: str, b: str, db: str | None, *, as_json: bool, engine: str, precision: str) -> None:
    """Do what ``catdb why`` does."""
    with open_database(db, mode="r", engine=engine, precision=precision) as store:
        found = store.why(a, b)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
        return
    for name, side in (("A", found.a), ("B", found.b)):
        click.echo(f"{name}  {show(side.path)}")
        click.echo(f"   {named(side.categories)}" if side.categories else f"   cannot be compared: {show(side.detail)}")
        if side.categories and side.detail:
            click.echo(f"   {side.state}: {show(side.detail)}")
    for line in _reasons(found):
        click.echo(show(line))


def _reasons(found: Why) -> Iterator[str]:
    if found.similarity is None:
        return
    yield ", ".join(filter(None, (f"cosine {found.similarity:.4f}", closer(found.percentile, found.ceiling))))
    both = ", ".join(category.name for category in found.shared)
    if not found.shared:
        yield "they meet in no shard: none of their categories is the same"
    elif found.a.stands and found.b.stands:
        yield f"they meet in {count(len(found.shared), 'shard')}: {both}"
    else:
        yield f"categories of both: {both}; but only what is in the database stands in shards"
    yield _finding("A", "B", found.b, found.a_finds_b)
    yield _finding("B", "A", found.a, found.b_finds_a)


def _finding(one: str, other: str, side: Side, finding: Finding) -> str:
    if finding.probes is None:
        return f"{one} does not find {other}, which is not in the database ({side.state})"
    rank = f"at rank {finding.rank:,}" if finding.rank else f"after rank {finding.looked:,}"
    searched = f"{count(finding.scanned, 'image')} searched"
    if finding.by_default:
        return f"{one} finds {other} by default, {rank} of {searched}"
    return (
        f"{one} does not find {other} by default: with --probes {finding.probes} it does, {rank} of"
        f" {searched}, or with --exact"
    )
