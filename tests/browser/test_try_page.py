"""Try it in a real browser: type, see a flip and who did it, go to what broke and come back; by keyboard; on a phone,
in the dark.
"""

import re

import pytest

pytest.importorskip("playwright")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

TEXT = "What is a leaky heart valve ?"
DRAWN = "id => document.querySelector(`#${id} .ms-plot`)?.data?.length > 0"
HTML = '<img src=x onerror="document.title=1"><b>Who</b> did it?'


def opened(page: Page) -> Page:
    page.get_by_role("tab", name="Try it").click()
    expect(page.locator("#ms-try-summary")).to_contain_text("Write a text")
    return page


def write(page: Page, text: str) -> None:
    page.get_by_label("A text, or up to").fill(text)
    expect(page.locator("#ms-try-bars table")).to_be_visible()


def blamed(page: Page) -> None:
    page.wait_for_function(DRAWN, arg="ms-try-blame", timeout=120_000)


def test_type_see_a_flip_and_who_did_it_then_what_broke_and_back(open_page) -> None:
    page = opened(open_page())
    write(page, TEXT)
    expect(page.locator("#ms-try-summary")).to_contain_text("question type: merge says abbreviation")
    expect(page.locator("#ms-try-bars tr[data-chosen] .ms-flip").first).to_be_visible()
    blamed(page)
    expect(page.locator("#ms-try-blame figcaption")).to_contain_text(
        "pulls this away from “question type: description”"
    )
    expect(page.locator("#ms-try-story figcaption")).to_contain_text("flips at λ")
    before = page.locator("#ms-try-bars tr[data-chosen]").inner_text()
    page.locator("#ms-try-scaling input[type=range]").focus()
    page.keyboard.press("Home")
    expect(page.locator("#ms-try-bars tr[data-chosen]")).not_to_have_text(before)
    page.locator("#ms-broke-counts").get_by_role("button", name="SMS spam").click()
    rows = page.locator("#ms-broke-rows")
    expect(rows.locator("caption").last).to_contain_text("broken by the merge", timeout=120_000)
    first = rows.locator("tbody").last.locator("tr").first
    text = first.locator("td").first.inner_text()
    first.get_by_role("button").click()
    box = page.get_by_label("A text, or up to")
    expect(box).to_have_value(text)
    expect(box).to_be_focused()
    expect(page.locator("#ms-try-bars tr[data-chosen]")).to_contain_text("SMS spam")
    expect(page.locator("#ms-try-bars tr[data-chosen]")).to_contain_text("truth")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#ms-try-summary")).to_contain_text("Write a text")


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is on what a selector names."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("one => document.activeElement.matches(one)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_the_same_by_keyboard_alone(open_page) -> None:
    page = open_page()
    expect(page.locator('#ms-verdict [data-state="done"]')).to_be_visible()
    tab_to(page, '[role=tab][data-tab-id="merge"]')
    for name in ("lessons", "try"):  # tabs are one stop, with arrows inside
        page.keyboard.press("ArrowRight")
        expect(page.locator(f'[role=tab][data-tab-id="{name}"]')).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#ms-try-summary")).to_contain_text("Write a text")
    tab_to(page, "#ms-try-text textarea")
    page.keyboard.type(TEXT)
    expect(page.locator("#ms-try-summary [role=status]")).to_contain_text(
        re.compile(r"question type: merge says abbreviation \d\.\d\d, own adapter says description \d\.\d\d")
    )
    expect(page.locator("#ms-try-bars tr[data-chosen] .ms-flip").first).to_be_visible()
    blamed(page)
    page.locator("#ms-try-blame summary").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Who did it: data")).to_contain_text("SMS spam")
    page.locator('#ms-broke-counts [data-pick="sms_spam"]').focus()
    page.keyboard.press("Enter")
    rows = page.locator("#ms-broke-rows")
    expect(rows.locator("caption").last).to_contain_text("broken", timeout=120_000)
    expect(page.locator('#ms-broke-counts [data-pick="sms_spam"]')).to_be_focused()
    rows.get_by_role("button", name="Next").focus()
    page.keyboard.press("Enter")
    expect(rows.locator("caption").last).to_contain_text("page 2")
    rows.locator("tbody").last.get_by_role("button").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("A text, or up to")).to_be_focused()
    expect(page.locator("#ms-try-summary [role=status]")).to_contain_text("SMS spam: merge says")


def test_a_pasted_text_counts_and_markup_in_it_stays_text(open_page) -> None:
    page = opened(open_page())
    title = page.title()
    write(page, HTML)
    expect(page.locator("#ms-try-summary")).to_contain_text("merge says")
    blamed(page)
    assert page.title() == title
    assert page.locator("#ms-try img, #ms-try td b:text-is('Who')").count() == 0


def test_the_tab_follows_the_merge_tab_and_gives_its_lambda_back(open_page) -> None:
    page = opened(open_page())
    write(page, TEXT)
    said = page.locator("#ms-try-bars tr[data-chosen]")
    before = said.inner_text()
    page.get_by_role("tab", name="Merge").click()
    page.locator("#ms-slider_0 input[type=number]").fill("0.2")
    page.locator("#ms-slider_0 input[type=number]").press("Tab")
    page.get_by_role("tab", name="Try it").click()
    expect(said).not_to_have_text(before)
    number = page.locator("#ms-try-scaling input[type=number]")
    expect(number).to_have_value("0.2")
    number.fill("1.3")
    number.press("Tab")
    page.get_by_role("button", name="Use this λ").click()
    page.get_by_role("tab", name="Merge").click()
    expect(page.locator("#ms-slider_0 input[type=number]")).to_have_value("1.3")


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1280, "dark")])
def test_phone_and_dark_fit_and_are_accessible(open_page, width: int, theme: str) -> None:
    page = opened(open_page(width, 800, theme))
    write(page, TEXT)
    blamed(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#ms-tabs [role=tab]").count() == 7, "no tab hides in a menu"
    for cell in page.locator("#ms-broke-counts tbody tr").first.locator("td").all():
        assert cell.bounding_box()["width"] > (100 if width == 390 else 60), "no column is squeezed"
    found = Axe().run(page, context="#ms-try", options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    serious = [v for v in found if v["impact"] in ("critical", "serious")]
    assert [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in serious] == []


def test_a_link_asks_and_holds_a_text_only_when_it_may(open_page) -> None:
    page = open_page(theme="light&tab=try&try.task=movie&try.text=A%20waste%20of%20%3Cb%3Etime%3C%2Fb%3E")
    expect(page.locator("#ms-try-bars tr[data-chosen]")).to_contain_text("movie sentiment")
    expect(page.get_by_label("A text, or up to")).to_have_value("A waste of <b>time</b>")
    linked = page.get_by_label("Text in the link")
    expect(linked).to_be_checked()
    linked.uncheck()
    page.wait_for_function("!location.search.includes('try.text')")
    page.get_by_label("A text, or up to").fill("Not for others")
    expect(page.locator("#ms-try-bars tr[data-chosen]")).to_be_visible()
    assert "others" not in page.url
    linked.check()
    page.wait_for_function("location.search.includes('try.text=Not%20for%20others')")
    assert "try.task=movie" in page.url
