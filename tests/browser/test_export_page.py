"""The Export tab: what 4 and 8 bits leave of the merge is measured where a full model is chosen."""

from __future__ import annotations

import zipfile

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect


def test_the_full_model_says_what_quantising_it_would_leave(open_page) -> None:
    page = open_page(rows=50)
    page.get_by_role("tab", name="Export").click()
    expect(page.locator("#ms-export-about")).to_contain_text("as the Merge tab shows it")
    expect(page.locator("#ms-bits")).to_be_hidden()
    page.get_by_role("radio", name="full model (transformers)").check()
    page.locator("#ms-bits-measure").click()
    expect(page.locator("#ms-bits-note li")).to_have_count(2, timeout=120_000)
    expect(page.locator("#ms-bits-figure .ms-plot .point").first).to_be_visible()
    expect(page.locator("#ms-bits-figure figcaption")).to_contain_text("One point per module")
    page.get_by_role("radio", name="LoRA adapter (PEFT)").check()
    expect(page.locator("#ms-bits")).to_be_hidden()


def test_several_heads_go_into_one_file(open_page, tmp_path) -> None:
    page = open_page(rows=50)
    page.get_by_role("tab", name="Export").click()
    expect(page.locator("#ms-export-about")).to_contain_text("as the Merge tab shows it")
    page.locator("#ms-export-head input").click()
    for _ in range(2):
        page.get_by_role("option").and_(page.locator("[aria-selected='false']")).first.click()
    page.keyboard.press("Escape")
    page.locator("#ms-export-write").click()
    expect(page.locator("#ms-export-note")).to_contain_text("MB, with model card", timeout=120_000)
    with page.expect_download() as download:
        page.locator("#ms-export-download").click()
    download.value.save_as(tmp_path / "merge.zip")
    with zipfile.ZipFile(tmp_path / "merge.zip") as packed:
        assert sum("/heads/" in name for name in packed.namelist()) == 2
