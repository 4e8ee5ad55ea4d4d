"""Every step of every lesson, in one browser session: its screen comes, what to touch is there and marked, the guess is
scored, doing it is noticed, and leaving gives the former screen back.
"""

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect

from merging.services.lessons import Lesson, Step, shipped_lessons

pytestmark = pytest.mark.slow

LESSONS = shipped_lessons()
NUMBERS = ("slider_0", "seed", "k", "limit", "weight_2", "penalty", "mu", "plan-k", "export-rank")
OTHERS = ("#ms-method input", "#ms-found-method input", "#ms-part-1 input", "#ms-try-text textarea")
PICKED = ("#ms-pool", "#ms-plan-variant")
CARD = ".ms-lesson"


def screen(page: Page) -> dict[str, object]:
    """What the controls that lessons touch say, on whatever tab."""
    values = [*(f"#ms-{name} input[type=number]" for name in NUMBERS), *OTHERS]
    labels = [f"{name} label:has(input:checked)" for name in PICKED]
    said = (
        "selector => { const node = document.querySelector(selector); return node?.value ?? node?.textContent.trim() }"
    )
    return {selector: page.evaluate(said, selector) for selector in [*values, *labels]}


def at(page: Page, lesson: Lesson, place: int) -> None:
    expect(page.locator(f'{CARD}[data-arrived="{lesson.id}/{place + 1}"]')).to_be_visible()


def guess(page: Page, step: Step) -> None:
    """Guess wrongly by the bar's lower end or rightly by the choice, and read what the card makes of it."""
    results = page.locator("#ms-figures > .ms-card").first
    if step.tab == "merge":
        expect(results).to_be_hidden()
    if step.guess.choices:
        page.locator(f"{CARD} fieldset button").nth(step.guess.answer).click()
        expect(page.locator(f"{CARD} [data-guess]")).to_contain_text("Right")
    else:
        page.get_by_role("slider", name="Your guess in percent").press("Home")
        page.get_by_role("button", name="That is my guess").click()
        expect(page.locator(f"{CARD} [data-guess]")).to_contain_text("measured")
    if step.tab == "merge":
        expect(results).to_be_visible()


def do(page: Page, step: Step) -> None:
    """Do what the step asks for, by the condition that it waits for."""
    done, touch = step.done, page.locator(step.touch).first
    expect(page.locator(f"{CARD} [data-task]")).to_have_attribute("data-state", "open")
    number, choice = touch.locator("input[type=number]"), touch.locator("input[role=listbox], input[role=combobox]")
    kind = touch.evaluate("node => node.tagName")
    if number.count():
        value = done.at_most if done.at_most is not None else done.at_least
        number.fill(str(0.5 if value is None else value))
        number.press("Tab")
    elif choice.count():
        choice.click()
        page.get_by_role("option", name=done.begins or "").first.click()
    elif kind == "SELECT":
        touch.select_option(index=1)
    elif kind == "svg":
        touch.locator("[role=slider]").first.press("ArrowUp")
    elif done.begins:
        touch.locator("label", has_text=done.begins).first.click()
    elif done.clicked:
        touch.click()
    else:
        touch.locator("textarea").fill("Where is the Louvre?")
    expect(page.locator(f"{CARD} [data-task]")).to_have_attribute("data-state", "done")


def walk_path(page: Page) -> None:
    while page.locator(f"{CARD} [data-path] fieldset").count():
        page.locator(f"{CARD} [data-path] fieldset button").first.click()


@pytest.fixture(scope="module")
def shared(browser, app_url: str) -> Iterator[tuple[Page, list[str]]]:
    context = browser.new_context(viewport={"width": 1280, "height": 720}, reduced_motion="reduce")
    page, faults = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
    page.on("console", lambda message: message.type == "error" and faults.append(f"console: {message.text}"))
    page.on("request", lambda r: r.url.startswith((app_url, "data:", "blob:")) or faults.append(f"request to {r.url}"))
    page.goto(app_url)
    expect(page.locator("#ms-recipe pre")).not_to_be_empty()
    for tab in ("Export", "Try it", "OSRM"):  # these take up the merge when they are opened
        page.get_by_role("tab", name=tab).click()
    expect(page.locator("#ms-osrm .main-svg").first).to_be_visible()
    yield page, faults
    context.close()


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.id)
def test_a_lesson_can_be_walked_and_left(shared: tuple[Page, list[str]], lesson: Lesson) -> None:
    page, faults = shared
    before = screen(page)
    page.get_by_role("tab", name="Lessons").click()
    page.locator(f'button[data-lesson="{lesson.id}"]').first.click()
    for place, step in enumerate(lesson.steps):
        at(page, lesson, place)
        expect(page.locator("[data-ms-touch]")).to_be_visible()
        assert page.locator(step.touch).first.evaluate("node => node.dataset.msTouch !== undefined"), step.touch
        assert page.evaluate("document.activeElement.dataset.title !== undefined")
        if step.guess:
            guess(page, step)
        if step.do:
            do(page, step)
        if step.path:
            walk_path(page)
        expect(page.locator(f"{CARD} [data-happened]")).to_be_visible()
        expect(page.locator(f"{CARD} .ms-lesson-said")).not_to_be_empty()
        page.locator(f"{CARD} [data-title]").focus()
        if place + 1 < len(lesson.steps):
            page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Finish").click()
    expect(page.locator(CARD)).to_be_hidden()
    expect(page.get_by_role("tab", name="Lessons")).to_have_attribute("aria-selected", "true")
    expect(page.locator(f'[data-lesson-item="{lesson.id}"] [data-progress]')).to_have_text(
        f"{len(lesson.steps)} of {len(lesson.steps)} done."
    )
    assert screen(page) == before
    assert faults == []


def test_an_address_opens_a_step_and_a_lesson_keeps_to_it(open_page) -> None:
    page = open_page(theme="light&lesson=scaling&step=3")
    at(page, LESSONS[[lesson.id for lesson in LESSONS].index("scaling")], 2)
    expect(page.locator(f"{CARD} [data-place]")).to_have_text("Adding adapters · step 3 of 6")
    expect(page.locator("#ms-slider_0 input[type=number]")).to_have_value("1")
    page.get_by_role("button", name="Fold the card").click()
    expect(page.locator(f"{CARD} [data-say]")).to_be_hidden()
    assert "lesson=scaling&step=3" in page.url
    page.get_by_role("button", name="Leave the lesson").click()
    expect(page.locator(CARD)).to_be_hidden()
    expect(page.locator("#ms-recipe pre")).to_contain_text("do_merging")
    assert "lesson=" not in page.url
