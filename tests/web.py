"""What the tests of the web share: a server in a thread, or in a process of its own, and requests as they are."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from conftest import Instant
from numpy.typing import NDArray

from catdb import Database
from catdb.backbones import Embedding
from catdb.web import Serving

CATDB = str(Path(sys.executable).with_name("catdb"))
OWN = {"X-Catdb": "1"}


class Client(httpx.Client):
    """A client of a server that is being tested. ``told``: what the server had to say of failures."""

    told: list[str]


@contextmanager
def served(db: Database, **how: object) -> Iterator[Client]:
    """Serve a database on a free port, in a thread."""
    told: list[str] = []
    serving = Serving(db, port=0, notice=told.append, **how)  # type: ignore[arg-type]
    ready = threading.Event()
    thread = threading.Thread(target=serving.run, args=(ready.set,))
    thread.start()
    try:
        assert ready.wait(120)
        with Client(base_url=serving.url, timeout=60, trust_env=False) as client:
            client.told = told
            yield client
    finally:
        serving.stop()
        thread.join(120)
        assert not thread.is_alive()


def ready(url: httpx.URL | str) -> None:
    """Wait until the engine of a server has started, or failed."""
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        while client.get("/api/status").json()["engine"]["state"] == "starting":
            time.sleep(0.02)  # which leaves the processor to what starts


@contextmanager
def serving_process(
    db: Path, *words: str, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``catdb serve`` on a free port; give the process and its URL once it listens."""
    command = [CATDB, "serve", "--db", str(db), "--port", "0", *words]
    pipe = subprocess.PIPE
    environment = {**os.environ, **(env or {})}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


class Gated(Instant):
    """An embedder whose passes wait to be let through. ``sizes``: how many images each one has."""

    def __init__(self, let: int = 1) -> None:
        """``let``: passes that need not wait, by default the one by which the engine starts."""
        super().__init__()
        self.sizes: list[int] = []
        self.begun = threading.Semaphore(0)
        self.open = threading.Semaphore(let)

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        self.sizes.append(len(pixels))
        self.begun.release()
        assert self.open.acquire(timeout=60)
        return super().embed(pixels)


def remainder(connection: socket.socket) -> bytes:
    """Return what still comes from a connection until it is closed, or reset."""
    got = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(10_000):
            got += part
    return got


@dataclass
class Raw:
    """An answer, byte for byte."""

    status: int
    headers: dict[str, str]
    body: bytes


def raw(url: str, target: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes = b"") -> Raw:
    """Ask for a target exactly as it is given: no client tidies it up."""
    place = httpx.URL(url)
    connection = http.client.HTTPConnection(place.host, place.port or 80, timeout=120)
    connection._validate_path = lambda path: None  # type: ignore[attr-defined]  # what is wrong is to be sent, too
    try:
        own = {name.lower() for name in headers or {}}
        connection.putrequest(method, target, skip_host="host" in own, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return Raw(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()
