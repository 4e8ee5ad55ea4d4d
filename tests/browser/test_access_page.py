"""What keyboards and screen readers need, and words that explain themselves."""

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

TABS = ("Merge", "Try it", "Adapters", "Diagnose", "OSRM", "Export")


def drawn(page: Page) -> Page:
    expect(page.locator("#ms-recipe pre")).not_to_be_empty()
    expect(page.get_by_role("slider", name="weight of SMS spam")).to_be_attached()
    return page


def test_groups_are_one_stop_with_arrows_inside(open_page) -> None:
    page = drawn(open_page(rows=50, k=10))
    page.get_by_role("tab", name="Merge").focus()
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Export")).to_be_focused()
    expect(page.get_by_role("tab", name="Export")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Home")
    assert page.locator("[role=tab][tabindex='0']").all_inner_texts() == ["Merge"]
    group = page.get_by_role("radiogroup", name="Orthogonalize")
    assert group.locator("input[tabindex='0']").count() == 1
    group.locator("input:checked").focus()
    page.keyboard.press("ArrowLeft")
    expect(group.locator("input[value=off]")).to_be_checked()
    expect(page.locator("#ms-recipe pre")).not_to_contain_text("balanced")


def test_a_term_is_explained_on_hover_and_focus_with_its_formula(open_page) -> None:
    page = drawn(open_page(rows=50, k=10))
    tip = page.get_by_role("tooltip")
    page.locator("#ms-verdict .ms-term").focus()
    expect(tip).to_contain_text("Which share of what the adapters add")
    expect(tip.locator("math")).to_have_count(1)
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "ms-tip"
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    page.locator("#ms-slider_0 [data-testid=block-info]").hover()
    expect(tip).to_contain_text("Factor on the merged update")
    expect(tip).to_be_in_viewport()


def test_the_hint_of_a_first_visit_is_dismissed_for_good(open_page) -> None:
    page = drawn(open_page(rows=50, k=10))
    page.get_by_role("button", name="Got it").click()
    expect(page.locator("#ms-hint")).to_have_count(0)
    assert page.evaluate("localStorage.getItem('mergescope-hint')") == "seen"


def test_a_link_leads_past_the_header_and_the_focus_is_seen(open_page) -> None:
    page = drawn(open_page(rows=50, k=10))
    page.locator(".ms-skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "tabpanel"
    page.get_by_role("slider", name="weight of SMS spam").focus()
    page.keyboard.press("ArrowLeft")
    width = "getComputedStyle(document.activeElement).outlineWidth"
    assert page.evaluate(width) == "2px"
    expect(page.locator("#ms-live")).to_contain_text("Evaluating")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_tab(open_page, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # at rest: a colour that is changing is none of the palette's
    page = drawn(open_page(rows=50, k=10, theme=theme, reduced_motion="reduce"))
    grave = []
    for name in TABS:
        page.get_by_role("tab", name=name, exact=True).click()
        expect(page.locator("#ms-tabs > [role=tabpanel]:visible")).to_have_count(1)
        grave += [
            f"{name}: {violation['id']}: {node['html'][:160]}"
            for violation in Axe().run(page).response["violations"]
            if violation["impact"] in {"critical", "serious"}
            for node in violation["nodes"]
        ]
    assert grave == []
