"""Where the weights of a network lie. A file is known by its SHA-256, never by its name or place alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from catdb.backbones.table import Network
from catdb.errors import BackboneMismatch, WeightsNotFound


@dataclass(frozen=True, slots=True)
class Weights:
    """A weights file and its SHA-256, in hexadecimal."""

    path: str
    sha256: str


def fingerprint(path: str) -> Weights:
    """Read a weights file and return its SHA-256; WeightsNotFound where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return Weights(os.path.abspath(path), hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise WeightsNotFound(f"{path}: {error.strerror}; give a weights file of the network") from error


def keras_cache() -> str:
    """Return the folder in which Keras keeps the weights that it downloads."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return os.path.join(home, "models")


def find(network: Network, *, sha256: str | None = None, hint: str | None = None) -> Weights | None:
    """Return the network's weights where they are at hand, else None.

    Looked for in this order: ``hint`` (where they once lay), ``$CATDB_WEIGHTS`` (a file, or a folder with files as
    Keras publishes them), Keras' own cache. With ``sha256`` only that very file will do, under whatever name. Raises
    WeightsNotFound where ``$CATDB_WEIGHTS`` is neither, and there is no ``sha256``.
    """
    for path in _candidates(network, any_name=sha256 is not None, hint=hint):
        weights = fingerprint(path)
        if sha256 in (None, weights.sha256):
            return weights
    return None


def _candidates(network: Network, *, any_name: bool, hint: str | None) -> Iterator[str]:
    given = os.environ.get("CATDB_WEIGHTS", "")
    folders = [keras_cache()]
    if hint and _is_readable(hint):
        yield hint
    if os.path.isfile(given):
        yield given
    elif given and not any_name and not os.path.isdir(given):  # a slip: other weights would make another database
        raise WeightsNotFound(f"{given}: neither a file nor a folder, though $CATDB_WEIGHTS names it")
    elif given:
        folders.insert(0, given)
    for folder in folders:
        published = os.path.join(folder, network.file)
        if _is_readable(published):
            yield published
        if any_name and os.path.isdir(folder):
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                if name.endswith(".h5") and name != network.file and _is_readable(path):
                    yield path


def _is_readable(path: str) -> bool:
    """Say whether a file is there for us: one that is another user's and closed must not hide one further on."""
    return os.path.isfile(path) and os.access(path, os.R_OK)


def expected(network: Network, weights: Weights, sha256: str | None) -> Weights:
    """Return the weights if they are those with this SHA-256 (any will do for None), else raise BackboneMismatch."""
    if sha256 not in (None, weights.sha256):
        raise BackboneMismatch(
            f"{weights.path}: not the {network.name} weights that this database was made with (SHA-256 {sha256:.12}, "
            f"this file {weights.sha256:.12}); give that file, or build another database with this one"
        )
    return weights


def missing(network: Network, sha256: str | None, reason: str) -> WeightsNotFound:
    """Return the error that says which file is wanted, where to put it, and what works without it."""
    which = f" with SHA-256 {sha256}" if sha256 else ""
    return WeightsNotFound(
        f"the weights of {network.name} are not here and cannot be downloaded ({reason}): put {network.file}{which} "
        f"into {keras_cache()}, or name it with --weights FILE or $CATDB_WEIGHTS; --backbone classic needs no weights"
    )
