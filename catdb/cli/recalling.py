"""``catdb recall``: a table of what searches of each kind find, and a curve of it, drawn by matplotlib."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from catdb.cli.options import open_database
from catdb.cli.output import Bar, say
from catdb.cli.targets import require_no_image, require_target
from catdb.errors import PathNotFound
from catdb.whole import replacing
from catdb.words import count, show

if TYPE_CHECKING:
    from catdb.quality import Measured


def report(db: str | None, sample: int, k: int, *, as_json: bool, plot: str | None) -> None:
    """Do what ``catdb recall`` does."""
    if plot:
        if os.path.splitext(plot)[1].lower() not in ("", ".png"):
            raise click.UsageError(f"--plot {show(plot)}: a curve is written as .png")
        require_target(plot)
    with open_database(db, mode="r") as store, Bar() as bar:
        require_no_image(store, plot)
        if len(store) <= k:
            raise PathNotFound(
                f"the database holds {count(len(store), 'image')}: to measure recall takes more than {k}"
            )
        measured = store.recall(sample=sample, k=k, progress=bar)
    if as_json:
        click.echo(json.dumps({"searches": [dataclasses.asdict(one) for one in measured]}))
    else:
        asked = measured[0].queries
        click.echo(
            f"{asked:,} of the images as {'query' if asked == 1 else 'queries'}, each left out of its own answer"
        )
        click.echo(f"{'search':<16}{f'recall@{k}':>10}{'nearest':>10}{'searched':>10}{'rows':>10}{'centroids':>11}")
        for one in measured:
            shares = "".join(f"{100 * share:>8.1f} %" for share in (one.recall, one.nearest, one.scanned, one.rows))
            click.echo(f"{one.name:<16}{shares}{one.centroids:>11,.0f}")
    if plot:
        draw(measured, plot)
        say(f"curve: {show(plot)}")


def draw(measured: Sequence[Measured], path: str) -> None:
    """Draw recall over the share of the images that is searched, a line for probes and one for recall targets."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = (
        ("by categories (--probes)", "o", [one for one in measured if one.target is None]),
        ("by blocks (--recall)", "s", [one for one in measured if one.target is not None]),
    )
    for label, marker, points in lines:
        axes.plot([100 * p.scanned for p in points], [100 * p.recall for p in points], marker=marker, label=label)
        for point in points:
            name = "default" if point.name == "default" else f"{point.probes or point.target:g}"
            place = (100 * point.scanned, 100 * point.recall)
            axes.annotate(name, place, textcoords="offset points", xytext=(6, -11), fontsize=8)
    axes.set_xlabel("images searched, %")
    axes.set_ylabel(f"recall@{measured[0].k}, %")
    axes.set_title(count(measured[0].queries, "query"), fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as stream:
        figure.savefig(stream, format="png")
