"""The networks that turn pixels into a feature vector and categories, and how to get one by name.

A backbone is known by its name (``inception_resnet_v2``, ``mobilenet_v2``, ..., or ``classic``) and the SHA-256 of
its weights. This module is light; the library that runs a network is imported when one is loaded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from catdb.backbones import canary
from catdb.backbones import weights as weights_files
from catdb.backbones.table import NETWORKS, Network, plain
from catdb.backbones.weights import Weights
from catdb.errors import BackboneMismatch, BackboneUnknown, EngineDrifted, EngineFailed, WeightsInvalid

DEFAULT = "inception_resnet_v2"
BATCH = 32
"""Images of one request, for an embedder that does not say what it likes best."""
ENGINES = ("auto", "openvino", "tensorflow")
PRECISIONS = ("auto", "f32", "bf16")
PER_IMAGE = 4
"""Categories of one image: the most probable four, and hence the number of shards that it stands in."""


@dataclass(frozen=True, slots=True)
class Category:
    """One category: its id (a wnid such as ``n02012849``, unique) and its name (``crane``, which may not be)."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Embedding:
    """What one pass says of n images. ``categories`` are indices into the embedder's table, most probable first."""

    features: NDArray[np.float32]  # (n, d), rows of unit length
    categories: NDArray[np.int32]  # (n, 4), distinct within a row
    probabilities: NDArray[np.float32]  # (n, 4), falling within a row

    @classmethod
    def joined(cls, parts: Sequence[Embedding]) -> Embedding:
        """Return the embeddings of several batches as one."""
        return cls(
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.categories for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
        )

    def first(self, count: int) -> Embedding:
        """Return what is said of the first images."""
        return Embedding(self.features[:count], self.categories[:count], self.probabilities[:count])


def embedding(feature: NDArray[np.float32], probabilities: NDArray[np.float32]) -> Embedding:
    """Return an Embedding of pooled features (n, d) and class probabilities (n, c); a zero feature points nowhere,
    so it is given equal components."""
    length = np.linalg.norm(feature, axis=1, keepdims=True)
    units = np.where(length > 0, feature / np.maximum(length, 1e-30), feature.shape[1] ** -0.5)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :PER_IMAGE]
    return Embedding(units.astype(np.float32), order.astype(np.int32), np.take_along_axis(probabilities, order, 1))


class Embedder(Protocol):
    """A loaded network: the one seam at which a test may put another."""

    backbone: str
    categories: tuple[Category, ...]
    dimension: int
    input_size: tuple[int, int]  # (height, width) of the pixels that embed() takes
    weights_sha256: str | None  # None where there are no weights
    engine: str
    precision: str

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        """Embed uint8 RGB pixels (n, height, width, 3) in one pass; n >= 1."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to come by an embedder: a network by name, its weights, and what runs it.

    ``weights`` is "imagenet" (what Keras publishes) or a file. ``engine``: "openvino", "tensorflow" (for a GPU, or as
    the reference), or "auto": openvino, and tensorflow for a network that does not convert. ``precision``: "f32",
    "bf16", or "auto": bf16 where the CPU computes in it natively.

    The rest is what a database remembers: the weights' ``sha256`` (only those will do, wherever they lie now), where
    they lay when it was made, and the precision of its vectors, which "auto" keeps to where this CPU can.
    """

    backbone: str = DEFAULT
    weights: str = "imagenet"
    engine: str = "auto"
    precision: str = "auto"
    sha256: str | None = None
    hint: str | None = None
    remembered: str | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (("engine", self.engine, ENGINES), ("precision", self.precision, PRECISIONS)):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(choices)}")


def names() -> list[str]:
    """Return the names of all backbones, sorted."""
    return sorted([*NETWORKS, "classic"])


def canonical(name: str) -> str:
    """Return a backbone's name as catdb writes it; BackboneUnknown, with near names, where there is none."""
    for known in names():
        if plain(known) == plain(name):
            return known
    import difflib

    near = difflib.get_close_matches(name.lower(), names(), n=3, cutoff=0.4)
    raise BackboneUnknown(
        f"no backbone is called {name!r}; " + (f"near: {', '.join(near)}" if near else "see the README")
    )


@cache
def imagenet() -> tuple[Category, ...]:
    """Return the 1000 ImageNet classes in the order of the networks' outputs."""
    lines = files(__name__).joinpath("imagenet.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return tuple(Category(*line.split("\t")) for line in lines)


def cached(backbone: str, sha256: str | None) -> str | None:
    """Return the folder of a network's conversion, or None where there is none; it is not checked here."""
    from catdb.backbones import conversion

    folder = conversion.place(NETWORKS[backbone], sha256) if backbone in NETWORKS and sha256 else ""
    return folder if os.path.isdir(folder) else None


def check_weights(backbone: str, path: str, sha256: str | None) -> None:
    """Raise BackboneMismatch unless a weights file is the one with this SHA-256."""
    if backbone not in NETWORKS:
        raise BackboneMismatch(f"{backbone} has no weights: leave --weights out")
    weights_files.expected(NETWORKS[backbone], weights_files.fingerprint(path), sha256)


@dataclass(frozen=True, slots=True)
class Canary:
    """What a database remembers of the engine that made its vectors."""

    vectors: NDArray[np.float16]  # (4, d), of canary.images()
    precision: str


class Engine:
    """A backbone that is loaded when it is first needed; threads may share it."""

    def __init__(
        self,
        source: Recipe | Embedder,
        notice: Callable[[str], None] = lambda line: None,
        remembered: Canary | None = None,
    ) -> None:
        """``source`` says how to come by an embedder, or is one. A loaded one must give the remembered canaries."""
        self._recipe = source if isinstance(source, Recipe) else None
        self._embedder = None if isinstance(source, Recipe) else source
        self._notice = notice
        self._remembered = remembered
        self._known = self._proved = False  # that it gives the remembered vectors: at a glance, and for all of them
        self._turn = threading.Lock()
        self.backbone = source.backbone
        self.weights_path: str | None = None

    @property
    def input_size(self) -> tuple[int, int]:
        """The (height, width) of the pixels that it takes, without loading it."""
        if self._embedder is None and self.backbone in NETWORKS:
            return (NETWORKS[self.backbone].size,) * 2
        return self.get().input_size

    @property
    def maker(self) -> tuple[str, str | None]:
        """The name of the network and the SHA-256 of its weights, by which it is known whose vectors are whose.

        It is loaded only where it has never been said which weights those are.
        """
        recipe = self._recipe
        if self._embedder is None and recipe and (recipe.sha256 or self.backbone not in NETWORKS):
            return self.backbone, recipe.sha256
        embedder = self.get()
        return embedder.backbone, embedder.weights_sha256

    @property
    def batch(self) -> int:
        """Images that make up one request of :meth:`submit` best. Known before it is loaded, if only as a guess."""
        return getattr(self._embedder, "batch", BATCH)

    @property
    def requests(self) -> int:
        """Requests that it can be given at a time without waiting for the oldest."""
        return getattr(self._embedder, "requests", 2)

    def get(self) -> Embedder:
        """Return the embedder; see :func:`load` for what can be wrong the first time."""
        with self._turn:
            if self._embedder is None:
                assert self._recipe is not None
                self._embedder, self.weights_path = load(self._recipe, self._notice)
            return self._embedder

    def canary(self) -> Canary:
        """Return what is to be remembered of this engine."""
        embedder = self.get()
        vectors = _start(embedder, canary.images(embedder.input_size)).result().features
        return Canary(vectors.astype(np.float16), embedder.precision)

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        """Embed images (n, h, w, 3) to search with. An engine that has drifted is said to have, the first time."""
        embedder, then = self.get(), self._remembered
        if then is None or self._known:
            return embedder.embed(pixels)
        self._known = True
        board = slice(canary.BOARD, canary.BOARD + 1)  # the one that shows most, in the same pass: it costs one image
        together = embedder.embed(np.concatenate([pixels, canary.images(embedder.input_size)[board]]))
        drift = self._drift(then.vectors[board], together.features[len(pixels) :])
        if drift:
            self._notice(f"{drift}; until then answers may be wrong")
        return together.first(len(pixels))

    def submit(self, pixels: NDArray[np.uint8]) -> Future[Embedding]:
        """Start embedding a batch to be stored; batches may finish in any order, or before this returns.

        Raises EngineDrifted rather than mix vectors that cannot be compared.
        """
        embedder, then = self.get(), self._remembered
        if then is not None and not self._proved:
            now = _start(embedder, canary.images(embedder.input_size)).result()
            drift = self._drift(then.vectors, now.features)
            if drift:
                raise EngineDrifted(f"{drift}; nothing was stored")
            self._proved = self._known = True
        return _start(embedder, pixels)

    def _drift(self, then: NDArray[np.float16], now: NDArray[np.float32]) -> str:
        """Say how the vectors of canaries differ, if by more than rounding explains."""
        assert self._remembered is not None
        embedder, precision = self.get(), self._remembered.precision
        cosine = canary.cosine(then, now)
        if cosine >= canary.allowed(precision, embedder.precision):
            return ""
        return (
            f"{embedder.backbone} no longer gives the vectors that this database holds (cosine {cosine:.4f} on known "
            f"images; {embedder.engine} in {embedder.precision}, then {precision}): try --engine tensorflow, or build "
            "a new database"
        )


def _start(embedder: Embedder, pixels: NDArray[np.uint8]) -> Future[Embedding]:
    """Start embedding; an embedder that cannot start has done it when this returns."""
    if hasattr(embedder, "submit"):
        return embedder.submit(pixels)  # type: ignore[no-any-return]
    future: Future[Embedding] = Future()
    future.set_result(embedder.embed(pixels))
    return future


def load(recipe: Recipe, notice: Callable[[str], None] = lambda line: None) -> tuple[Embedder, str | None]:
    """Load a backbone and return it with the path of its weights (None where it has none, or needed none).

    Raises BackboneUnknown, WeightsNotFound, WeightsInvalid, EngineFailed, or BackboneMismatch where the weights given
    are not those with the recipe's SHA-256. ``notice`` is told in a line what takes long.
    """
    if recipe.remembered is not None and recipe.backbone not in names():
        raise BackboneUnknown(
            f"this database was built with an embedder of its own, {recipe.backbone}: give it in Python, as"
            " Database(path, backbone=...)"
        )
    name = canonical(recipe.backbone)
    if name == "classic":
        from catdb.backbones.classic import Classic

        if recipe.weights != "imagenet":
            raise WeightsInvalid("classic has no weights: leave --weights out, or name a network with --backbone")
        return Classic(), None
    network = NETWORKS[name]
    if recipe.engine != "tensorflow":
        try:
            return _load_openvino(recipe, network, notice)
        except (EngineFailed, ImportError) as error:
            if recipe.engine == "openvino":
                raise
            notice(f"{error}; going on with TensorFlow, which is slower")
    return _load_tensorflow(recipe, network, notice)


def _load_openvino(recipe: Recipe, network: Network, notice: Callable[[str], None]) -> tuple[Embedder, str | None]:
    """Load the converted network, converting it first where that was never done with these weights."""
    from catdb.backbones import conversion, openvino

    precision = recipe.precision
    native = openvino.native_precision()
    if precision == "auto":
        precision = "f32" if "f32" in (recipe.remembered, native) else native
    elif precision == "bf16" and native != "bf16":
        raise EngineFailed("this CPU does not compute in bfloat16: use --precision f32")
    sha256, path = recipe.sha256, None
    if recipe.weights != "imagenet" or sha256 is None:
        weights = _weights(recipe, network, notice)
        sha256, path = weights.sha256, weights.path
    folder = conversion.find(network, sha256)
    if folder:
        with suppress(EngineFailed):  # made by an OpenVINO that this one cannot read: converted again, if that can be
            return openvino.OpenVinoEmbedder(network, folder, sha256, precision), path
    weights = _weights(recipe, network, notice)
    with conversion.converted(network, weights, notice) as folder:
        return openvino.OpenVinoEmbedder(network, folder, weights.sha256, precision), weights.path


def _load_tensorflow(recipe: Recipe, network: Network, notice: Callable[[str], None]) -> tuple[Embedder, str | None]:
    if recipe.precision == "bf16":
        raise EngineFailed("TensorFlow computes in float32 here: leave --precision out, or use --engine openvino")
    weights = _weights(recipe, network, notice)
    from catdb.backbones.keras import KerasEmbedder

    notice(f"loading {network.name} into TensorFlow")
    return KerasEmbedder(network, weights), weights.path


def _weights(recipe: Recipe, network: Network, notice: Callable[[str], None]) -> Weights:
    """Find the weights, or have Keras download them."""
    if recipe.weights != "imagenet":
        return weights_files.expected(network, weights_files.fingerprint(recipe.weights), recipe.sha256)
    found = weights_files.find(network, sha256=recipe.sha256, hint=recipe.hint)
    if found:
        return found
    from catdb.backbones.keras import download

    notice(f"downloading the weights of {network.name}")
    return weights_files.expected(network, download(network, recipe.sha256), recipe.sha256)
