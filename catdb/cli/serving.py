"""``catdb serve``: what it says, whom it lets in, and how it ends."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from urllib.parse import quote

import click

from catdb.cli.options import open_database
from catdb.cli.output import notice, say
from catdb.cli.watching import Signals


def serve(
    signals: Signals,
    db: str | None,
    *,
    host: str,
    port: int,
    token: str | None,
    allow: tuple[str, ...],
    browse: bool,
    engine: str,
    precision: str,
) -> int:
    """Do what ``catdb serve`` does and return its exit code. Raises OSError where it cannot listen."""
    store = open_database(db, mode="r", engine=engine, precision=precision)
    from catdb.web.server import Serving  # the framework takes a second to load, and nothing else needs it

    try:
        serving = Serving(store, host=host, port=port, token=token, allow=allow, notice=_tell)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    first = serving.url if token is None else f"{serving.url}?token={quote(token, safe='')}"

    def listening() -> None:
        click.echo(serving.url)
        if token is not None:
            say(f"catdb: a browser's first visit is to {serving.url}?token=...")
        if browse:
            threading.Thread(target=_open, args=(first,), daemon=True).start()

    signals.first_calls(serving.stop)
    serving.run(listening)
    say("catdb: stopped")
    code = signals.code or 0
    if any(thread.name.startswith("catdb-") and thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(code)  # a network that is still being loaded, or runs, heeds nobody
    store.close()
    return code


def _open(url: str) -> None:
    if not webbrowser.open(url):
        notice("no browser can be started here; open the address above")


def _tell(line: str) -> None:
    notice(line)
