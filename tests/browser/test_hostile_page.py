"""Names, labels, texts, links and errors that hold HTML are text on the page: nothing of them runs."""

import json
from pathlib import Path

import pytest

pytest.importorskip("playwright")
from pages import choose_files
from playwright.sync_api import expect
from test_adapters_page import zipped

pytestmark = pytest.mark.slow

HTML = "<img src=x onerror=window.hit=1>"
WHOLE = ("adapter_config.json", "adapter_model.safetensors", "head.safetensors", "mergescope.json")


def test_no_html_of_a_stranger_runs(open_page, app_url: str, tmp_path: Path) -> None:
    page = open_page()
    names = {f"{HTML}.zip": "movie", f"b {HTML}.zip": "trec"}
    adapters = [
        zipped(tmp_path / name, "papers", task, WHOLE, base_model_name_or_path=HTML) for name, task in names.items()
    ]
    table = tmp_path / f"{HTML}.csv"
    table.write_text(f"text,label,{HTML}\n" + "\n".join(f"{HTML} {n},{HTML}{n % 2},x" for n in range(40)))
    refused = tmp_path / f"{HTML}.json"
    refused.write_text(json.dumps({HTML: HTML}))
    page.get_by_role("tab", name="Adapters").click()
    page.locator("#ms-bring-files input[type=file]").set_input_files([*adapters, table, refused])
    expect(page.locator("#ms-bring-note")).to_contain_text("an adapter is its zip file")
    expect(page.locator("#ms-shelf-table")).to_contain_text("onerror")
    choose_files(page, page.locator("#ms-task-file"), table)
    expect(page.locator("#ms-task-preview")).to_contain_text("onerror")
    page.get_by_label("They are of this base").check()
    page.get_by_role("button", name="without measuring").click()
    expect(page.locator("#ms-make-note")).to_contain_text("They are a pool now")
    for tab in ("Diagnose", "Try it", "Export", "Merge"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(700)
    page.get_by_role("button", name="Paste a recipe").click()
    page.locator("#ms-paste-text textarea").fill(f"adapters: [{{path: '{HTML}'}}]\nmethod: '{HTML}'")
    page.locator("#ms-paste-apply").click()
    expect(page.locator("#ms-paste-said")).to_contain_text("onerror")
    assert page.evaluate("window.hit") is None
    other = page.context.new_page()
    other.goto(f"{app_url}?pool={HTML}&method={HTML}&try.text={HTML}&tab={HTML}&lesson={HTML}")
    expect(other.locator("#ms-link-said")).to_contain_text("onerror")
    other.wait_for_timeout(1000)
    assert other.evaluate("window.hit") is None
