"""How the rows of a large shard are ordered: into blocks of rows that are alike, so that a search can pick some.

A block is a contiguous range of rows, the members of one cluster of k-means. Its centroid says what to expect of it
(see :mod:`catdb.search`). Everything here is a pure function of the rows, for one version of scipy and one kind of
machine: the same rows give the same order.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from catdb.encoding import Stored, directions

_LEAST = 20  # rows of a block: with fewer the centroids cost as much as the rows
_SHARE = 0.4  # of the square root of the images
_SAMPLE = 40  # rows for each block from which the clusters are learned
_ROUNDS = 8
_PIECE = 8192  # rows held in float32 at a time


def rows_per_block(images: int) -> float:
    """Return about how many rows a block is to have in a database of so many images.

    The share that has to be searched falls with smaller blocks, and the centroids to be compared become more: the sum
    of the two is least near the square root, as with an inverted file (Jégou, Douze, Schmid 2011, section IV).
    """
    return max(_LEAST, _SHARE * math.sqrt(images))


def arrange(features: Stored, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order the rows (n, d), n >= 1, of a shard of a database with so many ``images``.

    Returns the order (n,), in which the rows of each block keep their own, and the first row (b,) of each block.
    """
    count = round(len(features) / rows_per_block(images))
    if count < 2:
        return np.arange(len(features)), np.zeros(1, np.int64)
    labels = _cluster(features, count)
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=count)
    sizes = sizes[sizes > 0]
    return order, np.cumsum(sizes) - sizes


def _cluster(features: Stored, count: int) -> NDArray[np.int64]:
    """Return the cluster (n,) of each row."""
    from scipy.cluster.vq import kmeans2  # takes a while to import, and few processes have a use for it

    chosen = np.linspace(0, len(features) - 1, min(len(features), _SAMPLE * count)).astype(np.int64)
    sample = directions(features[chosen])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a cluster is empty is no matter
        centroids, _ = kmeans2(sample, count, iter=_ROUNDS, minit="points", rng=np.random.default_rng(0))
    lengths = (centroids**2).sum(axis=1) / 2
    labels = np.empty(len(features), np.int64)
    for start in range(0, len(features), _PIECE):
        piece = directions(features[start : start + _PIECE])
        labels[start : start + _PIECE] = np.argmax(piece @ centroids.T - lengths, axis=1)  # the nearest, as vq has it
    return labels
