"""The same screen again: from the copied link, from the address after a reload, from a pasted recipe; the same bits
from its file.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect

from merging import Adapter, merge
from merging.shipped import POOLS, load_pool

pytestmark = pytest.mark.slow

CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}
SLOTS = ("slider_0", "slider_1", "weight_2", "weight_4", "seed", "k", "limit")
DONE = '#ms-verdict [data-state="done"]'
WEIGHTS = [1.0, 1.0, 0.35, 1.0, 0.0, 1.0, 1.0, 1.0]


def drawn(page: Page) -> Page:
    expect(page.locator("#ms-magnitude .main-svg").first).to_be_visible()
    expect(page.locator("#ms-recipe pre")).not_to_be_empty()
    return page


def number(page: Page, name: str, value: str) -> None:
    box = page.locator(f"#ms-{name} input[type=number]")
    box.fill(value)
    box.press("Tab")


def screen(page: Page) -> dict[str, object]:
    """What every control shows."""
    shown: dict[str, object] = {"method": page.get_by_role("combobox", name="Method").input_value()}
    for name in SLOTS:
        box = page.locator(f"#ms-{name} input[type=number]")
        shown[name] = box.input_value() if box.count() and box.is_visible() else None
    for name in ("pool", "choice_0", "choice_1", "orthogonalize"):
        shown[name] = page.locator(f"#ms-{name} label.selected").all_inner_texts()
    return shown


def recipe(page: Page) -> str:
    return page.locator("#ms-recipe pre").inner_text()


def copied(page: Page, button: str) -> str:
    page.get_by_role("button", name=button, exact=True).click()
    expect(page.locator("#ms-recipe [role=status]")).to_contain_text("opied.")
    return page.evaluate("navigator.clipboard.readText()")


def ties(page: Page) -> Page:
    """Choose another pool, TIES, a density that is no step of its slider, and two weights."""
    drawn(page)
    page.locator("#ms-pool label", has_text=POOLS["osrm"].title).click()
    page.get_by_role("combobox", name="Method").click()
    page.get_by_role("option", name="TIES", exact=True).click()
    expect(page.locator("#ms-recipe pre")).to_contain_text("method: ties")
    number(page, "slider_0", "0.85")
    number(page, "slider_1", "0.123")
    number(page, "weight_2", "0.35")
    number(page, "weight_4", "0")
    number(page, "limit", "50")
    page.locator("#ms-choice_0 label", has_text="model").click()
    expect(page.locator("#ms-recipe pre")).to_contain_text(
        re.compile(r"scaling: 0\.85\s+density: 0\.123\s+trim: model")
    )
    expect(page.locator("#ms-recipe pre")).to_contain_text("weight: 0.35")
    return page


def test_link_address_and_recipe_give_the_same_screen_and_the_command_line_the_same_bits(
    open_page, app_url: str, tmp_path: Path
) -> None:
    page = ties(open_page(**CLIPBOARD))
    wanted, text, link = screen(page), recipe(page), copied(page, "Copy link")
    assert link.startswith(f"{app_url}?pool=osrm&method=ties&scaling=0.85&density=0.123&trim=model&")
    query = urlsplit(link).query
    page.wait_for_function("query => location.search === `?__theme=light&${query}`", arg=query)
    fresh = drawn(open_page(theme=f"light&{query}"))
    assert (screen(fresh), recipe(fresh)) == (wanted, text)
    expect(fresh.locator("#ms-link-said [role=alert]")).to_have_count(0)
    # the first page may have measured it by then
    expect(fresh.locator(DONE)).to_contain_text(re.compile("up to 50 rows|50 test rows a task"), timeout=120_000)

    assert copied(page, "Copy") == text
    other = drawn(open_page())
    other.get_by_role("button", name="Paste a recipe").click()
    other.get_by_label("Recipe as YAML").and_(other.locator("textarea")).fill(text)
    other.get_by_role("button", name="Apply").click()
    expect(other.locator("#ms-paste-said [role=status]")).to_contain_text("TIES")
    expect(other.locator("#ms-recipe pre")).to_have_text(text)
    assert screen(other) == wanted | {"limit": "200"}

    (tmp_path / "recipe.yaml").write_text(text)
    command = [sys.executable, "-m", "merging.cli", "merge", "recipe.yaml", "-o", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    merged = merge(
        load_pool("osrm"), "ties", weights=WEIGHTS, scaling=0.85, density=0.123, trim="model", election="unweighted"
    )
    one, same = Adapter.load(tmp_path / "out"), merged.to_adapter(rank=384)
    for module in merged.modules:
        assert torch.equal(one.deltas[module].A, same.deltas[module].A)
        assert torch.equal(one.deltas[module].B, same.deltas[module].B)


def test_a_broken_paste_is_an_alert_beside_the_box_and_changes_nothing(open_page) -> None:
    page = drawn(open_page())
    before, text = screen(page), recipe(page)
    page.get_by_role("button", name="Paste a recipe").click()
    page.get_by_label("Recipe as YAML").and_(page.locator("textarea")).fill("adapters: [")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#ms-paste-said [role=alert]")).to_contain_text("not valid YAML")
    assert (screen(page), recipe(page)) == (before, text)


def test_a_bad_link_says_so_and_opens_as_usual(open_page) -> None:
    usual = drawn(open_page())
    page = drawn(open_page(theme="light&pool=default&method=ties&density=3"))
    expect(page.locator("#ms-link-said [role=alert]")).to_contain_text("density = '3'")
    assert (screen(page), recipe(page)) == (screen(usual), recipe(usual))


def test_an_untouched_page_keeps_its_short_address(open_page) -> None:
    page = drawn(open_page())
    page.wait_for_timeout(1000)  # longer than the pause before the address follows
    assert urlsplit(page.url).query == "__theme=light"
    page.get_by_role("slider", name="Scaling λ").focus()
    page.keyboard.press("End")
    page.wait_for_function("location.search.includes('scaling=2&')")
    assert parse_qs(urlsplit(page.url).query)["__theme"] == ["light"]


def test_in_a_space_the_link_leads_to_the_outer_page(open_page) -> None:
    page = drawn(open_page(**CLIPBOARD))
    outer = "https://huggingface.co/spaces/someone/mergescope"
    page.evaluate("outer => document.querySelector('#ms-recipe section').dataset.outer = outer", outer)
    assert copied(page, "Copy link").startswith(f"{outer}?pool=papers&method=")


def test_python_and_yaml_can_be_read_copied_and_saved(open_page) -> None:
    page = drawn(open_page(**CLIPBOARD))
    page.get_by_role("button", name="Python", exact=True).click()
    expect(page.get_by_role("button", name="Python", exact=True)).to_have_attribute("aria-pressed", "true")
    program = recipe(page)
    assert 'load_pool("papers")' in program
    assert copied(page, "Copy") == program
    for form, name in (("Python", "merge.py"), ("YAML", "recipe.yaml")):
        page.get_by_role("button", name=form, exact=True).click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download", exact=True).click()
        assert download.value.suggested_filename == name
        assert download.value.path().read_text() == recipe(page)
