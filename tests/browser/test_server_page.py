"""A server that is full of work: who waits sees a place, who cancels or leaves gives it up, and the server says so."""

import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from gradio_client import Client

pytest.importorskip("playwright")
from pages import served
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

LONG = "?pool=papers&method=task_arithmetic&limit=1000&scaling="


def health(url: str) -> dict[str, Any]:
    with urlopen(f"{url}healthz", timeout=10) as answer:
        return json.load(answer)


def until(url: str, kind: str = "evaluations", **expected: int) -> None:
    """Wait until the server says that so much of a kind of work runs and waits."""
    deadline = time.monotonic() + 30
    while (queue := health(url)["queue"][kind]) | expected != queue:
        assert time.monotonic() < deadline, queue
        time.sleep(0.3)


def state(page: Page, name: str) -> Any:
    return page.locator(f"#ms-verdict section[data-state={name}]")


def test_the_queue_is_seen_left_and_told(browser, tmp_path: Path) -> None:
    variables = {"MERGESCOPE_PROFILE": "cpu", "MERGESCOPE_EVALUATIONS": "1", "MERGESCOPE_OWN_TASKS": "7"}
    with served(tmp_path, "app.py", **variables) as url:
        pages = []
        for place in range(3):
            pages.append(browser.new_context().new_page())
            pages[-1].goto(f"{url}{LONG}0.{place + 1}7")
            expect(state(pages[-1], "waiting" if place else "running")).to_be_visible(timeout=30_000)
        first, second, third = pages
        expect(state(third, "waiting")).to_contain_text("waiting, place 2 of 2")
        opacity = "element => getComputedStyle(element.closest('.prose') ?? element).opacity"
        assert state(third, "waiting").evaluate(opacity) == "1"
        until(url, running=1, waiting=2)
        assert health(url)["visitors"] == 3
        # one fold for people, one address for programs, the same numbers
        third.get_by_role("button", name="About this server").click()
        row = third.locator("#ms-server tr[data-kind=evaluations]")
        expect(row).to_have_text(re.compile("evaluations1 of 12"))
        expect(third.locator("#ms-server")).to_contain_text("own tasks of a visitor7")
        second.locator("#ms-cancel").click()
        expect(state(second, "stopped")).to_be_visible()
        until(url, running=1, waiting=1)
        expect(state(third, "waiting")).to_contain_text("waiting, place 1 of 1")
        expect(row).to_have_text(re.compile("evaluations1 of 11"))
        searched(url, first, second)
        first.context.close()
        expect(state(third, "running")).to_be_visible(timeout=15_000)
        until(url, running=1, waiting=0)
        assert health(url)["visitors"] == 2
        third.context.close()
        until(url, running=0, waiting=0)
        told(tmp_path / "log.txt")


def searched(url: str, first: Page, second: Page) -> None:
    """Let two search at once: the second waits, sees its place and gives it up."""
    for page in (first, second):
        page.get_by_role("button", name="Find it").click()
        until(url, "searches", running=1, waiting=int(page is second))
    note = second.locator("#ms-tune-note")
    expect(note).to_contain_text("waiting, place 1 of 1")
    second.locator("#ms-tune-stop").click()
    expect(note).to_have_text("Stopped; nothing was measured.")
    until(url, "searches", running=1, waiting=0)
    first.locator("#ms-tune-stop").click()
    until(url, "searches", running=0, waiting=0)


def test_what_may_not_even_wait_is_told_so_and_can_be_asked_again(browser, tmp_path: Path) -> None:
    # what a page draws for itself waits for a moment, too
    with served(tmp_path, "app.py", MERGESCOPE_PROGRAMS="1", MERGESCOPE_WAITING="3") as url:
        program = Client(url, verbose=False)
        merge = {"method": "task_arithmetic", "scaling": 0.37}
        jobs = [program.submit(merge, pool="papers", rows=1000, api_name="/evaluate") for _ in range(4)]
        until(url, "programs", running=1, waiting=3)
        assert health(url)["status"] == "full"
        page = browser.new_context().new_page()
        page.goto(f"{url}{LONG}0.93")
        refused = page.locator("#ms-verdict [role=alert]")
        expect(refused).to_have_text(re.compile("3 pieces of work wait here already.*try again in a minute"))
        for job in reversed(jobs):
            job.cancel()
        until(url, "programs", running=0, waiting=0)
        page.locator("#ms-again").click()
        expect(state(page, "running")).to_be_visible(timeout=30_000)


def told(log: Path) -> None:
    """Look at what the server writes of its jobs, each once its last step has ended."""
    wanted = [("evaluations", "stopped")] * 2 + [("searches", "stopped")]
    deadline = time.monotonic() + 30
    while True:
        jobs = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        if len(jobs) >= len(wanted) or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    assert sorted((job["kind"], job["outcome"]) for job in jobs) == wanted
    assert len({job["visitor"] for job in jobs}) == 2
    assert all(set(job) == {"time", "kind", "seconds", "outcome", "visitor"} for job in jobs)
