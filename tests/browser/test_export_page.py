"""The Export tab: what 4 and 8 bits leave of the merge is measured where a full model is chosen."""

from __future__ import annotations

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
