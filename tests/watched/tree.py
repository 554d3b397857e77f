"""Folders of small real pictures in which anything may happen at any moment, and what an index should say of them."""

from __future__ import annotations

import os
import random
import shutil
import time
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from conftest import Instant, picture
from numpy.typing import NDArray
from PIL import Image

from catdb import Database
from catdb.checksum import digest
from catdb.images.decode import fit
from catdb.roots import Roots

MOST = 400  # files, beyond which none are added
SHARED = 60  # contents that come again and again, so that the same stands under several paths


@lru_cache(10_000)
def content(number: int) -> bytes:
    """Return the bytes of the PNG of a number."""
    stream = BytesIO()
    picture(number, (16, 16)).save(stream, "PNG")
    return stream.getvalue()


class Tree:
    """Two folders, and one random operation after the other in them. The same seed makes the same operations."""

    def __init__(self, place: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.tops = [place / "photos", place / "more"]
        for top in self.tops:
            (top / "below").mkdir(parents=True)
        self.number = 1000 * SHARED
        self._slow: list[tuple[IO[bytes], bytes]] = []
        # fmt: off
        self.operations = {
            self.create: 30, self.overwrite: 12, self.replace: 12, self.delete: 8, self.rename: 8, self.move: 8,
            self.move_folder: 4, self.copy_folder: 3, self.delete_folder: 1, self.hard_link: 3, self.symlink: 3,
            self.touch: 5, self.begin_slowly: 4, self.end_slowly: 4, self.download: 4, self.spoil: 3,
        }
        # fmt: on

    def step(self) -> str:
        """Do one operation; return its name."""
        [operation] = self.random.choices(list(self.operations), list(self.operations.values()))
        operation()
        return operation.__name__

    def finish(self) -> None:
        """Close the files that are being written slowly."""
        while self._slow:
            self.end_slowly()

    # --- what there is ------------------------------------------------------------------------------------------

    def folders(self) -> list[Path]:
        return [Path(folder) for top in self.tops for folder, _, _ in os.walk(top)]

    def files(self) -> list[Path]:
        return [path for folder in self.folders() for path in sorted(folder.iterdir()) if not path.is_dir()]

    def some_file(self) -> Path:
        """Return a file, a new one where there is none."""
        files = self.files()
        return self.random.choice(files) if files else self.create()

    def new_name(self) -> Path:
        self.number += 1
        return self.random.choice(self.folders()) / f"{self.number}.png"

    def new_content(self) -> bytes:
        self.number += 1
        return content(self.random.randrange(SHARED) if self.random.random() < 0.2 else self.number)

    # --- operations ---------------------------------------------------------------------------------------------

    def create(self) -> Path:
        path = self.new_name()
        if len(self.files()) >= MOST:
            return self.delete()
        path.write_bytes(self.new_content())
        return path

    def overwrite(self) -> None:
        path = self.some_file()
        if path.exists():  # no link that leads nowhere
            path.write_bytes(self.new_content())

    def replace(self) -> None:
        path = self.some_file()
        part = path.with_name(path.name + ".tmp")
        part.write_bytes(self.new_content())
        part.replace(path)

    def delete(self) -> Path:
        path = self.some_file()
        path.unlink()
        return path

    def rename(self) -> None:
        path = self.some_file()
        path.rename(path.with_name(self.new_name().name))

    def move(self) -> None:
        """Move a file elsewhere, now and then onto another one."""
        to = self.some_file() if self.random.random() < 0.2 else self.new_name()
        path = self.some_file()
        path.rename(to)

    def _inner(self) -> Path | None:
        inner = [folder for folder in self.folders() if folder not in self.tops]
        return self.random.choice(inner) if inner else None

    def move_folder(self) -> None:
        source, to = self._inner(), self.random.choice(self.folders())
        if source is None or to == source or source in to.parents:
            (to / f"folder {self.new_name().stem}").mkdir()
        else:
            source.rename(to / f"folder {self.new_name().stem}")

    def copy_folder(self) -> None:
        source, to = self._inner(), self.random.choice(self.folders())
        if source and to != source and source not in to.parents and len(self.files()) < MOST / 2:
            shutil.copytree(source, to / f"copy {self.new_name().stem}", symlinks=True)

    def delete_folder(self) -> None:
        source = self._inner()
        if source and sum(len(names) for _, _, names in os.walk(source)) < 20:
            shutil.rmtree(source)

    def hard_link(self) -> None:
        path = self.some_file()
        if not path.is_symlink():
            os.link(path, self.new_name())

    def symlink(self) -> None:
        path = self.some_file()
        if not path.is_symlink():
            os.symlink(path, self.new_name())

    def touch(self) -> None:
        """Give a file another time, with or without opening it."""
        path = self.some_file()
        if path.exists() and self.random.random() < 0.5:
            path.touch()
        elif path.exists():
            path.open("ab").close()

    def begin_slowly(self) -> None:
        """Write the first half of a file, new or there before, which many operations later gets the other."""
        path = self.new_name() if self.random.random() < 0.7 else self.some_file()
        data = self.new_content()
        if len(self._slow) < 5 and not path.is_symlink():
            stream = path.open("wb", buffering=0)
            stream.write(data[: len(data) // 2])
            self._slow.append((stream, data[len(data) // 2 :]))

    def end_slowly(self) -> None:
        if self._slow:
            stream, rest = self._slow.pop(0)
            with stream:
                stream.write(rest)

    def download(self) -> None:
        path = self.new_name()
        part = path.with_name(path.name + ".part")
        part.write_bytes(self.new_content())
        part.rename(path)

    def spoil(self) -> None:
        """Let a file be no image any more."""
        path = self.some_file()
        if path.exists():
            path.write_text(f"no image {self.new_name().stem}")


# --- what an index should say ---------------------------------------------------------------------------------------


def held(tops: list[Path]) -> dict[str, bytes]:
    """Return the bytes of every file that is an image, by its path, as the folders hold them now."""
    found = {}
    for top in tops:
        for folder, _, names in os.walk(top):
            for name in names:
                path = Path(folder, name)
                if path.suffix == ".png" and path.exists():
                    found[str(path)] = path.read_bytes()
    return {path: data for path, data in found.items() if _is_image(data)}


@lru_cache(10_000)
def _is_image(data: bytes) -> bool:
    try:
        Image.open(BytesIO(data)).load()
    except Exception:
        return False
    return True


@lru_cache(10_000)
def vector(data: bytes) -> NDArray[np.float16]:
    """Return the vector that an image of exactly these bytes has."""
    pixels, *_ = fit(Image.open(BytesIO(data)), Instant.input_size)
    return Instant().embed(pixels[None]).features[0].astype(np.float16)


def indexed(db: Database) -> dict[str, tuple[bytes, NDArray[np.float16] | None]]:
    """Return (digest, vector) of every image of a database, by its path, as they are at one moment."""
    with db._store.snapshot() as snapshot:
        roots = Roots(snapshot.catalog.roots(), db.path)
        return {
            roots.path(image.root, image.path): (image.digest, snapshot.catalog.vector(image.id))
            for image in snapshot.catalog.images()
        }


def differences(db: Database, tops: list[Path]) -> list[str]:
    """Say in what the index differs from the folders: which paths there are, and what is known of each content.

    An image under a link that leads nowhere is kept, as one that is out of reach for a while: it may be known or not.
    """
    truth, index = held(tops), indexed(db)
    lost = {path for path in index if os.path.islink(path) and not os.path.exists(path)}
    wrong = [f"{path}: missing" for path in truth.keys() - index.keys()]
    wrong += [f"{path}: not an image, or not there" for path in index.keys() - truth.keys() if path not in lost]
    for path in truth.keys() & index.keys():
        known, features = index[path]
        if known != digest(BytesIO(truth[path])):
            wrong.append(f"{path}: another content")
        elif features is None or not (features == vector(truth[path])).all():
            wrong.append(f"{path}: another vector")
    return sorted(wrong)


def in_step(db: Database, tops: list[Path], timeout: float) -> tuple[float, list[str]]:
    """Wait until the index is what the folders hold; return how long that took, and what is wrong if it never was."""
    start = time.monotonic()
    while True:
        wrong = differences(db, tops)
        took = time.monotonic() - start
        if not wrong or took > timeout:
            return took, wrong
        time.sleep(0.1)
