"""``catdb serve``: what it says, whom it lets in, and how it ends."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import click

from catdb.cli.options import database, open_database, running
from catdb.cli.output import notice, say
from catdb.words import show


@click.command(short_help="Serve a page to search in a browser, and an HTTP API.")
@database
@click.option("--host", metavar="H", default="127.0.0.1", help="The address to listen on.")
@click.option(
    "--port",
    metavar="P",
    type=click.IntRange(0, 65535),
    default=8000,
    help="The port to listen on; 0 takes a free one.",
)
@click.option(
    "--token",
    metavar="T",
    envvar="CATDB_TOKEN",
    help="Answer only those who show this token; needed if other machines can reach it.  [default: $CATDB_TOKEN]",
)
@click.option(
    "--allow-host",
    "allow",
    metavar="NAME",
    multiple=True,
    help="Also answer when the server is called by this name. Can be repeated.",
)
@click.option("--open", "browse", is_flag=True, help="Open the page in a browser.")
@running
@click.pass_context
def serve(ctx: click.Context, /, db: str | None, engine: str, precision: str, browse: bool, **options: Any) -> None:
    """Serve a page to search with, and an HTTP API below /api, until interrupted. It prints the address of the page.

    Meanwhile, others may build, watch, add and remove. Only this machine is answered, unless --host says otherwise.
    """
    from catdb.cli.watching import Signals

    with Signals("finishing what is under way; again to stop at once") as signals:
        store = open_database(db, mode="r", engine=engine, precision=precision)
        from catdb.web import Serving  # the framework takes a second to load, and nothing else needs it

        try:
            serving = Serving(store, notice=lambda line: notice(show(line)), **options)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        signals.first_calls(serving.stop)
        try:
            serving.run(lambda: _say_where(serving.url, options["token"], browse=browse))
            say("catdb: stopped")
        except (KeyboardInterrupt, SystemExit):  # of the second signal
            say("catdb: stopped at once")
        code = signals.code or 0
        if any(thread.daemon and thread.name.startswith("catdb-") for thread in threading.enumerate()):
            if sys.stdout is not None:  # as it is where the shell closed it
                sys.stdout.flush()
            os._exit(code)  # a network that is being loaded, or runs, heeds nobody
        store.close()
        ctx.exit(code)


def _say_where(url: str, token: str | None, *, browse: bool) -> None:
    click.echo(url)
    if token is not None:
        say(f"catdb: a browser's first visit is to {url}?token=...")
        from urllib.parse import quote

        url += f"?token={quote(token, safe='')}"
    if browse:
        threading.Thread(target=_open, args=(url,), daemon=True).start()


def _open(url: str) -> None:
    import webbrowser  # as all of these: every command would take the time to load them

    if not webbrowser.open(url):
        notice("no browser can be started here; open the address above")
