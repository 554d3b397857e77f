"""The page in a real browser, without a window: what a person does with it, and what they see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from conftest import save
from web import serving_process

from catdb import Database

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = """<img src=x onerror="document.title='owned'">'&.png"""
# What a browser says of a server that has ended.
ENDED = ("net::ERR_CONNECTION_", "net::ERR_EMPTY_RESPONSE", "net::ERR_SOCKET_NOT_CONNECTED")

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
        found = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
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
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
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
def serving(photos: Path, database: Path) -> Iterator[str]:
    with Database(database, backbone="classic") as db:
        db.build(photos)
    with serving_process(database) as (_, url):
        yield url.rstrip("/")


@pytest.fixture
def url(photos: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server with the twelve pictures."""
    with serving(photos, tmp_path / "db") as address:
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
    page.wait_for_selector("h1")
    assert page.inner_text("h1") == f"{name} {admitted} image{'s' if admitted > 1 else ''}"
    page.wait_for_selector(".card")
    assert len(names(page)) == admitted
    page.get_by_role("link", name="Categories", exact=True).click()
    page.get_by_role("searchbox").fill(name)
    assert name in page.locator(".names li:visible").all_inner_texts()[0]
    page.get_by_role("searchbox").fill("no such thing")
    assert page.get_by_text("No category of that name").is_visible()


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
    while page.evaluate(focused) is None:
        page.keyboard.press("Tab")
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
    assert page.evaluate(focused) == wanted
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    searched(page)
    assert names(page)[0] == wanted


def test_names_are_text_whatever_they_hold(photos: Path, tmp_path: Path, look: Look) -> None:
    shutil.copy(next(photos.rglob("*.png")), photos / HOSTILE)
    shutil.copy(next(photos.rglob("*.png")), os.fsencode(photos) + b"/\xff\xfe\n.png")
    (photos / "<b>broken.jpg").write_bytes(b"no image")
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
        assert page.locator(".failures p").first.inner_text().endswith("/<b>broken.jpg")
        assert page.title() == "1 file could not be read · catdb"
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
    assert "not an image" in page.inner_text(".error")
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(21 << 20)
    page.set_input_files("#file", tmp_path / "large.jpg")
    page.wait_for_selector(".error >> text=at most 20 MB")
    page.goto(f"{url}/?image=999")
    page.wait_for_selector(".error >> text=999")


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
            page.get_by_role("button", name="show it anew").click()
            page.wait_for_function("() => document.querySelectorAll('.card:not(.waiting .card)').length === 2")


def test_a_server_that_is_gone_is_told_of(photos: Path, tmp_path: Path, look: Look) -> None:
    with serving(photos, tmp_path / "db") as address:
        page = look(address, ending=True)
        page.wait_for_selector(".card")
    page.wait_for_selector("#banner:visible")
    assert page.inner_text("#banner").startswith("The server does not answer.")
