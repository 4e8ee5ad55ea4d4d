"""Bring your own, by clicking only: adapters and a task in, compatibility, a TIES merge with its accuracy, a zip out
that PEFT loads.
"""

import json
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("playwright")
import torch
from pages import choose_files
from peft import PeftModel
from playwright.sync_api import Page, expect

from merging import Adapter
from merging.adapters.fetch import MAX_TOTAL_BYTES
from merging.io.assets import assets_folder
from merging.models.load import load_base

pytestmark = pytest.mark.slow

DONE = '#ms-verdict [data-state="done"]'
KITCHEN = [
    ("the soup is far too salty", "bad"),
    ("a lovely bowl of warm bread", "good"),
    ("burnt again and cold", "bad"),
    ("sweet and fresh", "good"),
]


def zipped(target: Path, pool: str, task: str, members: tuple[str, ...], **changes: object) -> Path:
    """Pack files of a shipped adapter as somebody else would: in a folder, with a file that nobody asked for."""
    source = assets_folder() / "adapters" / pool / task
    with zipfile.ZipFile(target, "w") as packed:
        for name in members:
            data = (source / name).read_bytes()
            if name == "adapter_config.json":
                data = json.dumps(json.loads(data) | changes).encode()
            packed.writestr(f"some folder/{name}", data)
        packed.writestr("some folder/notes.txt", "hello")
    return target


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("brought")
    bare = ("adapter_config.json", "adapter_model.safetensors")
    kitchen = folder / "kitchen.csv"
    kitchen.write_text("text,label\n" + "\n".join(f"{text} {n},{label}" for n in range(40) for text, label in KITCHEN))
    odd = folder / "odd.csv"
    odd.write_text(
        "nr;gesagt;Ton\n" + "\n".join(f"{n};{text} {n};{label}" for n in range(40) for text, label in KITCHEN)
    )
    evil = folder / "evil.zip"
    with zipfile.ZipFile(evil, "w") as packed:
        packed.writestr("../adapter_config.json", "{}")
    return {
        "headed": zipped(folder / "films.zip", "osrm", "movie", (*bare, "head.safetensors", "mergescope.json")),
        "headless": zipped(folder / "cook.zip", "default", "newspaper", bare),
        "dora": zipped(folder / "dora.zip", "default", "trec", bare, use_dora=True),
        "evil": evil,
        "task": kitchen,
        "odd": odd,
    }


def shelf(page: Page) -> Page:
    page.get_by_role("tab", name="Adapters").click()
    expect(page.locator("#ms-shelf-table")).to_contain_text("Nothing here yet")
    return page


def look_at(page: Page, file: Path) -> None:
    choose_files(page, page.locator("#ms-task-file"), file)
    expect(page.locator("#ms-task-preview")).to_contain_text("160 rows")


def choose(page: Page, dropdown: str, option: str) -> None:
    page.get_by_role("listbox", name=dropdown).or_(page.get_by_label(dropdown)).first.click()
    page.locator(f'[role=option][aria-label="{option}"]:visible').click()
    expect(page.locator("[role=option]:visible")).to_have_count(0)


def test_brought_adapters_are_merged_measured_and_taken_home(open_page, files: dict[str, Path], tmp_path: Path) -> None:
    page = shelf(open_page(rows=50))
    page.locator("#ms-bring-files input[type=file]").set_input_files([files["headed"], files["headless"]])
    rows = page.locator("[aria-label='Your adapters'] tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("films")
    expect(rows.nth(0)).to_contain_text("yes")
    expect(rows.nth(1)).to_contain_text("no head")
    page.get_by_text("What a merge would do: 12 modules merged").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as CSV").click()
    assert download.value.suggested_filename == "mergescope_dry_run.csv"
    look_at(page, files["task"])
    page.get_by_role("button", name="Use this task").click()
    expect(page.locator("#ms-task-note")).to_contain_text("labels bad, good")
    choose(page, "Task of cook", "kitchen")
    page.get_by_role("button", name="Measure each alone").click()
    expect(page.locator("#ms-make-note")).to_contain_text("They are a pool now", timeout=200_000)

    page.get_by_role("tab", name="Merge").click()
    page.get_by_label("Method", exact=True).click()
    page.get_by_role("option", name="TIES", exact=True).click()
    expect(page.locator("#ms-recipe")).to_contain_text("method: ties")
    expect(page.locator("#ms-accuracy .ms-plot")).to_contain_text("kitchen")
    expect(page.locator(DONE)).to_be_visible(timeout=150_000)

    page.get_by_role("tab", name="Export").click()
    expect(page.locator("#ms-export-about")).to_contain_text("TIES")
    page.get_by_role("button", name="Write it").click()
    expect(page.locator("#ms-export-note")).to_contain_text("with model card", timeout=100_000)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download zip").click()
    archive = tmp_path / "merged.zip"
    download.value.save_as(archive)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "out")
    [folder] = (tmp_path / "out").iterdir()
    assert {"adapter_config.json", "adapter_model.safetensors", "recipe.yaml", "README.md"} <= {
        path.name for path in folder.iterdir()
    }

    model, tokenizer = load_base("minilm")
    batch = tokenizer(["a lovely bowl of soup", "cold"], padding=True, return_tensors="pt")
    with torch.no_grad():
        before = model(**batch).last_hidden_state
        after = PeftModel.from_pretrained(model, folder)(**batch).last_hidden_state
    assert float((after - before).norm()) > 1e-3
    assert len(Adapter.load(folder).deltas) == 12


def test_columns_with_odd_names_are_told_by_hand_and_the_choices_of_tasks_stay(
    open_page, files: dict[str, Path]
) -> None:
    page = shelf(open_page(rows=50))
    page.locator("#ms-bring-files input[type=file]").set_input_files([files["headless"]])
    choose(page, "Task of cook", "SMS spam")
    look_at(page, files["odd"])
    preview = page.locator("#ms-task-preview")
    expect(preview.get_by_role("alert")).to_contain_text("no column text and no column label")
    expect(preview).to_contain_text("semicolons")
    choose(page, "Text column", "gesagt")
    choose(page, "Label column", "Ton")
    expect(preview).to_contain_text("Labels: bad 80, good 80.")
    page.get_by_label("Rows at most").fill("50")
    page.get_by_label("Name").fill("a/b")
    page.get_by_role("button", name="Use this task").click()
    note = page.locator("#ms-task-note")
    expect(note.get_by_role("alert")).to_contain_text("cannot be a task’s name")
    page.get_by_label("Name").fill("Küche")
    page.get_by_role("button", name="Use this task").click()
    expect(note).to_contain_text("Task Küche: 30 train, 10 validation, 10 test rows; labels bad, good.")
    expect(page.get_by_label("Task of cook").first).to_have_value("SMS spam")
    choose(page, "Task of cook", "Küche")
    page.get_by_role("tab", name="OSRM").click()
    expect(page.locator("#ms-plan-tasks").get_by_label("Küche")).to_be_visible()
    page.get_by_role("tab", name="Adapters").click()
    expect(page.get_by_label("Task of cook").first).to_have_value("Küche")

    page.get_by_role("button", name="or a data set of the hub").click()
    page.get_by_label("Data set").fill("../etc")
    page.get_by_role("button", name="Look", exact=True).click()
    expect(note.get_by_role("alert")).to_contain_text("has the form user/name or name")
    expect(page.get_by_role("button", name="Use this task")).to_be_hidden()


def test_a_file_that_is_too_large_is_refused_before_it_is_sent_and_the_page_goes_on(
    open_page, files: dict[str, Path], tmp_path
) -> None:
    large = [tmp_path / "large.zip", tmp_path / "large.csv"]
    for path in large:
        with path.open("wb") as sparse:
            sparse.truncate(MAX_TOTAL_BYTES + 1)
    page = shelf(open_page(rows=50))
    page.locator("#ms-bring-files input[type=file]").set_input_files(large[0])
    said = page.get_by_text("exceed the maximum allowed size of 1.0 Gb")
    expect(said.filter(has_text="large.zip")).to_be_visible()
    choose_files(page, page.locator("#ms-task-file"), large[1])
    expect(said.filter(has_text="large.csv")).to_be_visible()
    look_at(page, files["task"])


def test_what_does_not_fit_stays_greyed_with_its_reason(open_page, files: dict[str, Path]) -> None:
    page = shelf(open_page(rows=50))
    page.locator("#ms-bring-files input[type=file]").set_input_files([files["headed"], files["dora"], files["evil"]])
    rows = page.locator("[aria-label='Your adapters'] tbody tr")
    expect(rows).to_have_count(3)
    expect(page.locator("#ms-shelf-table .ms-grey")).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("DoRA")
    page.get_by_role("button", name="Measure each alone").click()
    expect(page.locator("#ms-make-note")).to_contain_text("two adapters or more")
    page.locator("#ms-bring-hub input, #ms-bring-hub textarea").first.fill("no such thing")
    page.get_by_role("button", name="Add from the hub").click()
    expect(page.locator("#ms-bring-note")).to_contain_text("no hub id")
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("#ms-shelf-table")).to_contain_text("Nothing here yet")


@pytest.mark.parametrize(("theme", "width"), [("light", 1360), ("dark", 390)])
def test_axe_finds_nothing_serious_here_and_nothing_scrolls_sideways(
    open_page, files: dict[str, Path], theme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(width, 844, theme, rows=50, reduced_motion="reduce")
    page.get_by_role("tab", name="Adapters").click()
    page.locator("#ms-bring-files input[type=file]").set_input_files([files["headed"], files["dora"]])
    expect(page.locator("[aria-label='Your adapters'] tbody tr")).to_have_count(2)
    look_at(page, files["odd"])
    for tab in ("Adapters", "Export"):
        page.get_by_role("tab", name=tab).click()
        expect(page.locator("#ms-tabs > [role=tabpanel]:visible")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page, context="#ms-tabs")
        assert [v["id"] for v in found.response["violations"] if v["impact"] in ("critical", "serious")] == []


def test_all_is_dropped_at_once_and_one_click_opens_the_merge(
    open_page, files: dict[str, Path], tmp_path: Path
) -> None:
    bare = ("adapter_config.json", "adapter_model.safetensors")
    films, stars = tmp_path / "films_test.csv", tmp_path / "stars.csv"
    for table in (films, stars):
        table.write_text(files["task"].read_text().replace("good", "positive").replace("bad", "negative"))
    broken = tmp_path / "broken.csv"
    broken.write_text("body,points\na,1\nb,2\n")
    page = shelf(open_page(rows=50))
    zips = [files["headed"], zipped(tmp_path / "STARS.zip", "default", "newspaper", bare)]
    page.locator("#ms-bring-files input[type=file]").set_input_files([*zips, films, stars, broken])
    note = page.locator("#ms-bring-note")
    expect(note).to_contain_text("films_test: 96 train, 32 validation, 32 test rows; labels negative, positive.")
    expect(note.get_by_role("alert")).to_contain_text("broken.csv")  # what is wrong stays where it was dropped
    expect(page.get_by_label("Task of films")).to_have_value("films_test")
    expect(page.get_by_label("Task of STARS")).to_have_value("stars")
    page.get_by_role("button", name="Measure each alone").click()
    expect(page.get_by_role("tab", name="Merge")).to_have_attribute("aria-selected", "true", timeout=200_000)
    expect(page.locator("#ms-accuracy .ms-plot")).to_contain_text("stars")
    expect(page.locator(DONE)).to_be_visible(timeout=150_000)


def test_a_base_that_one_vouches_for_is_taken(open_page, tmp_path: Path) -> None:
    bare = ("adapter_config.json", "adapter_model.safetensors")
    foreign = {"base_model_name_or_path": "somebody/another-minilm"}
    zips = [zipped(tmp_path / f"{task}.zip", "default", task, bare, **foreign) for task in ("movie", "trec")]
    page = shelf(open_page(rows=50))
    page.locator("#ms-bring-files input[type=file]").set_input_files(zips)
    expect(page.locator("#ms-shelf-table .ms-grey")).to_have_count(2)
    expect(page.locator("#ms-shelf-table")).to_contain_text("say that it is of this one all the same")
    page.get_by_label("They are of this base").check()
    expect(page.locator("#ms-shelf-table .ms-grey")).to_have_count(0)
