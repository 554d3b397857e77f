"""Where converted networks are kept, and which of them are whole. Light: no engine is imported here.

    <cache>/<network>-<graph>-<SHA-256 of the weights, 16 digits>/
        model.xml  model.bin      OpenVINO IR in float32: uint8 pixels (n, h, w, 3), n dynamic, to feature and classes
        converted.json            what it was made from, and size and checksum of the two files

A conversion belongs to the network, catdb's number of the graph and the weights, not to a version of a library: it goes
on serving after an upgrade, also where the weights file is gone. It is made beside its place and moved there whole;
one whose files are not those that were written is not used.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version

from catdb.backbones.table import GRAPH, Network
from catdb.backbones.weights import Weights
from catdb.checksum import checksum_of
from catdb.child import command, environment
from catdb.errors import EngineFailed, WeightsInvalid

MODEL = "model.xml"
_FILES = (MODEL, "model.bin")
_MANIFEST = "converted.json"
INVALID = 3  # exit code of the converting process for weights that do not fit; anything else is a failure to convert


def folder() -> str:
    """Return where conversions are kept: ``$CATDB_CACHE``, else ``catdb`` in the user's cache folder (XDG)."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("CATDB_CACHE") or os.path.join(home, "catdb")


def place(network: Network, sha256: str) -> str:
    """Return the folder of a conversion, whether it is there or not."""
    return os.path.join(folder(), f"{network.name}-{GRAPH}-{sha256[:16]}")


def find(network: Network, sha256: str) -> str | None:
    """Return the folder of a conversion that is whole, or None."""
    found = place(network, sha256)
    return found if _is_whole(found, network, sha256) else None


def _is_whole(found: str, network: Network, sha256: str) -> bool:
    try:
        with open(os.path.join(found, _MANIFEST), encoding="utf-8") as file:
            manifest = json.load(file)
        named = (manifest["network"], manifest["graph"], manifest["weights_sha256"])
        sums = {name: manifest["files"][name] for name in _FILES}
        return named == (network.name, GRAPH, sha256) and sums == {name: _sum(found, name) for name in _FILES}
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sum(found: str, name: str) -> list[int]:
    """Return [size, checksum] of one file of a conversion."""
    with open(os.path.join(found, name), "rb", buffering=0) as file:
        return [os.fstat(file.fileno()).st_size, checksum_of(file)]


@contextmanager
def converted(network: Network, weights: Weights, notice: Callable[[str], None]) -> Iterator[str]:
    """Convert a network and give the folder of the result, which stays in the cache where one can be written to.

    Raises WeightsInvalid where the weights do not fit, EngineFailed where the network does not convert.
    """
    try:
        made = os.path.join(folder(), f"converting-{secrets.token_hex(4)}")
        os.makedirs(made)  # and not mkdtemp, whose folders nobody else may enter: a cache can be shared
        keep = True
    except OSError as error:
        notice(f"{folder()}: {error.strerror}; the converted network cannot be kept, set $CATDB_CACHE")
        made = tempfile.mkdtemp(prefix="catdb-converting-")
        keep = False
    try:
        notice(f"converting {network.name} for OpenVINO: about half a minute, once")
        _convert(network, weights, made)
        yield _kept(made, network, weights.sha256) if keep else made
    finally:
        shutil.rmtree(made, ignore_errors=True)  # where it was kept, this name is gone


def _convert(network: Network, weights: Weights, target: str) -> None:
    """Run the conversion in a process of its own: TensorFlow's memory goes with it.

    What is typed at a terminal is for this process alone; and when this one ends, however it does, so does that one.
    """
    words = command("catdb.backbones.convert", network.name, weights.path, target)
    theirs, held = os.pipe()
    try:
        done = subprocess.run(
            words, stdin=theirs, env=environment(), capture_output=True, text=True, errors="replace", process_group=0
        )
    finally:
        os.close(theirs)
        os.close(held)
    if done.returncode == INVALID:
        raise WeightsInvalid(done.stdout.strip())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EngineFailed(f"{network.name} does not convert for OpenVINO ({last[:300]})")
    manifest = {
        "network": network.name,
        "graph": GRAPH,
        "weights_sha256": weights.sha256,
        "openvino": version("openvino"),
        "files": {name: _sum(target, name) for name in _FILES},
    }
    for name in _FILES:
        _force(os.path.join(target, name))
    with open(os.path.join(target, _MANIFEST), "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _kept(made: str, network: Network, sha256: str) -> str:
    """Move a conversion to its place, unless a whole one has come there meanwhile; return where there is one."""
    target = place(network, sha256)
    for _ in range(2):
        with suppress(OSError):
            os.rename(made, target)
            return target
        if _is_whole(target, network, sha256):
            return target
        shutil.rmtree(target, ignore_errors=True)  # a damaged one
    return made


def _force(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
