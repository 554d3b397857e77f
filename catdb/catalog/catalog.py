"""The catalog as its callers know it: one connection that knows every table."""

from __future__ import annotations

from catdb.catalog.integrity import Integrity
from catdb.catalog.memberships import Memberships
from catdb.catalog.paths import Paths
from catdb.catalog.roots import Roots
from catdb.catalog.shards import Shards


class Catalog(Roots, Paths, Memberships, Shards, Integrity):
    """One connection to the catalog; not to be used by two threads at once, nor carried across a fork.

    Each base is a connection that knows some of the tables, in the module of its name, and would do without the others.
    One that needs what another does is derived from it: a failure can delete an image, so Paths are Images.
    """
