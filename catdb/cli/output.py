"""What is told on a terminal beside the data: lines for people, what a build did, progress."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from catdb.words import count, show

if TYPE_CHECKING:
    from catdb.reconcile import Progress, Report

_UNITS = {
    "folding": " shards",
    "copying shards": " shards",
    "copying the catalog": " pages",
    "comparing": " categories",
}
_LINES = 10.0  # seconds between two lines of progress where there is no terminal to draw a bar on


def say(line: str) -> None:
    """Print a line for people: on stderr, so that stdout holds the data alone."""
    if "tqdm" in sys.modules and sys.stderr is not None:  # a bar may be drawn: above it, then
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        click.echo(line, err=True)


def notice(line: str) -> None:
    say(f"catdb: {line}")


def summary(report: Report) -> str:
    """Say in a line what a build did."""
    parts = [f"{getattr(report, name):,} {name}" for name in ("added", "changed", "moved", "removed", "unchanged")]
    rate = (report.added + report.changed) / report.seconds if report.seconds else 0
    pace = f", {rate:.1f} images/s" if report.added + report.changed >= 10 else ""
    total = count(report.total, "image")
    return f"{', '.join(parts)}, {len(report.failed):,} failed; {total} ({report.seconds:.1f} s{pace})"


def report_troubles(report: Report) -> None:
    """List on stderr what could not be read, and which folders seem to be away."""
    for failure in report.failed:
        say(f"failed: {show(failure.path)}: {show(failure.reason)}")
    for kept in report.kept:
        say(f"away: {show(kept.path)}: {kept.line}")


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
