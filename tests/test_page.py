"""The page in a real browser, without a window: what a person does with it, and what they see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from conftest import Instant, save, save_twelve
from PIL import Image
from web import OWN, Client, Gated, ready, served, serving_process

from catdb import Database
from catdb.errors import WeightsNotFound
from catdb.web.engine import WAITING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, JSHandle, Page, Route

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = """<img src=x onerror="document.title='owned'">'&.png"""
# What a browser says of a server that has ended: it is not there, or was not in the midst of an answer.
ENDED = (
    *("net::ERR_CONNECTION_", "net::ERR_EMPTY_RESPONSE", "net::ERR_SOCKET_NOT_CONNECTED"),
    *("net::ERR_CONTENT_LENGTH_MISMATCH", "net::ERR_INCOMPLETE_CHUNKED_ENCODING"),
)

# Every answer takes its time: what a test takes from the view before the one that it waits for, it takes every time.
LEISURELY = {"offline": False, "latency": 40, "downloadThroughput": -1, "uploadThroughput": -1}

# Under a name of another machine's, over plain HTTP, a page may do less than on localhost.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP photos.test 127.0.0.1"]

Look = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        reason = "Playwright is not installed"
    else:
        reason = "" if path else f"there is no browser: none of {', '.join(NAMES)}"
    if reason:
        if os.environ.get("CATDB_NO_SKIP"):
            pytest.fail(f"{reason}, and this test must not be skipped here")
        pytest.skip(reason)
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def look(browser: Browser) -> Iterator[Look]:
    """What opens an address in a window of its own. In the end nothing may have been wrong in any of them."""
    wrong: list[str] = []
    contexts = []
    allowed: list[str] = []

    def open_page(url: str, *, allow: str = "", ending: bool = False, **manner: object) -> Page:
        context = browser.new_context(**manner)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", LEISURELY)
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        own = (f"http://{httpx.URL(url).netloc.decode()}/", "blob:")
        page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(own) else None)
        allowed.extend([allow, *(ENDED if ending else ())])
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in wrong if not any(some and some in line for some in allowed)] == []


@contextmanager
def serving(photos: Path, database: Path, *words: str) -> Iterator[str]:
    with Database(database, backbone="classic") as db:
        db.build(photos)
    with serving_process(database, *words) as (_, url):
        yield url.rstrip("/")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the twelve pictures. It only reads, so that one will do for all tests."""
    place = tmp_path_factory.mktemp("served")
    with serving(save_twelve(place / "photos"), place / "db") as address:
        yield address


def names(page: Page) -> list[str]:
    return page.locator(".grid .card .name").all_inner_texts()


def searched(page: Page) -> str:
    page.wait_for_selector("#searched")
    return page.inner_text("#searched")


def test_an_upload_is_answered_with_what_resembles_it(url: str, photos: Path, tmp_path: Path, look: Look) -> None:
    page = look(url)
    page.wait_for_selector(".card img")
    assert page.inner_text("#count") == "12 images"
    other = tmp_path / "renamed.png"
    shutil.copy(next(photos.rglob("*.png")), other)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose an image").click()
    chooser.value.set_files(other)
    assert searched(page).startswith("searched ")
    assert page.locator(".card strong").first.inner_text() == "1.000"
    assert page.locator(".query img").get_attribute("alt") == "Query: renamed.png"
    assert page.locator(".chip").count() == 4
    assert page.locator(".query img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_a_click_searches_with_what_was_clicked_and_back_leads_back(url: str, look: Look) -> None:
    page = look(url)
    page.wait_for_selector(".card img")
    all_names = names(page)
    page.locator(".card a").nth(4).click()
    assert " of 12 images in " in searched(page)
    assert names(page)[0] == all_names[4]
    assert page.url.startswith(f"{url}/?image=")
    page.reload()
    searched(page)
    assert names(page)[0] == all_names[4]
    page.go_back()
    page.wait_for_selector("text=All images")
    assert names(page) == all_names


def test_how_far_to_search_and_what_it_cost(url: str, look: Look) -> None:
    page = look(f"{url}/?image=1")
    searched(page)
    page.get_by_text("Exact", exact=True).click()
    page.wait_for_function(
        "() => document.querySelector('#searched')?.textContent.startsWith('searched 12 of 12 images')"
    )
    assert len(names(page)) == 12
    assert page.get_by_role("radio", name="Exact").is_checked()
    page.get_by_role("combobox").select_option("10")
    page.wait_for_function("() => document.querySelectorAll('.grid:not(.waiting) .card').length === 10")


def test_a_category_restricts_and_is_browsed(url: str, look: Look) -> None:
    page = look(f"{url}/?image=1")
    searched(page)
    chip = page.locator(".chip").first
    name = chip.locator("a").inner_text()
    chip.get_by_role("button").click()
    page.wait_for_selector(f'button:has-text("Only {name}")')
    assert "that the filter admits" in searched(page) or " in 1 of " in searched(page)
    admitted = len(names(page))
    page.locator(".chip a").first.click()
    page.wait_for_selector("h1 small")  # of the category; the answer before it has none
    assert page.inner_text("h1") == f"{name} {admitted} image{'s' if admitted > 1 else ''}"
    page.wait_for_selector(".card")
    assert len(names(page)) == admitted
    page.get_by_role("link", name="Categories", exact=True).click()
    page.get_by_role("searchbox").fill(name)
    assert name in page.locator(".names li:visible").all_inner_texts()[0]
    page.get_by_role("searchbox").fill("no such thing")
    assert page.get_by_text("No category of that name").is_visible()
    own = {one["id"] for one in httpx.get(f"{url}/api/images/1").json()["categories"]}
    other = next(one for one in httpx.get(f"{url}/api/categories").json()["categories"] if one["id"] not in own)
    page.goto(f"{url}/?image=1&category={other['id']}")
    page.get_by_role("button", name=f"Only {other['name']} ✕").wait_for()


def test_dark_is_the_systems_choice_or_ones_own(url: str, look: Look) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(246, 246, 244)", "rgb(20, 21, 23)"
    page = look(url, color_scheme="dark")
    assert page.evaluate(background) == dark
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate(background) == light
    page.reload()
    assert page.evaluate(background) == light
    assert look(url, color_scheme="light").evaluate(background) == light


@pytest.mark.parametrize("where", ["/", "/?image=1", "/?view=categories", "/?view=duplicates", "/?view=failures"])
def test_a_telephone_shows_it_without_scrolling_sideways(url: str, look: Look, where: str) -> None:
    page = look(url + where, viewport={"width": 380, "height": 720}, has_touch=True)
    page.wait_for_selector(".card, .names a, .empty, #searched")
    assert page.evaluate("document.documentElement.scrollWidth") == 380
    heights = "[...document.querySelectorAll('.head nav a')].map((link) => link.getBoundingClientRect().height)"
    assert max(page.evaluate(heights)) < 44  # no name is broken into two lines


def test_the_keyboard_alone_will_do(url: str, look: Look) -> None:
    page = look(url)
    page.wait_for_selector(".card img")
    focused = "document.activeElement.closest('.card')?.querySelector('.name').textContent"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the images"
    page.keyboard.press("Enter")
    for _ in range(20):  # the page's own controls come first
        if page.evaluate(focused) is None:
            page.keyboard.press("Tab")
    assert page.evaluate(focused) is not None
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    wanted = names(page)[1]
    assert page.evaluate(focused) == wanted
    page.keyboard.press("Tab")  # its button
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] h2")
    assert page.inner_text("dialog h2").startswith(wanted)
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"() => document.querySelector('dialog h2').textContent.startsWith({names(page)[2]!r})")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    wanted = names(page)[2]  # one goes on from what was seen last
    assert page.evaluate(focused) == wanted
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    searched(page)
    assert names(page)[0] == wanted


def test_names_are_text_whatever_they_hold(photos: Path, tmp_path: Path, look: Look) -> None:
    shutil.copy(next(photos.rglob("*.png")), photos / HOSTILE)
    shutil.copy(next(photos.rglob("*.png")), os.fsencode(photos) + b"/\xff\xfe\n.png")
    hebrew = photos / "א" / "ב"
    hebrew.mkdir(parents=True)
    (hebrew / "<b>broken.jpg").write_bytes(b"no image")
    with serving(photos, tmp_path / "db") as address:
        page = look(address, ending=True)
        page.wait_for_selector(".card img")
        shown = names(page)
        assert HOSTILE in shown
        assert "\\xff\\xfe\\x0a.png" in shown
        page.locator(".card", has_text=HOSTILE).locator("a").click()
        searched(page)
        assert HOSTILE in names(page)
        page.goto(f"{address}/?view=failures")
        page.wait_for_selector(".failures li")
        assert page.locator(".failures p").first.inner_text() == str(hebrew / "<b>broken.jpg")
        lefts = [page.get_by_text(name, exact=True).bounding_box()["x"] for name in "אב"]  # type: ignore[index]
        assert lefts == sorted(lefts)  # the outer folder comes first, whichever way its name is written
        assert page.title() == "1 file could not be read · catdb"
        page.set_viewport_size({"width": 380, "height": 720})
        assert page.evaluate("(nav => nav.scrollWidth <= nav.clientWidth)(document.querySelector('nav'))")
        page.set_viewport_size({"width": 1280, "height": 720})
        page.goto(f"{address}/?view=duplicates")
        page.wait_for_selector(".group")
        assert page.locator(".group .card").count() == 3
        assert page.locator(".group .keep").count() == 1


def test_what_is_no_image_or_too_large_is_said(url: str, tmp_path: Path, look: Look) -> None:
    page = look(url, allow="Failed to load resource: the server responded with a status of 4")
    page.wait_for_selector(".card")
    (tmp_path / "text.jpg").write_text("not an image at all", encoding="ascii")
    page.set_input_files("#file", tmp_path / "text.jpg")
    page.wait_for_selector(".error")
    assert page.inner_text(".error").startswith("not an image, or of no format that catdb reads. JPEG, ")
    assert page.get_by_role("button", name="Choose another image").is_visible()
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(21 << 20)
    page.set_input_files("#file", tmp_path / "large.jpg")
    page.wait_for_selector(".error >> text=the limit is 20 MB")
    page.goto(f"{url}/?image=999")
    page.wait_for_selector(".error >> text=999")
    assert page.get_by_role("link", name="Look through the images").is_visible()
    assert page.get_by_role("button", name="Try again").count() == 0  # there will be no such image then, either


def test_the_count_grows_while_images_come_in(photos: Path, tmp_path: Path, look: Look) -> None:
    shutil.rmtree(photos)
    photos.mkdir()
    with serving(photos, tmp_path / "db") as address:
        page = look(address, ending=True)
        page.wait_for_selector("text=No images yet")
        with Database(tmp_path / "db") as db:
            save(photos / "first.png", 1)
            db.build(photos)
            page.wait_for_selector(".card")  # by itself
            assert page.inner_text("#count") == "1 image"
            save(photos / "second.png", 2)
            db.build(photos)
            page.wait_for_function("() => document.querySelector('#count').textContent === '2 images'")
            page.get_by_role("button", name="refresh the view").click()
            page.wait_for_function("() => document.querySelectorAll('.card:not(.waiting .card)').length === 2")


def test_a_server_that_is_gone_is_told_of(photos: Path, tmp_path: Path, look: Look) -> None:
    with serving(photos, tmp_path / "db") as address:
        page = look(address, ending=True)
        page.wait_for_selector(".card")
    page.wait_for_selector("#banner:visible >> text=/^The server does not answer\\./")  # it may end within an answer


def test_an_answer_that_breaks_off_is_asked_for_again(url: str, look: Look) -> None:
    page = look(f"{url}/?view=failures")
    page.wait_for_selector("h1")
    page.route("**/api/categories", lambda route: route.fulfill(body='{"categories": [{"id": "n0'))
    page.get_by_role("link", name="Categories", exact=True).click()
    page.wait_for_selector(".error >> text=/^The server's answer broke off\\./")
    page.unroute("**/api/categories")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".names a")


# --- the focus, and the steps of the history ------------------------------------------------------------------------


def answered(page: Page, act: Callable[[], object]) -> None:
    """Do something that searches again, and wait for what is found."""
    with page.expect_response(lambda answer: "/api/search?" in answer.url):
        act()
    searched(page)


def test_what_was_chosen_keeps_the_focus(url: str, look: Look) -> None:
    page = look(f"{url}/?image=1")
    searched(page)

    def focused() -> str:
        return str(page.evaluate("document.activeElement.getAttribute('data-control')"))

    page.get_by_role("radio", name="Own categories").focus()
    for mode in ("recall", "exact"):
        answered(page, lambda: page.keyboard.press("ArrowRight"))
        assert (focused(), f"mode={mode}" in page.url) == (f"mode {mode}", True)
    page.get_by_role("combobox").focus()
    answered(page, lambda: page.keyboard.press("ArrowUp"))
    assert (focused(), page.get_by_role("combobox").input_value()) == ("k", "10")
    only = page.locator(".chip button").nth(1)
    name = str(only.get_attribute("data-control"))
    only.focus()
    answered(page, lambda: page.keyboard.press("Enter"))
    assert (focused(), only.get_attribute("aria-pressed")) == (name, "true")
    page.locator(".asked").get_by_role("button", name="Only").focus()
    answered(
        page, lambda: page.keyboard.press("Enter")
    )  # it is gone, then: its like among the categories has the focus
    assert (focused(), only.get_attribute("aria-pressed")) == (name, "false")
    assert "mode=exact" in page.url
    assert "k=10" in page.url


def test_two_choices_while_the_first_is_answered_both_count(url: str, look: Look) -> None:
    page = look(f"{url}/?image=1")
    searched(page)
    held: list[Route] = []
    page.route("**/api/search?*k=10*", lambda route: held.append(route), times=1)
    page.get_by_role("combobox").select_option("10")
    page.get_by_text("Exact", exact=True).click()
    page.wait_for_selector(".grid:not(.waiting)")
    assert page.url.endswith("/?image=1&k=10&mode=exact")
    assert searched(page).startswith("searched 12 of 12 images")
    assert len(names(page)) == 10
    assert len(held) == 1


def test_the_large_view_is_a_step_of_the_history(url: str, look: Look) -> None:
    page = look(url)
    page.wait_for_selector(".card img")
    shown = names(page)
    steps = page.evaluate("history.length")

    def is_shown(place: int) -> None:
        page.wait_for_selector(f"dialog[open] h2 >> text={shown[place]}")
        page.wait_for_url(f"{url}/?show={page.locator('.card').nth(place).get_attribute('data-id')}")

    def is_closed() -> None:
        page.wait_for_selector("dialog", state="hidden")
        page.wait_for_url(f"{url}/")
        assert names(page) == shown

    page.locator(".card .more").nth(2).click()
    is_shown(2)
    page.reload()
    is_shown(2)
    page.get_by_role("button", name="Next").click()
    is_shown(3)
    page.get_by_role("button", name="Next").click()
    is_shown(4)
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Control+ArrowLeft")
    is_shown(4)
    page.keyboard.press("ArrowRight")
    is_shown(5)
    page.keyboard.press("ArrowLeft")
    is_shown(4)
    assert page.evaluate("history.length") == steps + 1
    page.go_back()
    is_closed()
    page.go_forward()
    is_shown(4)
    page.keyboard.press("Escape")
    is_closed()
    page.go_forward()
    is_shown(4)
    page.get_by_role("link", name="Search with this").click()
    searched(page)
    assert names(page)[0] == shown[4]
    page.go_back()
    is_shown(4)
    page.get_by_role("button", name="Close").click()
    is_closed()


def test_next_goes_on_beyond_what_has_been_loaded(url: str, look: Look) -> None:
    """Twelve images in pages of five."""
    page = look(f"{url}/?view=failures", allow="status of 503", viewport={"width": 380, "height": 500})
    held: list[Route] = []

    def by_five(route: Route) -> None:
        route.continue_(url=route.request.url.replace("limit=60", "limit=5"))

    page.route("**/api/images?limit=60", by_five)
    page.route("**/api/images?after=*", lambda route: held.append(route))
    page.goto(url)
    with page.expect_request("**/api/images?after=*"):  # the end is in sight: the next page is asked for
        page.wait_for_selector(".card img")
    heading = page.locator("dialog[open] h2")
    onward = page.get_by_role("button", name="Next")
    page.locator(".card .more").nth(4).click()
    page.wait_for_selector("dialog[open] h2")
    onward.click()  # waits for the page that is on its way
    page.wait_for_selector("dialog [role=status] >> text=loading")
    held[0].fulfill(status=503, json={"error": "the disk is asleep"})
    page.wait_for_selector("dialog .error >> text=the disk is asleep")
    page.unroute("**/api/images?after=*")
    page.route("**/api/images?after=*", by_five)
    for place in range(5, 12):
        page.keyboard.press("Enter" if place == 5 else "ArrowRight")
        page.wait_for_function(f"() => document.querySelectorAll('.card').length > {place}")
        card = page.locator(".card").nth(place)
        heading.filter(has_text=card.locator(".name").inner_text()).wait_for()
        page.wait_for_url(f"{url}/?show={card.get_attribute('data-id')}")
    assert len(names(page)) == len(set(names(page))) == 12
    assert (len(held), page.locator(".error").count()) == (1, 0)
    assert onward.is_disabled()
    page.keyboard.press("Escape")
    page.wait_for_url(f"{url}/")
    focused = "document.activeElement.closest('.card')?.querySelector('.name').textContent"
    assert page.evaluate(focused) == names(page)[-1]


def test_the_large_view_has_an_address_that_can_be_given_away(url: str, look: Look) -> None:
    page = look(f"{url}/?image=1&show=2", allow="status of 404")
    page.wait_for_selector("dialog[open] h2")
    steps = page.evaluate("history.length")
    page.keyboard.press("Escape")
    page.wait_for_url(f"{url}/?image=1")  # not to where one was before this page
    page.wait_for_selector("dialog", state="hidden")
    assert page.evaluate("history.length") == steps
    page.goto(f"{url}/?show=999")
    page.wait_for_selector("dialog .error >> text=999")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    assert len(names(page)) == 12


def release(page: Page, held: list[Route]) -> None:
    """Let the answers come that were held back, so far as anybody still waits for them, and have the page use them."""
    for route in held:
        route.continue_()
    for route in held:
        answer = route.request.response()
        if answer is not None:
            answer.finished()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def test_a_slow_answer_never_replaces_a_newer_one(url: str, look: Look) -> None:
    page = look(url)
    page.wait_for_selector(".card img")
    shown = names(page)
    second = page.locator(".card").nth(1).get_attribute("data-id")
    held: list[Route] = []
    page.route(f"**/api/images/{second}", lambda route: held.append(route))
    page.locator(".card .more").first.click()
    page.wait_for_selector(f"dialog[open] h2 >> text={shown[0]}")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"dialog[open] h2 >> text={shown[2]}")
    assert len(held) == 1
    release(page, held)
    assert page.inner_text("dialog h2").startswith(shown[2])
    page.keyboard.press("Escape")

    held.clear()
    page.route("**/api/status", lambda route: held.append(route))
    page.get_by_role("link", name="Categories", exact=True).click()
    page.wait_for_selector(".names a")
    page.get_by_role("link", name="Images", exact=True).click()  # whose first question is for the status
    page.wait_for_function("() => document.querySelector('main').ariaBusy === 'true'")
    page.get_by_role("link", name="Failures", exact=True).click()
    page.wait_for_selector("h1 >> text=Failures")
    page.unroute("**/api/status")
    release(page, held)
    assert page.inner_text("h1").startswith("Failures")


def test_the_way_back_leads_to_where_one_was(tmp_path: Path, look: Look) -> None:
    photos = tmp_path / "many"
    for seed in range(130):
        save(photos / f"{seed:03}.png", seed)
        (photos / f"broken{seed:03}.png").write_bytes(b"no image")
    with serving(photos, tmp_path / "db") as address:
        page = look(address, ending=True)
        for count in (60, 120, 130):
            page.wait_for_function(f"() => document.querySelectorAll('.card').length === {count}")
            page.mouse.move(300, 300)
            page.mouse.wheel(0, 100_000)
        card = page.locator(".card").nth(110)
        card.scroll_into_view_if_needed()
        place = page.evaluate("scrollY")
        assert place > 1000
        top = f"() => document.querySelectorAll('.card').length === 130 && Math.abs(scrollY - {place}) < 2"
        card.locator("a").click()
        searched(page)
        assert page.evaluate("scrollY") == 0
        page.reload()
        searched(page)
        page.go_back()
        page.wait_for_function(top)
        page.reload()
        page.wait_for_function(top)
        card.locator(".more").click()
        page.wait_for_selector("dialog[open] h2")
        page.go_back()
        page.wait_for_selector("dialog", state="hidden")
        assert page.evaluate(top.removeprefix("() => "))

        page.goto(f"{address}/?view=failures")
        page.get_by_role("button", name="Show more").click()
        page.wait_for_function("() => document.querySelectorAll('.failures li').length === 130")
        page.mouse.wheel(0, 100_000)
        page.get_by_role("link", name="Categories", exact=True).click()
        page.wait_for_selector(".names a")
        page.go_back()
        page.wait_for_function("() => document.querySelectorAll('.failures li').length === 130 && scrollY > 1000")


def test_on_a_tall_screen_pages_come_as_long_as_there_is_room(url: str, look: Look) -> None:
    page = look(f"{url}/?view=toString", viewport={"width": 1280, "height": 1600})  # no such view: all images
    page.wait_for_function("() => document.querySelectorAll('.card').length === 12")
    page.route("**/api/images?*", lambda route: route.continue_(url=route.request.url.replace("limit=60", "limit=3")))
    page.reload()
    page.wait_for_function("() => document.querySelectorAll('.card').length === 12")


# --- what is given to search with -----------------------------------------------------------------------------------


def transfer(page: Page, *files: Path) -> JSHandle:
    """Return what a browser hands to a page where files are dropped."""
    given = [(file.name, "image/png" if file.suffix == ".png" else "", list(file.read_bytes())) for file in files]
    return page.evaluate_handle(
        """(files) => {
            const given = new DataTransfer();
            for (const [name, type, bytes] of files) given.items.add(new File([new Uint8Array(bytes)], name, { type }));
            return given;
        }""",
        given,
    )


def drop(page: Page, *files: Path) -> None:
    given = transfer(page, *files)
    page.dispatch_event("main", "dragenter", {"dataTransfer": given})
    assert page.locator("#drop").is_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": given})
    assert page.locator("#drop").is_hidden()


def test_a_card_that_is_dragged_is_no_upload(url: str, photos: Path, look: Look) -> None:
    page = look(url)
    page.wait_for_selector(".card img")
    made = {"dataTransfer": transfer(page, photos / "0.png")}  # of an image that is dragged a browser makes a file
    card = page.locator(".card img").first
    card.dispatch_event("dragstart", made)
    for name in ("dragenter", "dragover"):
        page.dispatch_event("main", name, made)
        assert page.locator("#drop").is_hidden()
    page.dispatch_event("main", "drop", made)
    card.dispatch_event("dragend", made)
    assert page.url == f"{url}/"
    assert page.locator("#refused").count() == 0
    drop(page, photos / "1.png")  # from outside
    searched(page)
    assert names(page)[0] == "1.png"


def test_of_several_files_it_is_said_which_is_searched_with(url: str, photos: Path, tmp_path: Path, look: Look) -> None:
    page = look(url)
    page.wait_for_selector(".card img")
    (tmp_path / "notes.txt").write_text("no image", encoding="ascii")
    drop(page, tmp_path / "notes.txt", photos / "3.png", photos / "4.png")
    searched(page)
    assert names(page)[0] == "3.png"
    words = "Of the 3 files, only 3.png is used for the search."
    assert page.inner_text(".note") == words
    assert page.text_content("#said").endswith(words)  # type: ignore[union-attr]
    drop(page, photos / "4.png")
    page.wait_for_selector(".card .name >> nth=0 >> text=4.png")
    assert page.locator(".note").count() == 0


def test_after_a_reload_an_upload_is_not_taken_for_one_before_it(url: str, photos: Path, look: Look) -> None:
    page = look(url)
    page.wait_for_selector(".card img")
    drop(page, photos / "3.png")
    searched(page)
    page.reload()
    page.wait_for_selector("text=was not kept")
    drop(page, photos / "4.png")
    searched(page)
    page.go_back()
    page.wait_for_selector("text=was not kept")
    page.go_forward()
    page.wait_for_selector(".card .name >> nth=0 >> text=4.png")


def test_a_file_is_chosen_with_the_keyboard_from_any_view(url: str, photos: Path, look: Look) -> None:
    page = look(f"{url}/?view=categories")
    page.on("filechooser", lambda chooser: None)  # from now on, lest one opens before it is listened for
    page.wait_for_selector(".names a")
    for _ in range(7):  # the way past the page's name and its views
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Search with a file"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(photos / "5.png")
    searched(page)
    assert names(page)[0] == "5.png"


def test_how_far_to_search_is_no_choice_within_one_category(url: str, look: Look) -> None:
    page = look(f"{url}/?image=1")
    searched(page)
    modes = page.get_by_role("radiogroup", name="How far to search")
    assert modes.get_by_role("radio", disabled=False).count() == 3
    answered(page, page.locator(".chip button").first.click)
    assert modes.get_by_role("radio", disabled=True).count() == 3
    why = "A single category is always searched in full, so there is nothing to choose here."
    assert modes.get_attribute("aria-description") == why
    assert modes.locator(f'label[title="{why}"]').count() == 3
    answered(page, page.locator(".chip button").first.click)
    assert modes.get_by_role("radio", disabled=False).count() == 3
    assert modes.get_attribute("aria-description") is None


def test_a_path_is_copied_also_over_plain_http(photos: Path, tmp_path: Path, look: Look) -> None:
    with serving(photos, tmp_path / "db", "--allow-host", "photos.test") as address:
        page = look(
            f"{address.replace('127.0.0.1', 'photos.test')}/?show=1", allow="Cross-Origin-Opener-Policy", ending=True
        )
        page.wait_for_selector("dialog[open] h2")
        assert page.evaluate("[isSecureContext, typeof navigator.clipboard]") == [False, "undefined"]
        path = page.inner_text("dialog .path")
        page.get_by_role("button", name="Copy path").click()
        page.wait_for_selector("dialog [role=status] >> text=copied")
        page.keyboard.press("Escape")
        page.get_by_role("link", name="Categories", exact=True).click()
        page.get_by_role("searchbox").press("Control+V")
        assert page.get_by_role("searchbox").input_value() == path


# --- an engine that is not to be had at once ------------------------------------------------------------------------


@pytest.fixture
def known(open_db: Callable[..., Database], photos: Path) -> Path:
    """A database of the twelve pictures by the stand-in for a network."""
    db = open_db(backbone=Instant())
    db.build(photos)
    return Path(db.path)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """An image of some megabytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def home_of(client: Client) -> str:
    return str(client.base_url).rstrip("/")


def test_an_upload_waits_for_an_engine_that_is_starting(known: Path, noise: Path, look: Look) -> None:
    gated = Gated(let=0)
    with Database(known, mode="r", backbone=gated) as db, served(db) as client:
        page = look(home_of(client), allow="status of 503", ending=True)
        page.wait_for_selector("#engine >> text=The engine is starting")
        page.set_input_files("#file", noise)
        page.wait_for_selector(".told >> text=Trying again in 2 s")
        assert page.inner_text(".told").startswith("the engine is starting")
        assert page.text_content("#said") == page.inner_text(".told")
        gated.open.release(2)
        searched(page)
        assert page.locator(".chip").count() == 4
        page.goto(home_of(client))
        page.wait_for_selector(".card")
        assert page.locator("#engine").is_hidden()


def test_an_engine_that_starts_or_fails_meanwhile_is_told_of_in_place(
    known: Path, noise: Path, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = Gated(let=0)

    def no_weights(self: Database) -> tuple[int, int]:
        assert gated.open.acquire(timeout=60)
        raise WeightsNotFound("no weights: put them there")

    monkeypatch.setattr(Database, "load", no_weights)
    with Database(known, mode="r", backbone=gated) as db, served(db) as client:
        page = look(home_of(client), allow="status of 503", ending=True)
        page.wait_for_selector("#engine >> text=The engine is starting")
        page.wait_for_selector(".card")
        page.locator(".card a").nth(5).focus()
        gated.open.release()
        page.wait_for_selector("#engine >> text=no weights: put them there")
        assert page.evaluate("document.activeElement.closest('.card') !== null")
        page.set_input_files("#file", noise)
        page.wait_for_selector(".error >> text=there is no engine: no weights: put them there")
        page.go_back()
        page.locator(".card a").first.click()
        assert searched(page).startswith("searched ")


def test_an_upload_that_is_one_too_many_is_sent_again(known: Path, noise: Path, look: Look) -> None:
    gated = Gated()
    with Database(known, mode="r", backbone=gated) as db, served(db) as client, ThreadPoolExecutor(20) as pool:
        page = look(home_of(client), allow="status of 429", ending=True)
        page.wait_for_selector(".card")
        ready(client.base_url)
        gated.begun.acquire()

        def upload() -> Future[httpx.Response]:
            return pool.submit(client.post, "/api/search", content=noise.read_bytes(), headers=OWN)

        upload()
        assert gated.begun.acquire(timeout=60)  # it has a pass of its own, and its place back
        others = [upload() for _ in range(WAITING + 1)]
        assert next(as_completed(others, timeout=60)).result().status_code == 429  # every place is taken
        page.set_input_files("#file", noise)
        page.wait_for_selector(".told >> text=8 uploads are waiting already")
        assert "Trying again in 2 s" in page.inner_text(".told")
        gated.open.release(20)
        searched(page)
        assert page.locator(".results .card").count() > 0
