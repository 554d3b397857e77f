"""How things look on a terminal: paths, percentages, progress."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from catdb.query import Prediction, Result
    from catdb.reconcile import Progress, Report

_UNITS = {
    "folding": " shards",
    "copying shards": " shards",
    "copying the catalog": " pages",
    "comparing": " categories",
}
_LINES = 10.0  # seconds between two lines of progress where there is no terminal to draw a bar on


def show(path: str) -> str:
    """Return a path fit to be printed: bytes that are no UTF-8 and control characters are escaped."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def say(line: str) -> None:
    """Print a line for people: on stderr, so that stdout holds the data alone."""
    if "tqdm" in sys.modules and sys.stderr is not None:  # a bar may be drawn: above it, then
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        click.echo(line, err=True)


def notice(line: str) -> None:
    say(f"catdb: {line}")


def percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.005 else "<1 %"


def short(percentile: float | None, ceiling: float | None) -> str:
    """Return a percentile in no more digits than it has, "99.97 %" or ">99.99 %"; nothing where there is none."""
    if percentile is None or ceiling is None:
        return ""
    digits = max(0, round(-math.log10(1 - ceiling)) - 2)
    share = math.floor(percentile * 10 ** (digits + 2) + 1e-6) / 10**digits  # never rounded up to what was not found
    return f"{'>' if percentile >= ceiling else ''}{share:.{digits}f} %"


def closer(percentile: float | None, ceiling: float | None) -> str:
    """Say what a percentile means; nothing where there is none."""
    share = short(percentile, ceiling)
    return f"closer than {share} of random pairs" if share else ""


def asked(result: Result) -> str:
    """Say what a result answers: the query's path, all paths of several, the words."""
    one = [f'"{result.text}"'] if result.text is not None else [result.query or "an image"]
    plus = [path or "an image" for path in result.together] or one
    return " - ".join([" + ".join(plus), *(path or "an image" for path in result.without)])


def named(categories: tuple[Prediction, ...]) -> str:
    return " · ".join(f"{category.name} {percent(category.probability)}" for category in categories)


def searched(result: Result) -> str:
    """Say how much of the database an answer rests on."""
    total = f"{result.total:,} images"
    if result.admitted < result.total:
        total = f"{result.admitted:,} images that the filters admit (of {result.total:,} in all)"
    text = f"searched {result.scanned:,} of {total} in {result.probed} of {result.populated} categories"
    if result.widened and result.admitted < result.total:
        text += " (its own categories hold too few of them, so further ones were searched)"
    elif result.widened:
        text += " (the first of its categories hold no image, so further ones were searched)"
    return text


def summary(report: Report) -> str:
    """Say in a line what a build did."""
    parts = [f"{getattr(report, name):,} {name}" for name in ("added", "changed", "moved", "removed", "unchanged")]
    rate = (report.added + report.changed) / report.seconds if report.seconds else 0
    pace = f", {rate:.1f} images/s" if report.added + report.changed >= 10 else ""
    return f"{', '.join(parts)}, {len(report.failed):,} failed; {report.total:,} images ({report.seconds:.1f} s{pace})"


def report_troubles(report: Report) -> None:
    """List on stderr what could not be read, and which folders seem to be away."""
    for failure in report.failed:
        say(f"failed: {show(failure.path)}: {show(failure.reason)}")
    for kept in report.kept:
        say(
            f"away: {show(kept.path)}: its {kept.images:,} missing images are kept and can be searched still; "
            "catdb build --prune drops them"
        )


class Bar:
    """Progress of a build on stderr: a bar with rate and time left on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._step = ""
        self._last = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, progress: Progress) -> None:
        if sys.stderr is None or not sys.stderr.isatty():
            self._line(progress)
            return
        if progress.step != self._step or self._bar is None:
            from tqdm import tqdm

            self.close()
            self._step = progress.step
            unit = _UNITS.get(progress.step, " images")
            self._bar = tqdm(total=progress.total, desc=progress.step, unit=unit, leave=False, dynamic_ncols=True)
        if progress.failed:
            self._bar.set_postfix_str(f"{progress.failed} failed", refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def _line(self, progress: Progress) -> None:
        if time.monotonic() - self._last >= _LINES:
            self._last = time.monotonic()
            of = f" of {progress.total:,}" if progress.total is not None else ""
            say(f"{progress.step} {progress.done:,}{of}, {progress.failed:,} failed")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def program() -> str:
    """Return how to call this program again: by its name where the shell finds it, else by its path."""
    return "catdb" if shutil.which("catdb") else shlex.quote(os.path.join(os.path.dirname(sys.executable), "catdb"))
