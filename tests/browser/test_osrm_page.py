"""The OSRM panel in a real browser: figures answer to the plan, a set is trained, cancelled, downloaded and used as a
pool.
"""

import re
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("playwright")
from pages import choose_files
from playwright.sync_api import Page, expect
from test_adapters_page import zipped

pytestmark = pytest.mark.slow

DONE = '#ms-verdict [data-state="done"]'
ROWS = "a spoonful of sugar and {n} drops of milk,{label}"


def opened(page: Page) -> Page:
    """Go to the panel and wait until the texts are read and the figures drawn."""
    page.get_by_role("tab", name="OSRM").click()
    page.wait_for_function("document.querySelector('#ms-spectrum .ms-plot')?.data?.length > 0", timeout=150_000)
    return page


def number(page: Page, name: str, value: str) -> None:
    box = page.locator(f"#ms-plan-{name} input")
    box.fill(value)
    box.press("Tab")


def tiny(page: Page) -> Page:
    """Plan the smallest training: two tasks, one epoch, 64 rows, and nothing to read."""
    page.get_by_role("radio", name="PEFT default, own seeds").check()
    page.locator("#ms-plan-tasks").get_by_label("question type").uncheck()
    number(page, "rows", "64")
    number(page, "epochs", "1")
    expect(page.locator("#ms-spectrum figcaption")).to_contain_text("does not look at it")
    return page


def train(page: Page) -> None:
    page.get_by_role("button", name="Train", exact=True).click()


def test_the_figures_answer_to_the_plan(open_page) -> None:
    page = opened(open_page())
    rows = "document.querySelector('#ms-spectrum .ms-plot').data[1].x.length"
    assert page.evaluate(rows) == 8
    number(page, "rank", "4")
    page.wait_for_function(f"{rows} === 4")
    before = page.evaluate("document.querySelector('#ms-seen .ms-plot').data[0].x")
    page.get_by_role("slider", name="Texts per task k").focus()
    page.keyboard.press("Home")
    page.wait_for_function(
        "before => JSON.stringify(document.querySelector('#ms-seen .ms-plot').data[0].x) !== before",
        arg=page.evaluate("before => JSON.stringify(before)", before),
    )
    page.get_by_role("radio", name="OSRM, as released").check()
    expect(page.locator("#ms-plan-help")).to_contain_text("not unique")
    expect(page.locator("#ms-plan-note .ms-warning").first).to_contain_text("not unique")


def test_a_plan_that_cannot_be_is_refused_in_place(open_page) -> None:
    page = opened(open_page())
    number(page, "rank", "999")
    expect(page.get_by_role("alert").filter(has_text="rank = 999")).to_be_visible()
    number(page, "rank", "8")
    expect(page.locator("#ms-plan-note .ms-error")).to_have_count(0)
    for name in ("question type", "SMS spam"):
        page.locator("#ms-plan-tasks").get_by_label(name).uncheck()
    expect(page.get_by_role("alert").filter(has_text="at least two tasks")).to_be_visible()


def test_an_own_task_joins_the_choices_and_a_bad_file_says_why(open_page, tmp_path: Path) -> None:
    page = opened(open_page())
    bad, good = tmp_path / "bad.csv", tmp_path / "kitchen.csv"
    bad.write_text("body,label\na,b\n")
    good.write_text(
        "text,label\n" + "\n".join(ROWS.format(n=n, label="sweet" if n % 2 else "white") for n in range(60))
    )
    upload = page.locator("#ms-plan-upload")
    choose_files(page, upload, bad)
    expect(page.get_by_role("alert").filter(has_text="no column text")).to_be_visible()
    choose_files(page, upload, good)
    expect(page.locator("#ms-plan-tasks").get_by_label("kitchen")).to_be_checked()
    page.wait_for_function(
        "document.querySelector('#ms-seen .ms-plot').data[0]?.y.includes('kitchen')", timeout=120_000
    )
    page.get_by_role("tab", name="Adapters").click()
    page.locator("#ms-bring-files input[type=file]").set_input_files(
        zipped(tmp_path / "one.zip", "papers", "movie", ("adapter_config.json", "adapter_model.safetensors"))
    )
    expect(page.locator("[aria-label='Your adapters'] tbody tr")).to_have_count(1, timeout=60_000)
    page.get_by_label("Task of one").first.click()
    expect(page.get_by_role("option", name="kitchen", exact=True)).to_be_visible()


def test_a_set_is_trained_downloaded_and_merged_and_stays_over_a_switch_of_tabs(open_page) -> None:
    page = tiny(opened(open_page(rows=50)))
    train(page)
    expect(page.locator('#ms-training [data-state="done"]')).to_be_visible(timeout=150_000)
    row = page.locator('#ms-sets tr[data-state="done"]')
    expect(row).to_contain_text("PEFT default, own seeds", timeout=120_000)
    expect(row).to_contain_text(re.compile(r"0\.\d{3} ± 0\.\d{3}"))
    assert page.evaluate("document.querySelector('#ms-loss .ms-plot').data.map(line => line.x.length)") == [2, 2]

    with page.expect_download() as download:
        page.locator("#ms-sets-download").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        assert {name.split("/")[1] for name in packed.namelist()} == {"sms_spam", "movie"}
        assert sum(name.endswith("adapter_config.json") for name in packed.namelist()) == 2

    slider = page.get_by_role("slider", name="λ of the merges")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#ms-sets")).to_contain_text("λ 0.55")
    expect(row).to_contain_text(re.compile(r"± 0\.\d{3}(?! …)"), timeout=120_000)

    page.get_by_role("tab", name="Merge").click()
    page.locator("#ms-pool label", has_text="Your set 1").click()
    expect(page.locator("#ms-weight_1")).to_contain_text("movie sentiment")
    expect(page.locator("#ms-weight_2")).to_be_hidden()
    expect(page.locator(DONE)).to_contain_text("100 of 100", timeout=150_000)
    expect(page.locator('[data-value="average"]')).to_contain_text(re.compile(r"0\.\d{3}"))
    expect(page.locator("#ms-sweep figcaption")).to_contain_text("No sweep")

    page.get_by_role("tab", name="OSRM").click()
    expect(page.locator("#ms-sets")).to_contain_text("λ 0.55")
    expect(page.locator("#ms-plan-rows input")).to_have_value("64")
    expect(page.locator("#ms-loss .main-svg").first).to_be_visible()  # the question that was open stays so


def test_a_cancelled_training_says_what_it_kept(open_page) -> None:
    page = tiny(opened(open_page(rows=50)))
    number(page, "epochs", "20")
    number(page, "rows", "1000")
    train(page)
    expect(page.locator("#ms-training")).to_contain_text(re.compile(r"Step \d+ of 640"), timeout=150_000)
    page.get_by_role("button", name="Cancel training").click()
    expect(page.locator('#ms-training [data-state="stopped"]')).to_contain_text("1 of 2 adapters kept", timeout=120_000)
    expect(page.get_by_role("button", name="Cancel training")).to_be_hidden()
    expect(page.locator("#ms-sets")).to_contain_text("1 of 2, stopped")


def test_a_phone_shows_the_panel_without_scrolling_sideways(open_page) -> None:
    page = opened(open_page(width=390, height=844, has_touch=True))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = [page.locator(f"#ms-{name}").bounding_box()["y"] for name in ("plan", "training", "spectrum")]
    assert tops == sorted(tops)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_critical_or_serious(open_page, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(open_page(theme=theme))
    page.locator("#ms-spectrum summary").click()
    violations = Axe().run(page).response["violations"]
    grave = [
        f"{violation['id']}: {node['html'][:160]}"
        for violation in violations
        if violation["impact"] in {"critical", "serious"}
        for node in violation["nodes"]
    ]
    assert grave == []
