"""The other indexes that tools/scale compares with, each built, saved and searched in processes of its own."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scale_collection import TARGET, Collection, D, K, Memory, evict, in_groups, on_disk, say, steps

EFFORTS = "efforts.json"  # which each took to have the recall aimed at, by its file
SLOW = 20  # queries of a search that compares with everything


class Peer:
    """An index of others at a place, of vectors of unit length: opened, it is searched with more or less effort."""

    name: ClassVar[str]
    file: ClassVar[str]
    most: ClassVar[int] = 100_000  # images
    turns: ClassVar[bool] = True  # whether it takes turns with catdb
    groups: ClassVar[bool] = True  # whether it takes several queries at once
    exact: ClassVar[bool] = False

    def __init__(self, place: Path) -> None:
        self.path = place / self.file

    def build(self, collection: Collection) -> dict[str, object]:
        """Make the index and save it; return what should be known of it."""
        raise NotImplementedError

    def open(self) -> None:
        """Open what was saved."""
        raise NotImplementedError

    def search(self, vectors: NDArray[np.float32], effort: int) -> NDArray[np.int64]:
        """Return the images (n, K) that are nearest to vectors (n, D)."""
        raise NotImplementedError

    def efforts(self, images: int) -> list[int]:
        """Return with how much effort it can be searched, rising."""
        raise NotImplementedError


class Faiss(Peer):
    """An index of faiss in float32, as its Python package gives it; opened by read_index, which reads all of it."""

    index: Any
    mapped: ClassVar[bool] = False

    def new(self, collection: Collection) -> Any:
        """Return an index with nothing in it, trained if it needs that."""
        raise NotImplementedError

    def build(self, collection: Collection) -> dict[str, object]:
        import faiss

        index = self.new(collection)
        for _, rows in collection.blocks():
            index.add(rows.astype(np.float32))
        start = time.perf_counter()
        faiss.write_index(index, str(self.path))
        return {"saving": round((time.perf_counter() - start) / collection.images, 7)}

    def open(self) -> None:
        import faiss

        self.index = faiss.read_index(str(self.path), faiss.IO_FLAG_MMAP_IFC if self.mapped else 0)

    def aim(self, effort: int) -> None:
        """Set how far the next searches go."""

    def search(self, vectors: NDArray[np.float32], effort: int) -> NDArray[np.int64]:
        self.aim(effort)
        found: NDArray[np.int64] = self.index.search(vectors, K)[1]
        return found


class Flat(Faiss):
    name, file, most, exact = "faiss Flat", "flat.faiss", 1_000_000, True

    def new(self, collection: Collection) -> Any:
        import faiss

        return faiss.IndexFlatIP(D)

    def efforts(self, images: int) -> list[int]:
        return [1]


class Ivf(Faiss):
    name, file, most = "faiss IVF", "ivf.faiss", 1_000_000

    def new(self, collection: Collection) -> Any:
        import faiss

        images, lists = collection.images, self.efforts(collection.images)[-1]
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(D), D, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.max_points_per_centroid = 6, 40
        chosen = np.random.default_rng(0).choice(images, min(images, 40 * lists), replace=False)
        wanted = np.zeros(images, bool)
        wanted[chosen] = True
        sample, end = np.empty((len(chosen), D), np.float32), 0
        for start, rows in collection.blocks():
            own = rows[wanted[start : start + len(rows)]]
            sample[end : end + len(own)] = own
            end += len(own)
        index.train(sample)
        return index

    def efforts(self, images: int) -> list[int]:
        return steps(int(4 * math.sqrt(images)))

    def aim(self, effort: int) -> None:
        self.index.nprobe = effort


class Hnsw(Faiss):
    name, file = "faiss HNSW", "hnsw.faiss"

    def new(self, collection: Collection) -> Any:
        import faiss

        return faiss.IndexHNSWFlat(D, 32, faiss.METRIC_INNER_PRODUCT)

    def efforts(self, images: int) -> list[int]:
        return steps(4096, K)

    def aim(self, effort: int) -> None:
        self.index.hnsw.efSearch = effort


class Mapped(Ivf):
    name, turns, mapped = "faiss IVF, mapped", False, True


class Lance(Peer):
    """LanceDB, an embedded vector database, with an inverted file of whole vectors."""

    name, file, groups = "LanceDB", "lance", False
    table: Any

    def build(self, collection: Collection) -> dict[str, object]:
        import lancedb
        import pyarrow

        shutil.rmtree(self.path, ignore_errors=True)
        schema = pyarrow.schema([("id", pyarrow.int64()), ("vector", pyarrow.list_(pyarrow.float32(), D))])

        def batches() -> Iterator[Any]:
            for first, block in collection.blocks():
                flat = pyarrow.array(block.astype(np.float32).reshape(-1))
                columns = [
                    pyarrow.array(range(first, first + len(block))),
                    pyarrow.FixedSizeListArray.from_arrays(flat, D),
                ]
                yield pyarrow.record_batch(columns, schema=schema)

        reader = pyarrow.RecordBatchReader.from_batches(schema, batches())
        table = lancedb.connect(self.path).create_table("images", data=reader)
        lists = self.efforts(collection.images)[-1]
        table.create_index(metric="cosine", index_type="IVF_FLAT", num_partitions=lists)
        return {"index": "IVF_FLAT"}

    def open(self) -> None:
        import lancedb

        self.table = lancedb.connect(self.path).open_table("images")

    def search(self, vectors: NDArray[np.float32], effort: int) -> NDArray[np.int64]:
        """As of all; but one vector at a time."""
        wanted = (
            self.table.search(vectors[0]).distance_type("cosine").nprobes(effort).limit(K).select(["id", "_distance"])
        )
        return np.array([wanted.to_arrow()["id"].to_pylist()], np.int64)

    def efforts(self, images: int) -> list[int]:
        return steps(int(math.sqrt(images)))


PEERS: dict[str, type[Peer]] = {kind.name: kind for kind in (Flat, Ivf, Hnsw, Lance, Mapped)}
BUILT = [name for name, kind in PEERS.items() if kind.turns]


def in_the_way(images: int) -> str:
    """Return why an index of so many images cannot be built now: nothing where it can."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    need = images * D * 4 * 5 // 2  # its arrays are copied as they grow
    return f"needs {need >> 20} of {free >> 20} MB" if need > free else ""


def step_peer_build(place: str, images: str, name: str) -> None:
    """Build an index and save it, in a process that does nothing else."""
    collection = Collection(place, images, "0")
    peer, count = PEERS[name](collection.place), collection.images
    load(peer)
    start = time.perf_counter()
    with Memory() as memory:
        more = peer.build(collection)
    say(count, "build", name, (time.perf_counter() - start) / count, **more)
    memory.say(count, "memory of building", name)
    say(count, "bytes", name, on_disk(peer.path) / count)


def in_turns(collection: Collection, recall: float) -> dict[str, Callable[[int], NDArray[np.int64]]]:
    """Open all indexes; return a search of each that has the recall aimed at, and one that has another recall."""
    found: dict[str, Callable[[int], NDArray[np.int64]]] = {}
    chosen: dict[str, int] = {}
    vectors = collection.queries.astype(np.float32)

    def one(peer: Peer, n: int, effort: int) -> NDArray[np.int64]:
        answer: NDArray[np.int64] = peer.search(vectors[n : n + 1], effort)[0]
        return answer

    for peer in (PEERS[name](collection.place) for name in BUILT):
        if not peer.path.exists():
            continue
        efforts = peer.efforts(collection.images)
        chosen[peer.file] = efforts[-1]
        if peer.exact and collection.images > 100_000:  # its vectors would leave no memory to those that take turns
            continue
        peer.open()
        for label, target in ((peer.name, TARGET), (f"{peer.name}, recall of the default", recall)):
            if target == TARGET or not peer.exact:
                effort = collection.fewest(partial(one, peer), efforts, target)
                say(collection.images, "effort", label, effort, most=efforts[-1])
                found[label] = partial(one, peer, effort=effort)
                if target == TARGET:
                    chosen[peer.file] = effort
    (collection.place / EFFORTS).write_text(json.dumps(chosen), encoding="utf-8")
    return found


def opened(peer: Peer, collection: Collection) -> Callable[[NDArray[np.float32]], NDArray[np.int64]]:
    """Open an index; return a search of vectors (n, D) that has the recall aimed at."""
    effort = json.loads((collection.place / EFFORTS).read_text(encoding="utf-8"))[peer.file]
    peer.open()
    return lambda vectors: peer.search(vectors, effort)


def step_peer_search(place: str, images: str, queries: str, name: str) -> None:
    """Search an index in a process that does nothing else: one query at a time, then several at once."""
    collection = Collection(place, images, queries)
    peer, vectors = PEERS[name](collection.place), collection.queries.astype(np.float32)
    load(peer)
    with Memory() as memory:
        search = opened(peer, collection)
        for n in range(SLOW if peer.exact else len(vectors)):
            search(vectors[n : n + 1])
    memory.say(collection.images, "memory of searching", name)
    if peer.groups and peer.turns:

        def many(chosen: Sequence[int]) -> list[NDArray[np.int64]]:
            return list(search(vectors[list(chosen)]))

        in_groups(collection, name, many, lambda n: many([n])[0], slow=peer.exact)


def step_peer_cold(place: str, images: str, queries: str, name: str, number: str) -> None:
    """Open an index and search with one query, when nothing of its files is in memory."""
    collection = Collection(place, images, queries)
    peer, n = PEERS[name](collection.place), int(number)
    load(peer)
    evict(peer.path)
    start = time.perf_counter()
    opened(peer, collection)(collection.queries[n : n + 1].astype(np.float32))
    say(collection.images, "cold", name, time.perf_counter() - start)


def load(peer: Peer) -> None:
    """Import what an index needs, which is not to be timed with it."""
    __import__("lancedb" if isinstance(peer, Lance) else "faiss")
