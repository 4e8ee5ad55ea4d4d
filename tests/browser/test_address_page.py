"""The address says what the page shows, tab and choices too; Back and Forward show it again."""

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Page, Route, expect

from merging.shipped import POOLS

pytestmark = pytest.mark.slow


def drawn(page: Page) -> Page:
    expect(page.locator("#ms-recipe pre")).not_to_be_empty()
    return page


def tab(page: Page, name: str) -> None:
    expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute("aria-selected", "true")


def address(page: Page, *parts: str) -> None:
    page.wait_for_function("parts => parts.every((part) => location.search.includes(part))", arg=list(parts))


def choose(page: Page, box: str, option: str) -> None:
    page.locator(f"{box} input").first.click()
    page.get_by_role("option", name=option, exact=True).click()


def test_back_and_forward_go_through_tabs_pools_and_choices(open_page) -> None:
    page, fetched = drawn(open_page()), list[str]()
    page.on("request", lambda request: fetched.append(request.url))
    page.locator("#ms-pool label", has_text=POOLS["osrm"].title).click()
    address(page, "pool=osrm")
    page.get_by_role("tab", name="Export").click()
    address(page, "tab=export", "pool=osrm")
    page.locator("#ms-export-format label", has_text="full model").click()
    address(page, "export.format=model")
    expect(page.locator("#ms-export-rank")).to_be_hidden()
    page.go_back()
    expect(page.locator("#ms-export-rank")).to_be_visible()
    tab(page, "Export")
    page.go_back()
    tab(page, "Merge")
    page.go_back()
    expect(page.locator("#ms-pool label.selected")).to_contain_text(POOLS["papers"].title)
    expect(page.locator("#ms-recipe pre")).to_contain_text("papers")
    assert "pool" not in page.evaluate("location.search")
    for _ in range(3):
        page.go_forward()
    tab(page, "Export")
    expect(page.locator("#ms-export-format label.selected")).to_contain_text("full model")
    expect(page.locator("#ms-export-about")).to_contain_text("as the Merge tab shows it")
    page.get_by_role("tab", name="Merge").click()
    expect(page.locator("#ms-pool label.selected")).to_contain_text(POOLS["osrm"].title)
    home = page.url.partition("?")[0]
    # a figure that looks for its clip path in another address would fetch the page
    assert fetched and home not in {url.partition("?")[0] for url in fetched}


def test_a_link_opens_a_tab_with_its_choices(open_page) -> None:
    page = open_page(theme="light&utm_source=mail&tab=osrm&osrm.k=50&osrm.variant=osrm&lesson=two&step=3")
    tab(page, "OSRM")
    expect(page.locator("#ms-plan-k input[type=number]")).to_have_value("50")
    expect(page.locator("#ms-plan-variant input:checked")).to_have_value("osrm")
    expect(page.locator("#ms-spectrum figcaption")).to_contain_text("OSRM gives A")
    choose(page, "#ms-part-0", "SMS spam")
    address(page, "osrm.task=sms_spam", "osrm.k=50", "lesson=two&step=3", "__theme=light")
    expect(page.locator(":is(#ms-link-said, #ms-address) [role=alert]")).to_have_count(0)


@pytest.mark.parametrize(("name", "about"), [("Diagnose", "#ms-diag-about"), ("Export", "#ms-export-about")])
def test_a_tab_opened_before_the_links_merge_has_come_takes_it_over(open_page, name: str, about: str) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        """Keep back what the page asks for when it is opened."""
        started = route.request.frame.evaluate(
            """(id) => window.gradio_config.dependencies.find((one) => one.id === id)
                                       .targets.some(([, event]) => event === "load")""",
            route.request.post_data_json["fn_index"],
        )
        held.append(route) if started else route.continue_()

    page = open_page(
        theme="light&pool=papers&method=ties&limit=50&k=20",
        prepare=lambda page: page.route("**/gradio_api/run/**", hold),
    )
    page.get_by_role("tab", name=name).click()
    expect(page.locator(about)).to_contain_text("DO-Merging")
    assert held
    for route in held:
        route.continue_()
    expect(page.locator(about)).to_contain_text("TIES")
    tab(page, name)
    address(page, f"tab={name.lower()}")


def test_a_selection_on_diagnose_has_an_address(open_page) -> None:
    page = drawn(open_page(k=10))
    page.get_by_role("tab", name="Diagnose").click()
    expect(page.locator("[data-figure=pairs] .main-svg").first).to_be_visible()
    page.locator("[data-choice=layer]").select_option(label="3")
    page.locator("[data-choice=metric]").select_option("overlap_B")
    address(page, "tab=diagnose", "diagnose.layer=3", "diagnose.metric=overlap_B")
    there = page.evaluate("location.search.slice(1)")
    page.go_back()
    expect(page.locator("[data-choice=metric]")).to_have_value("interference")
    other = open_page(theme=f"dark&{there}")
    tab(other, "Diagnose")
    expect(other.locator("[data-choice=layer] option:checked")).to_have_text("3")
    expect(other.locator("[data-choice=metric]")).to_have_value("overlap_B")


def test_one_question_is_seen_at_a_time_and_the_others_are_not_drawn(open_page) -> None:
    page = open_page(theme="light&tab=diagnose&diagnose.question=updates&diagnose.figure=signs")
    expect(page.locator("[data-figure=signs] .main-svg").first).to_be_visible()
    for name in ("pairs", "error", "magnitude"):
        expect(page.locator(f"[data-figure={name}]")).to_be_hidden()
        expect(page.locator(f"[data-figure={name}] .main-svg")).to_have_count(0)
    expect(page.locator("#ms-bank-forest figcaption")).to_be_empty()
    page.get_by_role("radio", name="Do diagnostics predict?").click()
    expect(page.locator("#ms-bank-forest .main-svg").first).to_be_visible()
    address(page, "diagnose.question=predict")
    page.get_by_role("tab", name="OSRM").click()
    page.get_by_role("radio", name="What was found?").click()
    page.get_by_role("radio", name="Drift of A").click()
    expect(page.locator("#ms-found-drift .main-svg").first).to_be_visible()
    expect(page.locator("#ms-found-arms")).to_be_hidden()
    page.go_back()
    expect(page.locator("#ms-found-arms .main-svg").first).to_be_visible()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("pool=nope&method=ties", "pool = 'nope'"),
        ("tab=nowhere", "tab = “nowhere”"),
        ("tab=osrm&osrm.k=9999", "osrm.k = 9999"),
        ("tab=diagnose&diagnose.layer=99", "diagnose.layer = “99”"),
    ],
)
def test_what_a_link_cannot_do_is_said_at_the_top(open_page, query: str, words: str) -> None:
    page = drawn(open_page(theme=f"light&{query}"))
    alert = page.locator(":is(#ms-link-said, #ms-address) [role=alert]")
    expect(alert).to_contain_text(words)
    expect(alert).to_be_in_viewport()
