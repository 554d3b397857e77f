"""catdb: a category-partitioned image-retrieval database.

    path ─ find ─▶ decode ─▶ pixels uint8 (n, h, w, 3) | Failure(path, reason)
         ─ embed ─▶ features (n, d) of unit length, four categories of each image
         ─ commit ─▶ catalog ─ fold ─▶ one immutable HDF5 file per category
    query ─ decode ─ embed ─▶ its own four categories ─▶ their rows ─ top-k ─▶ matches

    from catdb import Database
    with Database("photos.catdb") as db:
        db.build("Pictures")
        for match in db.search("query.jpg"):
            print(match.similarity, match.path)
        with db.watch("Pictures", announce=print) as watch:  # in a thread, until the block is left
            watch.wait_idle()

Importing this package loads no heavy library: the names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from catdb.errors import (
    BackboneMismatch,
    BackboneUnknown,
    CatdbError,
    CategoryUnknown,
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseNotFound,
    DatabaseReadOnly,
    DecoderFailed,
    EngineDrifted,
    EngineFailed,
    ImageUnknown,
    ImageUnreadable,
    PathNotFound,
    RelocationRefused,
    StorageError,
    WeightsInvalid,
    WeightsNotFound,
)

if TYPE_CHECKING:
    from catdb.backup import Backup
    from catdb.browse import FailurePage, ImageInfo, Page, Status
    from catdb.check import Check
    from catdb.database import Database
    from catdb.duplicates import Duplicate, Duplicates, Group
    from catdb.images import Failure
    from catdb.ingest import Event
    from catdb.inventory import Info
    from catdb.query import Match, Prediction, Result
    from catdb.reconcile import Progress, Report
    from catdb.relocate import Moved
    from catdb.watch import Notice, Watch
    from catdb.why import Why

_LAZY = {
    "Backup": "catdb.backup",
    "Check": "catdb.check",
    "Database": "catdb.database",
    "Duplicate": "catdb.duplicates",
    "Duplicates": "catdb.duplicates",
    "Event": "catdb.ingest",
    "Failure": "catdb.images",
    "FailurePage": "catdb.browse",
    "Group": "catdb.duplicates",
    "ImageInfo": "catdb.browse",
    "Info": "catdb.inventory",
    "Match": "catdb.query",
    "Moved": "catdb.relocate",
    "Notice": "catdb.watch",
    "Page": "catdb.browse",
    "Prediction": "catdb.query",
    "Progress": "catdb.reconcile",
    "Report": "catdb.reconcile",
    "Result": "catdb.query",
    "Status": "catdb.browse",
    "Watch": "catdb.watch",
    "Why": "catdb.why",
}

__all__ = [
    "BackboneMismatch",
    "BackboneUnknown",
    "Backup",
    "CatdbError",
    "CategoryUnknown",
    "Check",
    "Database",
    "DatabaseBusy",
    "DatabaseDamaged",
    "DatabaseNotFound",
    "DatabaseReadOnly",
    "DecoderFailed",
    "Duplicate",
    "Duplicates",
    "EngineDrifted",
    "EngineFailed",
    "Event",
    "Failure",
    "FailurePage",
    "Group",
    "ImageInfo",
    "ImageUnknown",
    "ImageUnreadable",
    "Info",
    "Match",
    "Moved",
    "Notice",
    "Page",
    "PathNotFound",
    "Prediction",
    "Progress",
    "RelocationRefused",
    "Report",
    "Result",
    "Status",
    "StorageError",
    "Watch",
    "WeightsInvalid",
    "WeightsNotFound",
    "Why",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
