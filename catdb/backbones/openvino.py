"""Networks of ``keras.applications``, run by OpenVINO. The secrets kept here are OpenVINO and its converted files.

A network is converted once, from Keras and in a process of its own (see :mod:`catdb.backbones.convert`), into

    <cache>/<network>-<graph>-<SHA-256 of the weights, 16 digits>/
        model.xml  model.bin      OpenVINO IR in float32: uint8 pixels (n, h, w, 3), n dynamic, to feature and classes
        converted.json            what it was made from, and size and checksum of the two files

A conversion belongs to the network, catdb's number of the graph and the weights, not to a version of a library: it goes
on serving after an upgrade, also where the weights file is gone. It is made beside its place and moved there whole;
one whose files are not those that were written is not used. From then on neither Keras nor TensorFlow is imported.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from catdb.backbones import GRAPH, Category, Embedding, embedding, imagenet
from catdb.backbones.table import Network
from catdb.backbones.weights import Weights
from catdb.checksum import checksum
from catdb.errors import EngineFailed, WeightsInvalid

_FILES = ("model.xml", "model.bin")
_MANIFEST = "converted.json"
INVALID = 3  # exit code of the converting process for weights that do not fit; anything else is a failure to convert


# --- the cache ------------------------------------------------------------------------------------------------------


def cache_folder() -> str:
    """Return where conversions are kept: ``$CATDB_CACHE``, else ``catdb`` in the user's cache folder (XDG)."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("CATDB_CACHE") or os.path.join(home, "catdb")


def cached(network: Network, sha256: str) -> str | None:
    """Return the folder of a conversion that is whole, or None."""
    folder = _place(network, sha256)
    return folder if _is_whole(folder, network, sha256) else None


def _place(network: Network, sha256: str) -> str:
    return os.path.join(cache_folder(), f"{network.name}-{GRAPH}-{sha256[:16]}")


def _is_whole(folder: str, network: Network, sha256: str) -> bool:
    try:
        with open(os.path.join(folder, _MANIFEST), encoding="utf-8") as file:
            manifest = json.load(file)
        named = (manifest["network"], manifest["graph"], manifest["weights_sha256"])
        sums = {name: manifest["files"][name] for name in _FILES}
        return named == (network.name, GRAPH, sha256) and sums == {name: _sum(folder, name) for name in _FILES}
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sum(folder: str, name: str) -> list[int]:
    """Return [size, checksum] of one file of a conversion."""
    with (
        open(os.path.join(folder, name), "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return [len(data), checksum(data)]


@contextmanager
def converted(network: Network, weights: Weights, notice: Callable[[str], None]) -> Iterator[str]:
    """Convert a network and give the folder of the result, which stays in the cache where one can be written to.

    Raises WeightsInvalid where the weights do not fit, EngineFailed where the network does not convert.
    """
    try:
        os.makedirs(cache_folder(), exist_ok=True)
        made = tempfile.mkdtemp(prefix="converting-", dir=cache_folder())
        keep = True
    except OSError as error:
        notice(f"{cache_folder()}: {error.strerror}; the converted network cannot be kept, set $CATDB_CACHE")
        made = tempfile.mkdtemp(prefix="catdb-converting-")
        keep = False
    try:
        notice(f"converting {network.name} for OpenVINO: about half a minute, once")
        _convert(network, weights, made)
        yield _kept(made, network, weights.sha256) if keep else made
    finally:
        shutil.rmtree(made, ignore_errors=True)  # where it was kept, this name is gone


def _convert(network: Network, weights: Weights, folder: str) -> None:
    """Run the conversion in a process of its own: TensorFlow's 2 GB go with it."""
    command = [sys.executable, "-m", "catdb.backbones.convert", network.name, weights.path, folder]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode == INVALID:
        raise WeightsInvalid(done.stdout.strip())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EngineFailed(f"{network.name} does not convert for OpenVINO ({last[:300]})")
    manifest = {
        "network": network.name,
        "graph": GRAPH,
        "weights_sha256": weights.sha256,
        "openvino": ov.__version__,
        "files": {name: _sum(folder, name) for name in _FILES},
    }
    for name in _FILES:
        _force(os.path.join(folder, name))
    with open(os.path.join(folder, _MANIFEST), "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def save(saved_model: str, folder: str) -> None:
    """Write TensorFlow's saved model as OpenVINO IR. In float32: halved weights would be no reference."""
    # Core.read_model and not openvino.convert_model, which reports to its makers that it was called.
    ov.save_model(ov.Core().read_model(saved_model), os.path.join(folder, _FILES[0]), compress_to_fp16=False)


def _kept(made: str, network: Network, sha256: str) -> str:
    """Move a conversion to its place, unless a whole one has come there meanwhile; return where there is one."""
    place = _place(network, sha256)
    for _ in range(2):
        with suppress(OSError):
            os.rename(made, place)
            return place
        if _is_whole(place, network, sha256):
            return place
        shutil.rmtree(place, ignore_errors=True)  # a damaged one
    return made


def _force(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- the engine -----------------------------------------------------------------------------------------------------


def native_precision() -> str:
    """Return "bf16" where this CPU computes in bfloat16 natively, else "f32"."""
    return "bf16" if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


class OpenVinoEmbedder:
    """A converted network on the CPU. Small requests use all cores for one image, large ones a stream per core."""

    engine = "openvino"
    batch = 8  # images of one request; measured fastest with a stream per core

    def __init__(self, network: Network, folder: str, sha256: str, precision: str) -> None:
        """Read a conversion. ``precision``: "f32" or "bf16". Raises EngineFailed where OpenVINO refuses the files."""
        self.backbone = network.name
        self.weights_sha256: str | None = sha256
        self.dimension = network.dimension
        self.input_size = (network.size, network.size)
        self.categories: tuple[Category, ...] = imagenet()
        self.precision = precision
        self.requests = 2 * _cores()  # the next one waits inside, so that no stream is idle
        self._core = ov.Core()
        try:
            self._model = self._core.read_model(os.path.join(folder, _FILES[0]))
        except RuntimeError as error:
            raise EngineFailed(f"{folder}: OpenVINO cannot read it ({str(error).splitlines()[0]})") from error

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        """See :class:`catdb.backbones.Embedder`. One batch has the cores to itself; more are spread over them."""
        if len(pixels) <= self.batch:
            self._whole.infer({0: pixels})
            return _read(self._whole)
        parts = [self.submit(pixels[start : start + self.batch]) for start in range(0, len(pixels), self.batch)]
        return Embedding.joined([part.result() for part in parts])

    def submit(self, pixels: NDArray[np.uint8]) -> Future[Embedding]:
        """Start embedding; waits only while twice as many requests as streams are under way."""
        future: Future[Embedding] = Future()
        self._queue.start_async({0: pixels}, userdata=future)
        return future

    @cached_property
    def _whole(self) -> Any:
        return self._compile({"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()

    @cached_property
    def _queue(self) -> Any:
        compiled = self._compile({"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(_cores())})
        queue = ov.AsyncInferQueue(compiled, self.requests)
        queue.set_callback(_finish)
        atexit.register(queue.wait_all)  # a callback into an interpreter that is gone ends the process with SIGABRT
        return queue

    def _compile(self, options: dict[str, str]) -> Any:
        return self._core.compile_model(self._model, "CPU", {"INFERENCE_PRECISION_HINT": self.precision, **options})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finish(request: Any, future: Future[Embedding]) -> None:
    try:
        future.set_result(_read(request))
    except BaseException as error:  # it must reach the one who waits, not die in OpenVINO's thread
        future.set_exception(error)


def _read(request: Any) -> Embedding:
    feature, probabilities = (np.array(request.get_output_tensor(place).data) for place in (0, 1))
    return embedding(feature, probabilities)
