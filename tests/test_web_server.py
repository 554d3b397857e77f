"""``catdb serve`` as a process: how it begins and ends, what it prints, and what it takes of the machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
from conftest import CATDB, Instant, child, run, save, save_twelve
from web import OWN, Gated, ready, remainder, served, serving_process

from catdb import Database

OpenDb = Callable[..., Database]
get = partial(httpx.get, timeout=120)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the twelve pictures by the network that needs no weights, to be copied."""
    place = tmp_path_factory.mktemp("original")
    with Database(place / "db", backbone="classic") as db:
        assert db.build(save_twelve(place / "photos")).added == 12
    return place / "db"


@pytest.fixture
def built(original: Path, photos: Path, tmp_path: Path) -> Path:
    """A copy of that database, beside a copy of the pictures."""
    return Path(shutil.copytree(original, tmp_path / "db"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_says_where_it_listens_and_ends_in_good_order(built: Path, number: int, code: int) -> None:
    with serving_process(built) as (process, url):
        assert get(url).text.startswith("<!doctype html>")
        assert get(f"{url}api/search?image=1").json()["total"] == 12
        kept = httpx.Client(timeout=120)  # whose connection is open when it ends
        assert kept.get(f"{url}api/status").status_code == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        kept.close()
    assert url.startswith("http://127.0.0.1:")
    assert (process.returncode, out) == (code, "")
    assert err.splitlines() == ["catdb: finishing what is under way; again to stop at once", "catdb: stopped"]


def test_it_ends_though_answers_are_under_way_and_clients_wait(built: Path) -> None:
    with serving_process(built) as (process, url):
        ready(url)
        place = ("127.0.0.1", httpx.URL(url).port or 0)
        with socket.create_connection(place) as never, socket.create_connection(place) as half:
            half.sendall(b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nX-Catdb: 1\r\nContent-Length: 9\r\n\r\nx")
            get(f"{url}api/duplicates")
            start = time.monotonic()
            process.terminate()
            assert process.wait(120) == 0
            assert time.monotonic() - start < 45  # the grace is one; the client that is slow would be left after sixty
            assert never.recv(1) == b""


def test_the_second_signal_ends_it_at_once(built: Path) -> None:
    """Also where the network is still being loaded, which heeds nobody. The grace is long, lest it ends by itself."""
    head = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nX-Catdb: 1\r\nContent-Length: 9\r\n\r\nx"
    patient = "import catdb.web.server as room\nroom._GRACE = 600\nfrom catdb.cli import main\nmain()\n"
    with child(patient, "serve", "--db", built, "--port", "0") as process:
        assert process.stdout
        assert process.stderr
        url = process.stdout.readline().strip()
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) as half:
            half.sendall(head)
            assert get(f"{url}api/status").status_code == 200
            process.send_signal(signal.SIGINT)
            assert "again to stop" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 130
            assert process.stderr.read() == "catdb: stopped at once\n"


def test_where_there_is_no_database_it_says_so(tmp_path: Path) -> None:
    for words in ([], ["--db", str(tmp_path / "none")]):
        done = run("serve", *words, "--port", "0")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("catdb: ")
        assert done.stderr.endswith("make one with catdb build\n" if not words else "catdb build makes one\n")


def test_where_it_cannot_listen_it_says_so_in_a_line(built: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--db", built, "--port", str(port))
        line = f"catdb: 127.0.0.1:{port}: Address already in use; choose another --port\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    done = run("serve", "--db", built, "--token", "t", "--host", "192.0.2.77")  # kept for examples: no machine has it
    line = "catdb: 192.0.2.77:8000: Cannot assign requested address; choose another --host\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    done = run("serve", "--db", built, "--host", "no.such.host.invalid")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no.such.host.invalid: " in done.stderr
    assert run("serve", "--db", built, "--port", "65536").returncode == 2


def test_an_address_is_taken_as_it_stands_in_a_url(built: Path) -> None:
    with serving_process(built, "--host", "[::1]") as (_, url):
        assert url.startswith("http://[::1]:")
        assert get(f"{url}api/status").status_code == 200


def test_it_opens_a_browser_when_it_listens(built: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {fifo}\n')
    browser.chmod(0o755)
    environment = {"BROWSER": str(browser)}
    with serving_process(built, "--open", "--token", "a b&c", env=environment) as (_, url):
        assert fifo.read_text() == f"{url}?token=a%20b%26c\n"
        assert get(f"{url}?token=a%20b%26c").status_code == 303


def resident(process: int) -> int:
    """Return the memory that a process holds, in MB, now and at most so far."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def test_a_gigabyte_in_chunks_is_refused_after_the_cap_and_costs_no_memory(built: Path, photos: Path) -> None:
    with serving_process(built) as (process, url):
        ready(url)
        for _ in range(3):  # whatever an upload loads is loaded
            assert (
                httpx.post(
                    f"{url}api/search", content=(photos / "1.png").read_bytes(), headers=OWN, timeout=120
                ).status_code
                == 200
            )
        before = resident(process.pid)
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), 60) as connection:
            connection.sendall(
                b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nX-Catdb: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
            sent = 0
            try:
                for _ in range(1024):
                    connection.sendall(chunk)
                    sent += 1
                connection.sendall(b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                pass
            answer = remainder(connection)
        grown = resident(process.pid) - before
        assert answer.startswith(b"HTTP/1.1 413 ") or (not answer and 20 <= sent < 1024)
        assert b"connection: close" in answer or not answer
        assert grown < 50, f"{grown} MB"
        assert get(f"{url}api/search?image=1").status_code == 200


def test_who_still_listens_to_a_refusal_hears_it(built: Path) -> None:
    """A client that sends all of a body that is somewhat too large, and looks for an answer only then."""
    with serving_process(built) as (_, url):
        answer = httpx.post(f"{url}api/search", content=iter([bytes(1 << 20)] * 30), headers=OWN, timeout=120)
        assert (answer.status_code, list(answer.json())) == (413, ["error"])


def test_the_work_of_a_client_that_has_gone_is_dropped(open_db: OpenDb, photos: Path) -> None:
    gated = Gated()
    with open_db(backbone=Instant()) as db:
        db.build(photos)
    new = save(photos.parent / "new.png", 99).read_bytes()
    with Database(db.path, mode="r", backbone=gated) as reader, served(reader) as client:
        url = str(client.base_url)
        ready(url)
        assert gated.begun.acquire(timeout=60)
        head = f"POST /api/search HTTP/1.1\r\nHost: localhost\r\nX-Catdb: 1\r\nContent-Length: {len(new)}\r\n\r\n"
        sockets = []
        for _ in range(3):
            connection = socket.create_connection(("127.0.0.1", client.base_url.port or 0), 60)
            connection.sendall(head.encode() + new)
            sockets.append(connection)
            if len(sockets) == 1:
                assert gated.begun.acquire(timeout=60)  # the first one's pass has begun
        for connection in sockets:
            connection.close()
        end = time.monotonic() + 120
        while connections(client.base_url.port or 0):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert client.get("/api/status").status_code == 200  # answered after what it was told of those who have gone
        gated.open.release(10)
        assert client.post("/api/search", content=new, headers=OWN).status_code == 200
        assert gated.sizes == [1, 1, 1]  # to start, of the first, and the last: none of those that had gone
        assert client.told == []


def connections(port: int) -> list[str]:
    """Return the connections to a port that are established, from its own side."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[1].endswith(f":{port:04X}") and line.split()[3] in ("01", "08")]


def test_it_serves_beside_a_watch(photos: Path, tmp_path: Path) -> None:
    words = [CATDB, "watch", str(photos), "--db", str(tmp_path / "db"), "--backbone", "classic", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stderr
            assert watch.stdout
            assert any("in step" in line for line in watch.stderr)
            with serving_process(tmp_path / "db") as (_, url):
                status = get(f"{url}api/status").json()
                assert status["images"] == 12
                assert str(watch.pid) in status["watcher"]
                save(photos / "new.png", 99)
                assert any("new.png" in line for line in watch.stdout)
                assert get(f"{url}api/status").json()["images"] == 13
                [new] = [i for i in get(f"{url}api/images").json()["images"] if i["path"].endswith("new.png")]
                assert get(f"{url}api/search?image={new['id']}").json()["matches"][0]["id"] == new["id"]
        finally:
            watch.terminate()
            watch.communicate(timeout=120)


def test_nothing_is_logged_and_no_traceback_is_seen(built: Path) -> None:
    with serving_process(built) as (process, url):
        ready(url)
        place = ("127.0.0.1", httpx.URL(url).port or 0)
        for sent in (
            b"\x16\x03\x01\x02\x00\x01",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\x00 HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
        ):
            with socket.create_connection(place, 120) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1000):
                    pass
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x" * 24}
        assert get(f"{url}api/status", headers=upgrade).status_code == 200
        assert get(f"{url}api/images/77").status_code == 404
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert (out, err.splitlines()[1:]) == ("", ["catdb: stopped"])


def test_served_from_python_in_a_thread(built: Path) -> None:
    script = (
        "import sys, threading\nfrom catdb import Database\nfrom catdb.web import Serving\n"
        "with Database(sys.argv[1], mode='r') as db:\n"
        "    serving = Serving(db, port=0)\n"
        "    thread = threading.Thread(target=serving.run, args=(lambda: print(serving.url, flush=True),))\n"
        "    thread.start()\n    sys.stdin.read()\n    serving.stop()\n    thread.join()\n"
    )
    with child(script, built) as process:
        assert process.stdout
        assert process.stdin
        url = process.stdout.readline().strip()
        assert get(f"{url}api/info").json()["images"] == 12
        process.stdin.close()
        assert process.wait(120) == 0
        assert process.stderr
        assert process.stderr.read() == ""


def test_without_a_terminal_or_stdin_it_serves_as_well(built: Path) -> None:
    command = [CATDB, "serve", "--db", str(built), "--port", "0"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        process.terminate()
        assert process.wait(120) == 0
    assert sys.platform != "win32"


def test_with_its_output_closed_it_serves_and_ends_as_well(built: Path) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", CATDB, "serve", "--db", str(built), "--port", "0", "--token", "t"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr
        url = process.stderr.readline().split()[-1].partition("?")[0]
        assert get(f"{url}api/status", headers={"Authorization": "Bearer t"}).status_code == 200
        process.terminate()
        assert process.wait(120) == 0
        assert process.stderr.read().splitlines()[1:] == ["catdb: stopped"]  # after what it is finishing
