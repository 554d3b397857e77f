"""What the tests share: an isolated environment, pictures made here, a stand-in at the seam of the network."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from faults.library import NoCompiler, build
from numpy.typing import NDArray
from PIL import Image

from catdb import Database
from catdb.backbones import Category, Embedding
from catdb.check import check
from catdb.store import Store

CATDB = str(Path(sys.executable).with_name("catdb"))


LONGEST = (  # modules that take more than 15 s, the longest first, so that none of them is begun last
    *("backbones", "cli", "faults", "engine", "watch", "powerloss", "duplicates", "watch_cli", "watch_stress", "page"),
    *("reconcile", "concurrency", "quality", "query", "docs", "soak", "store", "recall", "web", "parts", "stateful"),
    *("damage", "shortened", "tables_cli", "int8", "web_server"),
)


def pytest_configure() -> None:
    """Let Hypothesis not take a busy machine for a slow test."""
    from hypothesis import HealthCheck, settings  # not above: processes of the tests import this module

    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first: pytest-xdist hands out whole modules (tools/test), in the order of the tests."""
    place = {f"test_{module}": number for number, module in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of converted networks, shared by all tests that do not make their own, also by those of other workers
    of pytest-xdist: a conversion takes ten seconds of computing."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "conversions"
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, conversions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the home folder, another database, or weights that lie about."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KERAS_HOME", str(home / "keras"))
    monkeypatch.setenv("CATDB_CACHE", str(conversions))
    for name in ("CATDB_DB", "CATDB_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture(autouse=True)
def sound(request: pytest.FixtureRequest, tmp_path: Path, isolated: None) -> Iterator[None]:
    """Whatever databases a test leaves behind, in this process or another, must check clean, unless marked damaged."""
    yield
    if request.node.get_closest_marker("damaged"):
        return
    for catalog in tmp_path.rglob("catalog.sqlite"):
        store = Store(str(catalog.parent), writable=False)
        if store.exists():
            assert check(store).problems == (), catalog.parent
        store.close()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real photographs and weights that $CATDB_TEST_DATA names."""
    place = os.environ.get("CATDB_TEST_DATA")
    if not place or not Path(place).is_dir():
        reason = "$CATDB_TEST_DATA names no folder with real photographs and weights"
        if os.environ.get("CATDB_NO_SKIP"):
            pytest.fail(f"{reason}, and this test must not be skipped here")
        pytest.skip(reason)
    return Path(place)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library that makes and records faults, compiled."""
    try:
        return build(tmp_path_factory.mktemp("faults"))
    except NoCompiler as error:
        if os.environ.get("CATDB_NO_SKIP"):
            pytest.fail(f"{error}, and this test must not be skipped here")
        pytest.skip(str(error))


class Instant:
    """An embedder without a network: 12 features and 10 categories from the mean colours of an image's quarters.

    ``passes`` counts the images that were embedded, which is how a test knows what was not.
    """

    backbone = "instant"
    categories = tuple(Category(f"c{number}", f"category {number}") for number in range(10))
    dimension = 12
    input_size = (16, 16)
    weights_sha256: str | None = None
    engine = "instant"
    precision = "f32"

    def __init__(self) -> None:
        self.passes = 0

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        self.passes += len(pixels)
        quarters = pixels.reshape(len(pixels), 2, 8, 2, 8, 3).mean(axis=(2, 4)).reshape(len(pixels), 12)
        features = quarters + 1.0
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        turns = np.array([zlib.crc32(row.astype(np.uint8).tobytes()) % 10 for row in quarters // 64])
        order = (turns[:, None] + np.array([0, 1, 3, 6])) % 10
        probabilities = np.tile(np.array([0.5, 0.25, 0.125, 0.0625], np.float32), (len(pixels), 1))
        return Embedding(features.astype(np.float32), order.astype(np.int32), probabilities)


@pytest.fixture
def instant() -> Instant:
    return Instant()


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Make a small picture of random colour blocks; the same seed makes the same picture."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def save(path: Path, seed: int) -> Path:
    """Write the picture of a seed as PNG (lossless), whatever the suffix; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, "PNG")
    return path


def save_twelve(folder: Path) -> Path:
    """Write twelve pictures into a folder, two of them into one below; return the folder."""
    for seed in range(10):
        save(folder / f"{seed}.png", seed)
    for seed in range(10, 12):
        save(folder / "below" / f"{seed}.png", seed)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve pictures, two of them in a folder below."""
    return save_twelve(tmp_path / "photos")


@pytest.fixture
def open_db(tmp_path: Path) -> Iterator[Callable[..., Database]]:
    """Open databases (by default ``db`` in the test's folder); whatever they hold at the end must check clean."""
    opened: list[Database] = []

    def open_(name: str = "db", **options: object) -> Database:
        database = Database(tmp_path / name, **options)  # type: ignore[arg-type]
        opened.append(database)
        return database

    yield open_
    for database in opened:
        if Path(database.path, "catalog.sqlite").exists():
            found = database.check()
            assert found.ok, found.problems
        database.close()


def run(
    *words: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command ``catdb`` in a process of its own."""
    done = subprocess.run(
        [CATDB, *map(str, words)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=120,
    )
    done.stderr = without_progress(done.stderr)
    return done


def without_progress(said: str) -> str:
    """Leave out the lines that come every ten seconds: only on a busy machine do commands of the tests take as long."""
    return re.sub(r"^[a-z ]+ [\d,]+( of [\d,]+)?, [\d,]+ failed\n", "", said, flags=re.MULTILINE)


def unprivileged() -> None:
    """Before a child's exec: root may no longer read what is closed. It stays root, for Python may lie in its home."""
    if os.getuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if ctypes.CDLL(None).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                raise PermissionError("cannot drop a capability")


@contextmanager
def child(script: str, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process that can be interrupted, whatever started the tests, and is killed at the end."""
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a shell's "&"
    command = [sys.executable, "-c", heard + script, *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
