"""The catalog as its callers know it: one connection that knows every table."""

from __future__ import annotations

from catdb.catalog.integrity import Integrity
from catdb.catalog.memberships import Memberships
from catdb.catalog.paths import Paths
from catdb.catalog.roots import Roots
from catdb.catalog.shards import Shards


class Catalog(Roots, Paths, Memberships, Shards, Integrity):
    """One connection to the catalog; not to be used by two threads at once, nor carried across a fork.

    Each base keeps tables of its own, in a module of its name; those that write rows which are another's business to
    explain (a failure deletes an image) stand on it. How it is opened, commits and reads: ``connection``.
    """
