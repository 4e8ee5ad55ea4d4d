"""A browser and the app for the tests here: no Chromium skips them, unless REQUIRE_BROWSER=1 says that there must be
one.
"""

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pages import served

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


def chromium() -> str | None:
    named = os.environ.get("CHROMIUM")
    return named if named and Path(named).exists() else shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def browser() -> Iterator:
    path = chromium()
    if path is None:
        reason = "there is no Chromium: install it or set CHROMIUM to its path"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # on a busy machine; what holds sooner is found sooner
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def app_url(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start `python app.py` as a user does (or take the server that APP_URL names) and wait until it answers."""
    if os.environ.get("APP_URL"):
        yield os.environ["APP_URL"]
        return
    with served(tmp_path_factory.mktemp("app"), "app.py") as url:
        yield url


@cache
def opening_query(rows: int | None, k: int | None) -> str:
    """The link to what the app opens with, at so many test rows a task, or reading so many texts of each."""
    from merging.methods import METHODS
    from merging.services.link import to_query
    from merging.services.workbench import Workbench
    from viz.panels.merge.controls import opening

    settings = opening(Workbench(), METHODS)
    return to_query(settings if k is None else settings.changed(k=k), rows or 50)


@pytest.fixture
def open_page(browser, app_url: str) -> Iterator:
    """Open the app in a new context, through a link if only so many `rows` are to be evaluated or `k` texts read; what
    `prepare` does to the page is done before. `url` is another server's.

    At the end fail on page errors, console errors and requests to other origins.
    """
    faults: list[str] = []
    homes: list[str] = []
    contexts = []

    def visit(width=1360, height=960, theme="light", rows=None, k=None, prepare=None, url=app_url, **options):
        homes.append(url.rstrip("/"))
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on("console", lambda message: message.type == "error" and faults.append(f"console: {message.text}"))
        page.on("request", lambda request: foreign(request.url) and faults.append(f"request to {request.url}"))
        if prepare is not None:
            prepare(page)
        page.goto(f"{url}?__theme={theme}" + (f"&{opening_query(rows, k)}" if rows or k else ""))
        return page

    def foreign(url: str) -> bool:
        return not url.startswith((*homes, "data:", "blob:"))

    yield visit
    for context in contexts:
        context.close()
    assert faults == []
