"""What is decided when a database is opened, or a new one comes into being: by which network its vectors are made.

An existing database remembers its own network, and what its shards hold. Whoever asks for another is refused here,
before vectors that cannot be compared come together. A new one is written once its network has proved to be at hand.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from catdb import backbones
from catdb.backbones import DEFAULT, Canary, Embedder, Engine, Recipe, canonical
from catdb.backbones.table import GRAPH
from catdb.encoding import STORES, store_of
from catdb.errors import BackboneMismatch, DatabaseNotFound, StorageError
from catdb.mounts import filesystem, is_remote
from catdb.roots import AnyPath
from catdb.store import Store

_OWN = frozenset(
    ("LOCK", "WATCH", "catalog.sqlite", "catalog.sqlite-journal", "catalog.sqlite-wal", "catalog.sqlite-shm", "shards")
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller wants of a database; None for what an existing one remembers, or the default of a new one."""

    backbone: str | Embedder | None
    weights: AnyPath | None  # "imagenet" or a file
    running: Recipe  # what is to run the network, and in which precision
    dimensions: int | None
    store: str | None


def engine_of(store: Store, wanted: Wanted, notice: Callable[[str], None], *, writable: bool) -> Engine:
    """Return what embeds for a database: the network that it remembers, or for a new one the network that is wanted.

    Raises BackboneMismatch where an existing database is not as wanted, DatabaseNotFound where there is none to read,
    and StorageError where none can be made. Nothing is loaded, and nothing written.
    """
    exists, kind = store.exists(), filesystem(store.path)
    if exists:
        if is_remote(kind):
            notice(f"{store.path} is on a network file system ({kind}): beside other machines it is not safe there")
        return _remembered(store, wanted, notice)
    if not writable:
        raise DatabaseNotFound(f"{store.path}: there is no database here; catdb build makes one")
    if is_remote(kind):
        raise StorageError(
            f"{store.path}: on a network file system ({kind}), where a database is not safe: name a folder on a"
            " local disk; the images may stay where they are"
        )
    _require_room(store.path)
    if wanted.backbone is None or isinstance(wanted.backbone, str):
        name = canonical(wanted.backbone or DEFAULT)
        return Engine(replace(wanted.running, backbone=name, weights=str(wanted.weights or "imagenet")), notice)
    return Engine(wanted.backbone, notice)


def _require_room(path: str) -> None:
    """Raise StorageError where a database can only be made among the files of someone else."""
    try:
        names = set(os.listdir(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; a database is a folder of its own, name another") from error
    if names - _OWN:
        raise StorageError(f"{path}: a folder with other files in it, and no database; name a new one")


def _remembered(store: Store, wanted: Wanted, notice: Callable[[str], None]) -> Engine:
    """Return the network of an existing database, which must also be the one that is wanted."""
    with store.snapshot() as snapshot:
        meta = snapshot.catalog.meta()
    _require_as_wanted(store.path, meta, wanted)
    if wanted.backbone is not None and not isinstance(wanted.backbone, str):
        return Engine(wanted.backbone, notice)
    own, sha256 = meta["backbone"], meta["weights_sha256"]
    hint = os.fsdecode(meta["weights_path"]) if meta["weights_path"] else None
    recipe = replace(wanted.running, backbone=own, sha256=sha256, hint=hint, remembered=meta["precision"])
    if wanted.weights is not None and str(wanted.weights) != "imagenet":
        backbones.check_weights(own, str(wanted.weights), sha256)
        recipe = replace(recipe, weights=str(wanted.weights))
    vectors = np.frombuffer(meta["canary"], "<f2").reshape(-1, meta["dimension"])
    return Engine(recipe, notice, Canary(vectors, meta["precision"]) if len(vectors) else None)


def _require_as_wanted(path: str, meta: Mapping[str, Any], wanted: Wanted) -> None:
    """Raise BackboneMismatch where a database was made by another network, or holds its vectors in another way."""
    own, backbone, kept = meta["backbone"], wanted.backbone, meta.get("dimensions")
    asked = own if backbone is None else canonical(backbone) if isinstance(backbone, str) else backbone.backbone
    if asked != own:
        raise BackboneMismatch(
            f"{path} was built with {own}, not {asked}: leave --backbone out, or build another database"
        )
    if wanted.dimensions not in (None, kept):
        has = f"keeps {kept} dimensions" if kept else "keeps whole vectors"
        raise BackboneMismatch(f"{path} {has}: leave --dimensions out, or build another database")
    if wanted.store not in (None, store_of(meta)):
        raise BackboneMismatch(f"{path} keeps {store_of(meta)} numbers: leave --store out, or build another database")
    if meta["graph"] != GRAPH:
        raise BackboneMismatch(
            f"{path} was built by another version of {own} in catdb: build a new one from the images"
        )
    if backbone is None or isinstance(backbone, str):
        return
    if (backbone.weights_sha256, backbone.dimension) != (meta["weights_sha256"], meta["dimension"]):
        raise BackboneMismatch(f"{path} was built with other weights of {own}: give those")


def create(store: Store, engine: Engine, wanted: Wanted) -> None:
    """Bring a new database into being, once its network has proved to be at hand; an existing one stays as it is.

    Raises what :meth:`Engine.get` does; BackboneMismatch for dimensions that the network does not have, and where
    another process has made another database here meanwhile; ValueError for an embedder with unfit categories.
    """
    if store.exists():
        store.require_maker(engine.maker)
        return
    meta = _properties(engine, wanted)
    store.create(meta, [(category.id, category.name) for category in engine.get().categories])
    with store.snapshot() as snapshot:
        found = snapshot.catalog.meta()
    properties = ("backbone", "weights_sha256", "graph", "dimension", "dimensions", "store")
    if any(found[name] != meta[name] for name in properties):
        raise BackboneMismatch(
            f"{store.path} was made by another process meanwhile, with {found['backbone']}; run it again"
        )


def _properties(engine: Engine, wanted: Wanted) -> dict[str, object]:
    """Return what a new database is to remember of what its vectors were made by, and how it holds them."""
    from importlib.metadata import version  # slow to import, and needed just once

    embedder = engine.get()
    for category in embedder.categories:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", category.id):
            raise ValueError(f"{category.id!r} cannot be a category's id: it names a folder")
    if wanted.dimensions is not None and not 0 < wanted.dimensions <= embedder.dimension:
        raise BackboneMismatch(
            f"{embedder.backbone} has {embedder.dimension} dimensions: --dimensions {wanted.dimensions} must be"
            " from 1 to that"
        )
    path = engine.weights_path
    canary = engine.canary().vectors.tobytes() if path or embedder.backbone in backbones.names() else b""
    return {
        "backbone": embedder.backbone,
        "weights_sha256": embedder.weights_sha256,
        "weights_path": os.fsencode(path) if path else None,
        "canary": canary,
        "graph": GRAPH,
        "engine": embedder.engine,
        "precision": embedder.precision,
        "dimension": embedder.dimension,
        "dimensions": wanted.dimensions,
        "store": wanted.store or STORES[0],
        "created": time.time(),
        "catdb": version("catdb"),
    }
