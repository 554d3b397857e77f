"""Whom the server answers, and that no byte leaves it that it was not asked to show."""

from __future__ import annotations

import gc
import io
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from conftest import Instant, picture, save
from PIL import Image
from web import OWN, Client, raw, ready, remainder, served, serving_process

from catdb import Database
from catdb.errors import ImageUnreadable
from catdb.images import open_below
from catdb.web import guard
from catdb.web.thumbnails import Thumbnails

OpenDb = Callable[..., Database]
SECRET = b"the secret outside of the roots"


@pytest.fixture
def built(open_db: OpenDb, instant: Instant, photos: Path) -> Database:
    db = open_db(backbone=instant)
    db.build(photos)
    return db


@pytest.fixture
def client(built: Database) -> Iterator[Client]:
    with served(built) as client:
        yield client
    assert client.told == []


def guarded(headers: dict[str, str]) -> bool:
    """Say whether an answer carries what every answer has to."""
    lower = {name.lower(): value for name, value in headers.items()}
    return (
        lower.get("content-security-policy", "").startswith("default-src 'self'; ")
        and lower.get("x-content-type-options") == "nosniff"
        and lower.get("referrer-policy") == "no-referrer"
        and "access-control-allow-origin" not in lower
    )


def test_every_answer_carries_the_headers(client: Client) -> None:
    url = str(client.base_url)
    big = {"X-Catdb": "1", "Content-Length": str(1 << 30)}
    answers = [
        raw(url, "/"),
        raw(url, "/static/app.js"),
        raw(url, "/static/style.css"),
        raw(url, "/static/none"),
        raw(url, "/api/status"),
        raw(url, "/api/openapi.json"),
        raw(url, "/api/images/1/thumbnail"),
        raw(url, "/api/images/99999"),
        raw(url, "/api/images/x"),
        raw(url, "/", "DELETE", OWN),
        raw(url, "/api/search", "POST"),
        raw(url, "/api/search", "POST", big),
        raw(url, "/", headers={"Host": "foreign"}),
        raw(url, "/", headers={"Origin": "null"}),
        raw(url, "/\x00"),  # no HTTP: the server itself answers
        raw(url, "/", "GET", {"Content-Length": "x"}),
    ]
    assert [answer.status for answer in answers] == [
        *(200, 200, 200, 404, 200, 200, 200, 404, 422, 405, 403, 413, 403, 403, 400, 400)
    ]
    assert all(guarded(answer.headers) for answer in answers)
    policy = client.get("/").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


# --- whose name, whose page -----------------------------------------------------------------------------------------


def test_a_foreign_host_is_refused_before_anything_is_routed(client: Client) -> None:
    url, port = str(client.base_url), client.base_url.port
    ours = ["localhost", f"localhost:{port}", "LOCALHOST:1", "127.0.0.1", f"127.0.0.1:{port}", "[::1]", "[::1]:8000"]
    for host in ours:
        assert raw(url, "/api/status", headers={"Host": host}).status == 200, host
    foreign = [
        *("", "evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "localhost."),
        *("evil.example@localhost", "localhost@evil.example", "localhost/", "localhost:80:80", "localhost:", "127.1"),
        *("[::ffff:127.0.0.1]", "0.0.0.0", "127.0.0.2", "[::]", "::1", "localhost evil.example", "localhost,evil"),
    ]
    for host in foreign:
        for target in ("/", "/api/status", "/no/route", "/static/app.js"):
            assert raw(url, target, headers={"Host": host}).status in (400, 403), host
    assert b"evil" not in raw(url, "/", headers={"Host": "127.0.0.1"}).body


def test_two_hosts_or_none_are_refused(client: Client) -> None:
    assert client.base_url.port
    for head in ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", client.base_url.port), 30) as connection:
            connection.sendall(head.encode())
            assert connection.recv(100).split()[1] in (b"400", b"403")


def test_a_foreign_origin_is_refused_before_anything_is_routed(client: Client, photos: Path) -> None:
    url, port = str(client.base_url), client.base_url.port
    here = f"127.0.0.1:{port}"
    image = (photos / "1.png").read_bytes()
    for origin in (f"http://{here}", f"https://{here}"):
        assert raw(url, "/api/status", headers={"Origin": origin}).status == 200
        assert raw(url, "/api/search", "POST", {**OWN, "Origin": origin}, image).status == 200
    for origin in (
        *("null", "", "http://evil.example", f"http://localhost:{port}", "http://127.0.0.1", "http://127.0.0.1:1"),
        *(f"file://{here}", f"{here}", f"http://{here}/", f"http://{here}.evil.example", "chrome-extension://x"),
    ):
        for target in ("/", "/api/status", "/no/route"):
            assert raw(url, target, headers={"Origin": origin}).status == 403, origin
        assert raw(url, "/api/search", "POST", {**OWN, "Origin": origin}, image).status == 403


def test_what_a_browser_says_of_another_page_is_heeded(client: Client) -> None:
    url = str(client.base_url)

    def status(target: str, site: str, mode: str = "no-cors", dest: str = "image", method: str = "GET") -> int:
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        return raw(url, target, method, headers).status

    assert status("/api/images/1/thumbnail", "same-origin") == 200
    assert status("/api/images/1/thumbnail", "none") == 200
    assert status("/api/images/1/thumbnail", "cross-site") == 403
    assert status("/api/images/1/thumbnail", "same-site") == 403  # another port of this machine
    assert status("/", "cross-site", "navigate", "document") == 200  # a link was followed
    assert status("/", "cross-site", "navigate", "iframe") == 403
    assert status("/api/info", "cross-site", "navigate", "document") == 403


def test_what_changes_nothing_needs_a_header_of_our_own_all_the_same(client: Client, photos: Path) -> None:
    """A form of another page can post without asking, but not with a header of its own."""
    image = (photos / "1.png").read_bytes()
    for own in ({}, {"X-Catdb": "0"}, {"X-Catdb": "1, 1"}, {"Content-Type": "text/plain"}):
        assert client.post("/api/search", content=image, headers=own).status_code == 403
    assert client.post("/api/search", content=image, headers=OWN).status_code == 200


# --- token ----------------------------------------------------------------------------------------------------------


def test_with_a_token_nobody_else_is_let_in(built: Database) -> None:
    token = "s€cret; with=all & sorts/?#"
    with served(built, token=token) as client:
        bearer = {"Authorization": b"Bearer " + token.encode()}
        for url in ("/", "/api/status", "/static/app.js", "/no/route", "/api/images/1/thumbnail", "/api/openapi.json"):
            answer = client.get(url)
            assert (answer.status_code, list(answer.json())) == (401, ["error"])
            assert guarded(dict(answer.headers))
            assert client.get(url, headers=bearer).status_code == (404 if url == "/no/route" else 200)
        for wrong in (
            b"Bearer",
            b"Bearer x",
            b"Basic " + token.encode(),
            token.encode(),
            b"Bearer " + token.encode()[:-1],
        ):
            assert client.get("/api/status", headers={"Authorization": wrong}).status_code == 401
        assert client.post("/api/search", content=b"x", headers=OWN).status_code == 401
        assert client.get(f"/?token={quote(token)}x").status_code == 401
        assert client.get(f"/?token={quote(token)}{'&x' * 200}").status_code == 401  # it failed, and said so each time
        assert client.get(f"/api/status?token={quote(token)}").status_code == 401
        first = client.get(f"/?token={quote(token, safe='')}")
        assert (first.status_code, first.headers["location"]) == (303, "/")
        cookie = first.headers["set-cookie"]
        assert "; HttpOnly; SameSite=Strict; Path=/" in cookie
        assert "cret" not in cookie
        name, _, value = cookie.partition(";")[0].partition("=")
        client.cookies.clear()
        for given, status in ((value, 200), (value[:-1], 401), ("", 401), (value + "0", 401), ('"' + value, 401)):
            assert client.get("/", headers={"Cookie": f"other=1; {name}={given}"}).status_code == status
        assert client.get("/", headers={"Cookie": f"{name}={value}", "Host": "evil.example"}).status_code == 403
        again = client.get(f"/?token={quote(token, safe='')}", headers={"Cookie": f"{name}={value}"})
        assert (again.status_code, again.headers["location"]) == (303, "/")  # else it would stay in the address
        assert client.told == []


@pytest.mark.parametrize("theirs", ['state={"a": 1}', "words=a b c", "flag", 'list=[1,"b"]', "name=Jos\xe9", "=", '"'])
def test_a_cookie_of_another_program_on_this_machine_does_not_keep_one_out(built: Database, theirs: str) -> None:
    """Cookies do not know of ports: a browser sends those of everything that was ever served on localhost."""
    with served(built, token="t") as client:
        ours = client.get("/?token=t").headers["set-cookie"].partition(";")[0]
        client.cookies.clear()
        for cookies in (f"{theirs}; {ours}", f"{ours}; {theirs}"):
            assert client.get("/", headers={"Cookie": cookies.encode("latin-1")}).status_code == 200


def test_beyond_this_machine_it_starts_with_a_token_only(built: Database) -> None:
    built.close()
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with serving_process(Path(built.path), "--host", host) as (process, url):
            assert process.stderr
            said = process.stderr.read().splitlines()[-1]
            assert (process.wait(60), url) == (2, "")
            assert "--token" in said
    for token in ("", None):
        words = [] if token is None else ["--token", token]
        environment = {"CATDB_TOKEN": ""} if token is None else {}
        with serving_process(Path(built.path), "--host", "0.0.0.0", *words, env=environment) as (process, _):
            assert process.wait(60) == 2


def test_at_every_address_it_answers_to_the_one_that_was_asked(built: Database) -> None:
    with served(built, host="0.0.0.0", token="t", allow=["Photos.example", "fd00::1", "my.example:8000"]) as client:
        url = f"http://127.0.0.1:{client.base_url.port}"
        own = {"Authorization": "Bearer t"}
        for host in (
            "127.0.0.1",
            "localhost",
            "photos.example",
            "photos.example:443",
            "[fd00::1]",
            "0.0.0.0",
            "my.example",
        ):
            assert raw(url, "/api/status", headers={**own, "Host": host}).status == 200, host
        for host in ("192.0.2.1", "example", "example.photos.example"):
            assert raw(url, "/api/status", headers={**own, "Host": host}).status == 403


# --- files ----------------------------------------------------------------------------------------------------------

CLIMBS = (
    *("../{}", "../../{}", "../../../../../../../../{}", "..%2f..%2f{}", "%2e%2e/{}", "%2e%2e%2f%2e%2e%2f{}"),
    *("..%252f..%252f{}", "%252e%252e%252f{}", "....//....//{}", "..;/..;/{}", "..\\..\\{}", "..%5c..%5c{}"),
    *("%c0%ae%c0%ae/{}", "%c0%ae%c0%ae%c0%af{}", "..%c0%af{}", "%uff0e%uff0e/{}", "..%00/{}", "{}%00.png", "./{}"),
    *("/{}", "//{}", "file:///{}", "%2f{}", "1/../../../{}", "1%2f..%2f..%2f{}", "~/{}", "app.js/../../{}"),
)
PLACES = (
    *("/{}", "/static/{}", "/api/{}", "/api/images/{}", "/api/images/{}/thumbnail", "/api/images/1/{}"),
    *("/api/images?after={}", "/api/images?category={}", "/api/search?image={}", "/api/failures?after={}"),
)


def test_no_way_of_writing_a_path_leads_out(client: Client, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(SECRET)
    url = str(client.base_url)
    attempts = 0
    for target in (str(secret).lstrip("/"), "etc/passwd"):
        for climb in CLIMBS:
            for place in PLACES:
                answer = raw(url, place.format(climb.format(target)).replace(" ", "%20"))
                assert answer.status in (400, 404, 422), (place, climb)
                assert SECRET not in answer.body
                assert b"root:" not in answer.body
                attempts += 1
    assert attempts > 500


def links(photos: Path, outside: Path) -> dict[str, Callable[[], object]]:
    """Ways to have what the database knows as an image in ``photos`` be a file ``outside``."""
    below = photos / "below"

    def instead(path: Path, make: Callable[[], object]) -> Callable[[], object]:
        def do() -> None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            make()

        return do

    (outside / "way").symlink_to(outside / "0.png")
    (outside / "folder").symlink_to(outside)
    return {
        "0.png": instead(photos / "0.png", lambda: (photos / "0.png").symlink_to(outside / "0.png")),
        "1.png": instead(photos / "1.png", lambda: (photos / "1.png").symlink_to("../outside/0.png")),
        "2.png": instead(photos / "2.png", lambda: (photos / "2.png").symlink_to(outside / "way")),
        "3.png": instead(photos / "3.png", lambda: (photos / "3.png").symlink_to(outside / "folder" / "0.png")),
        "4.png": instead(photos / "4.png", lambda: (photos / "4.png").symlink_to("/dev/zero")),
        "5.png": instead(photos / "5.png", lambda: (photos / "5.png").symlink_to("/proc/self/environ")),
        "6.png": instead(photos / "6.png", lambda: (photos / "6.png").symlink_to(f"/proc/self/root{outside}/0.png")),
        "7.png": instead(photos / "7.png", lambda: (photos / "7.png").symlink_to("7.png")),
        "8.png": instead(photos / "8.png", (photos / "8.png").mkdir),
        "10.png": instead(below, lambda: below.symlink_to(outside)),
    }


def test_no_link_leads_out(client: Client, built: Database, photos: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("0.png", "10.png", "11.png"):
        save(outside / name, 500)
    ids = {Path(image.path).name: image.id for image in built.images().images}
    for name, link in links(photos, outside).items():
        link()
        for size in (160, 320, 640, 1600):
            answer = client.get(f"/api/images/{ids[name]}/thumbnail?size={size}")
            assert (answer.status_code, list(answer.json())) == (410, ["error"]), name
    (photos / "0.png").unlink()
    (photos / "0.png").symlink_to("9.png")  # within the folder it may lead
    assert client.get(f"/api/images/{ids['0.png']}/thumbnail").status_code == 200


def test_a_link_that_comes_while_a_path_is_followed_leads_nowhere(tmp_path: Path) -> None:
    """Folders are swapped for links and back, as fast as can be: what is opened is always the file within."""
    inside, outside = tmp_path / "in" / "deep", tmp_path / "out"
    for folder, words in ((inside, b"within"), (outside, SECRET)):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(words)
    spare, link, stop = tmp_path / "in" / "spare", tmp_path / "link", threading.Event()

    def swap() -> None:
        while not stop.is_set():
            link.symlink_to(outside)
            os.rename(inside, spare)
            os.rename(link, inside)
            os.unlink(inside)
            os.rename(spare, inside)

    thread = threading.Thread(target=swap)
    thread.start()
    opened, refused = 0, 0
    try:
        while opened < 200 or refused < 200:
            try:
                with open_below([str(tmp_path / "in")], str(inside / "a.png")) as file:
                    assert file.read() == b"within"
                    opened += 1
            except (OSError, ImageUnreadable):
                refused += 1
    finally:
        stop.set()
        thread.join()


def test_a_folder_of_a_name_that_begins_alike_is_outside(tmp_path: Path) -> None:
    for name in ("photos", "photos and more"):
        save(tmp_path / name / "a.png", 1)
    with open_below([str(tmp_path / "photos")], str(tmp_path / "photos" / "a.png")) as file:
        assert file.read(4) == b"\x89PNG"
    with pytest.raises(ImageUnreadable, match="outside"):
        open_below([str(tmp_path / "photos")], str(tmp_path / "photos and more" / "a.png"))
    with pytest.raises(ImageUnreadable, match="outside"):
        open_below([str(tmp_path / "photos")], str(tmp_path / "photos"))


def test_a_folder_that_is_known_by_a_link_is_a_folder_of_the_database(
    open_db: OpenDb, instant: Instant, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "by link").symlink_to(photos)
    db = open_db(backbone=instant)
    db.build(tmp_path / "by link")
    with served(db) as client:
        assert client.get("/api/images/1/thumbnail").status_code == 200


def test_an_image_that_kills_its_decoder_is_refused_and_nothing_else_happens(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG of 17 KB that is 144 megapixels, and one that asks for 2 GB."""
    bomb = io.BytesIO()
    Image.fromarray(np.zeros((1, 1), np.uint8)).convert("1").resize((12000, 12000)).save(bomb, "PNG")
    for content in (bomb.getvalue(), b"\x89PNG\r\n\x1a\n\x7f\xff\xff\xffIDAT"):
        answer = client.post("/api/search", content=content, headers=OWN)
        assert (answer.status_code, list(answer.json())) in ((422, ["error"]), (503, ["error"]))
    good = io.BytesIO()
    picture(3).save(good, "PNG")
    ready(client.base_url)
    assert client.post("/api/search", content=bomb.getvalue(), headers=OWN).status_code == 422
    assert client.post("/api/search", content=good.getvalue(), headers=OWN).status_code == 200


# --- how much -------------------------------------------------------------------------------------------------------


def test_an_upload_that_says_that_it_is_too_large_is_refused_at_once(client: Client) -> None:
    assert client.base_url.port
    for length in (guard.LARGEST + 1, 1 << 40, 10**30):
        with socket.create_connection(("127.0.0.1", client.base_url.port), 30) as connection:
            head = f"POST /api/search HTTP/1.1\r\nHost: localhost\r\nX-Catdb: 1\r\nContent-Length: {length}\r\n\r\n"
            connection.sendall(head.encode())
            answer = connection.recv(100)  # though no byte of the body was sent
            assert answer.startswith(b"HTTP/1.1 413 " if length < 1e20 else b"HTTP/1.1 400 ")
    just = client.post("/api/search", content=bytes(guard.LARGEST), headers=OWN)
    assert just.status_code == 415


def test_a_body_that_nothing_asks_for_is_refused_where_it_is_too_large(
    built: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LARGEST", 100)
    answered = threading.Event()
    monkeypatch.setattr(Thumbnails, "get", lambda self, image, size: (b"", answered.wait(60)))
    with served(built) as client:
        assert client.base_url.port
        with socket.create_connection(("127.0.0.1", client.base_url.port), 30) as connection:
            head = b"GET /api/images/1/thumbnail HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + b"c8\r\n" + bytes(200) + b"\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
            answered.set()
        gc.collect()
    assert client.told == []


def test_too_many_requests_at_once_are_sent_away(built: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "AT_ONCE", 3)
    with served(built) as client:
        assert client.base_url.port
        held = []
        for _ in range(3):  # whose bodies never come
            connection = socket.create_connection(("127.0.0.1", client.base_url.port), 30)
            head = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nX-Catdb: 1\r\nContent-Length: 10\r\n\r\n"
            connection.sendall(head)
            held.append(connection)
        while (answer := client.get("/api/status")).status_code == 200:
            pass  # they come in one after the other
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        for connection in held:
            connection.close()
        while client.get("/api/status").status_code == 503:
            pass


def test_who_never_asks_or_never_ends_is_left(built: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from catdb.web import server

    monkeypatch.setattr(server, "_HEAD", 0.3)
    monkeypatch.setattr(server, "_IDLE", 0.3)
    monkeypatch.setattr(guard, "PATIENCE", 0.3)
    with served(built) as client:
        assert client.base_url.port
        for sent, answered in (
            (b"", b""),
            (b"GET / HTTP/1.1\r\nHost: local", b""),
            (b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT", b"HTTP/1.1 200 "),
            (
                b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nX-Catdb: 1\r\nContent-Length: 9\r\n\r\nx",
                b"HTTP/1.1 408 ",
            ),
        ):
            with socket.create_connection(("127.0.0.1", client.base_url.port), 30) as connection:
                connection.sendall(sent)
                got = remainder(connection)
                assert got.startswith(answered)
                assert bool(got) == bool(answered)
        assert client.get("/api/status").status_code == 200
