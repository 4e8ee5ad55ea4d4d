"""The gallery draws what is opened, a teacher's view shows one figure, a quiz holds its answers back, a hand-out
prints, and a phone has room for it all.
"""

import pytest

pytest.importorskip("playwright")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

CARD = ".ms-lesson"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


def arrived(page: Page, place: str) -> Page:
    expect(page.locator(f'{CARD}[data-arrived="{place}"]')).to_be_visible()
    return page


def test_a_figure_is_drawn_when_its_card_is_opened(open_page) -> None:
    page = open_page(theme="light&figure=do_1c")
    expect(page.locator("#ms-figure-do_1c .main-svg").first).to_be_visible()
    expect(page.locator("#ms-figure-do_1c figcaption")).to_contain_text("Not reproduced")
    other = page.locator("#ms-figure-osrm_4")
    assert page.locator("#ms-gallery .main-svg").count() == page.locator("#ms-figure-do_1c .main-svg").count()
    other.locator("summary").first.click()
    expect(other.locator(".main-svg").first).to_be_visible()
    other.get_by_role("button", name="Lesson of OSRM, figure 4").click()
    arrived(page, "osrm_helps/4")


def test_a_teacher_shows_one_figure_with_its_control_and_walks_by_arrows(open_page) -> None:
    page = arrived(open_page(1280, 720, "light&present=1&lesson=scaling"), "scaling/1")
    expect(page.locator("#ms-accuracy .main-svg").first).to_be_visible()
    expect(page.locator("#ms-slider_0")).to_be_visible()
    for hidden in ("#ms-header", "#ms-sweep", "#ms-pool", "#ms-recipe"):
        expect(page.locator(hidden)).to_be_hidden()
    inside = (
        "node => { const box = node.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight + 1 }"
    )
    assert page.locator(CARD).evaluate(inside)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('.ms-lesson [data-say]')).fontSize)") >= 18
    left = page.locator("#ms-accuracy").bounding_box()
    assert left["x"] + left["width"] <= page.locator(CARD).bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    arrived(page, "scaling/2")
    assert "present=1" in page.url
    page.get_by_role("button", name="QR code").click()
    expect(page.locator(".ms-code svg")).to_be_visible()
    expect(page.locator(".ms-code p")).to_contain_text("?lesson=scaling")
    page.get_by_role("button", name="Close").click()
    expect(page.locator(".ms-code")).to_have_count(0)


def test_a_quiz_holds_the_answer_back_until_it_is_asked_for(open_page) -> None:
    page = arrived(open_page(theme="light&quiz=1&lesson=scaling&step=2"), "scaling/2")
    page.get_by_role("button", name="That is my guess").click()
    figure = page.locator("#ms-figures > .ms-card").first
    expect(page.get_by_role("button", name="Show what happened")).to_be_visible()
    expect(figure).to_be_hidden()
    assert "measured" not in page.locator(f"{CARD} [data-guess]").inner_text()
    page.get_by_role("button", name="Show what happened").click()
    expect(page.locator(f"{CARD} [data-happened]")).to_contain_text("far below the base")
    expect(page.locator(f"{CARD} [data-guess]")).to_contain_text("measured")
    expect(figure).to_be_visible()


def test_a_lesson_has_a_hand_out(open_page) -> None:
    page = open_page()
    page.get_by_role("tab", name="Lessons").click()
    with page.context.expect_page() as opened:
        page.get_by_role("button", name="Hand-out of Adding adapters, to print").click()
    sheet = opened.value
    expect(sheet.get_by_role("heading", name="Adding adapters", exact=True)).to_be_visible()
    expect(sheet.locator("h2")).to_have_count(12)
    expect(sheet.locator("body")).to_contain_text("My guess: ______ %")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_has_room_and_everybody_can_read_it(open_page, theme: str) -> None:
    page = open_page(390, 800, theme)
    expect(page.locator("#ms-recipe pre")).not_to_be_empty()
    page.evaluate("window.mergescopeScreen.go('Lessons')")
    expect(page.locator("[data-lesson=scaling]")).to_be_visible()
    assert serious(page, "#ms-lessons") == []
    page.locator("[data-lesson=scaling]").click()
    arrived(page, "scaling/1")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = page.locator(CARD).bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] <= 0.5 * 800
    page.get_by_role("button", name="Next").click()
    arrived(page, "scaling/2")
    assert serious(page, CARD) == []


def serious(page: Page, within: str) -> list[str]:
    found = Axe().run(page, context=within, options={"runOnly": RULES}).response["violations"]
    return [
        f"{rule['id']}: {rule['nodes'][0]['html'][:120]}" for rule in found if rule["impact"] in ("serious", "critical")
    ]
