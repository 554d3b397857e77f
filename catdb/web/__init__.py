"""The page and the HTTP API over a database, for the browser of whoever has it on this machine.

    request ─ guard: whose name, whose page, which token, how much ─▶ api ─ threads ─▶ Database, a snapshot for each
    upload ─ decode in a worker ─ engine: one network pass for all that wait ─▶ search

This package alone knows the web framework and its server; it knows the database by its facade only.
"""

from __future__ import annotations

from catdb.web.app import create_app
from catdb.web.server import Serving, serve

__all__ = ["Serving", "create_app", "serve"]
