"""The networks that turn pixels into a feature vector and categories, and how to get one by name.

A backbone is known by its name (``inception_resnet_v2``, ``mobilenet_v2``, ..., or ``classic``) and the SHA-256 of
its weights. This module is light; the library that runs a network is imported when one is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from catdb.backbones import weights as weights_files
from catdb.backbones.table import NETWORKS, plain
from catdb.errors import BackboneMismatch, BackboneUnknown, WeightsInvalid

DEFAULT = "inception_resnet_v2"
GRAPH = 1
"""Number of the way in which pixels become vectors; it rises when the same image would get another vector."""
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
    """How to come by an embedder: a network by name, and its weights.

    ``weights`` is "imagenet" (what Keras publishes) or a file. ``sha256`` is that of a database that exists already:
    only those weights will do, wherever they lie now. ``hint`` is where they lay when it was made.
    """

    backbone: str = DEFAULT
    weights: str = "imagenet"
    sha256: str | None = None
    hint: str | None = None


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


def check_weights(backbone: str, path: str, sha256: str | None) -> None:
    """Raise BackboneMismatch unless a weights file is the one with this SHA-256."""
    if backbone not in NETWORKS:
        raise BackboneMismatch(f"{backbone} has no weights: leave --weights out")
    weights_files.expected(NETWORKS[backbone], weights_files.fingerprint(path), sha256)


class Engine:
    """A backbone that is loaded when it is first needed; threads may share it."""

    def __init__(self, source: Recipe | Embedder, notice: Callable[[str], None] = lambda line: None) -> None:
        """``source`` says how to come by an embedder, or is one."""
        self._recipe = source if isinstance(source, Recipe) else None
        self._embedder = None if isinstance(source, Recipe) else source
        self._notice = notice
        self._turn = threading.Lock()
        self.backbone = canonical(source.backbone) if isinstance(source, Recipe) else source.backbone
        self.weights_path: str | None = None

    @property
    def input_size(self) -> tuple[int, int]:
        """The (height, width) of the pixels that it takes, without loading it."""
        if self._embedder is None and self.backbone in NETWORKS:
            return (NETWORKS[self.backbone].size,) * 2
        return self.get().input_size

    def get(self) -> Embedder:
        """Return the embedder; see :func:`load` for what can be wrong the first time."""
        with self._turn:
            if self._embedder is None:
                assert self._recipe is not None
                self._embedder, self.weights_path = load(self._recipe, self._notice)
            return self._embedder


def load(recipe: Recipe, notice: Callable[[str], None] = lambda line: None) -> tuple[Embedder, str | None]:
    """Load a backbone and return it with the path of its weights (None where it has none).

    Raises BackboneUnknown, WeightsNotFound, WeightsInvalid, or BackboneMismatch where the weights given are not those
    with the recipe's SHA-256. ``notice`` is told in a line what takes long.
    """
    name = canonical(recipe.backbone)
    if name == "classic":
        from catdb.backbones.classic import Classic

        if recipe.weights != "imagenet":
            raise WeightsInvalid("classic has no weights: leave --weights out, or name a network with --backbone")
        return Classic(), None
    network = NETWORKS[name]
    if recipe.weights != "imagenet":
        weights = weights_files.expected(network, weights_files.fingerprint(recipe.weights), recipe.sha256)
    else:
        found = weights_files.find(network, sha256=recipe.sha256, hint=recipe.hint)
        if found is None:
            from catdb.backbones.keras import download

            notice(f"downloading the weights of {name}")
            found = weights_files.expected(network, download(network, recipe.sha256), recipe.sha256)
        weights = found
    from catdb.backbones.keras import KerasEmbedder

    notice(f"loading {name}")
    return KerasEmbedder(network, weights), weights.path
