"""Networks of ``keras.applications``, run by OpenVINO. The secret kept here is OpenVINO.

A network is converted once, from Keras and in a process of its own (:mod:`catdb.backbones.convert`), into a folder of
the cache (:mod:`catdb.backbones.conversion`). From then on neither Keras nor TensorFlow is imported.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdb.backbones import Category, Embedding, embedding, imagenet
from catdb.backbones.conversion import MODEL
from catdb.backbones.table import Network
from catdb.errors import EngineFailed


@contextmanager
def _unreported() -> Iterator[None]:
    """Import OpenVINO as if openvino-telemetry, which it brings along, were not installed.

    With it the import alone sends an event to Google Analytics, from a process forked for that, leaves an identifier in
    the home folder, and keeps a process from ending for up to 3 s where the network swallows what is sent.
    """
    name = "openvino_telemetry"
    if name in sys.modules:  # somebody else's choice
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # as the import system documents it
    try:
        yield
    finally:
        del sys.modules[name]


with _unreported():
    import openvino as ov


def save(saved_model: str, folder: str) -> None:
    """Write TensorFlow's saved model as OpenVINO IR. In float32: halved weights would be no reference."""
    # Core.read_model and not openvino.convert_model, which reports to its makers that it was called.
    ov.save_model(ov.Core().read_model(saved_model), os.path.join(folder, MODEL), compress_to_fp16=False)


def native_precision() -> str:
    """Return "bf16" where this CPU computes in bfloat16 natively, else "f32"."""
    return "bf16" if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


class OpenVinoEmbedder:
    """A converted network on the CPU. Small requests use all cores for one image, large ones a stream per core.

    Threads may share it.
    """

    engine = "openvino"
    batch = 8  # images of one request: enough to fill a stream, few enough that the next is soon begun

    def __init__(self, network: Network, folder: str, sha256: str, precision: str) -> None:
        """Read a conversion. ``precision``: "f32" or "bf16". Raises EngineFailed where OpenVINO refuses the files."""
        self.backbone = network.name
        self.weights_sha256: str | None = sha256
        self.dimension = network.dimension
        self.input_size = (network.size, network.size)
        self.categories: tuple[Category, ...] = imagenet()
        self.precision = precision
        self.requests = 2 * _cores()  # the next one waits inside, so that no stream is idle
        self._turn, self._turn_to_submit = threading.Lock(), threading.Lock()  # a request of OpenVINO's is one thread's
        self._core = ov.Core()
        try:
            self._model = self._core.read_model(os.path.join(folder, MODEL))
        except RuntimeError as error:
            raise EngineFailed(f"{folder}: OpenVINO cannot read it ({str(error).splitlines()[0]})") from error

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        """See :class:`catdb.backbones.Embedder`. One batch has the cores to itself; more are spread over them."""
        if len(pixels) <= self.batch:
            with self._turn:
                self._whole.infer({0: pixels})
                return _read(self._whole)
        parts = [self.submit(pixels[start : start + self.batch]) for start in range(0, len(pixels), self.batch)]
        return Embedding.joined([part.result() for part in parts])

    def submit(self, pixels: NDArray[np.uint8]) -> Future[Embedding]:
        """Start embedding; waits only while twice as many requests as streams are under way."""
        future: Future[Embedding] = Future()
        with self._turn_to_submit:
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
