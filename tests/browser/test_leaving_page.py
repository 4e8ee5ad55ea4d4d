"""What a visitor brings is deleted once the visitor is gone: files, texts, pools."""

import time
from pathlib import Path

import pytest

pytest.importorskip("playwright")
from pages import served
from playwright.sync_api import expect
from test_adapters_page import zipped

pytestmark = pytest.mark.slow

BARE = ("adapter_config.json", "adapter_model.safetensors")


def test_a_visitor_who_leaves_leaves_nothing(browser, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    adapters = [zipped(tmp_path / f"{task}.zip", "papers", task, BARE) for task in ("movie", "trec")]

    def folders() -> list[Path]:
        return sorted(temporary.glob("mergescope-*"))

    # Gradio keeps a closed session for an hour, in its own tests for a second
    with served(tmp_path, "app.py", TMPDIR=str(temporary), GRADIO_IS_E2E_TEST="1") as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.get_by_role("tab", name="Adapters").click()
        page.locator("#ms-bring-files input[type=file]").set_input_files(adapters)
        expect(page.locator("[aria-label='Your adapters'] tbody tr")).to_have_count(2)
        page.get_by_role("button", name="without measuring").click()
        expect(page.locator("#ms-make-note")).to_contain_text("They are a pool now", timeout=100_000)
        assert folders()
        context.close()
        deadline = time.monotonic() + 60
        while folders() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert folders() == []
