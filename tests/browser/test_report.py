"""`mergescope inspect --html`: one file, drawn without a request to anywhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POOL = ROOT / "assets" / "adapters" / "papers"
TASKS = ("trec", "sms_spam", "movie")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    command = [
        sys.executable,
        "-m",
        "merging.cli",
        "inspect",
        *(str(POOL / task) for task in TASKS),
        "--html",
        str(path),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return path


def test_the_file_is_small_enough_to_send(report: Path) -> None:
    assert report.stat().st_size < 6_000_000


@pytest.mark.parametrize(("width", "scheme"), [(1360, "light"), (390, "dark")])
def test_every_figure_is_drawn_offline(browser, report: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or faults.append(request.url)
    )
    page.goto(report.as_uri())
    figures = page.locator("[data-figure]")
    assert figures.count() == 7
    for i in range(figures.count()):
        figures.nth(i).locator(".main-svg").first.wait_for()
        assert figures.nth(i).locator("figcaption").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # what the pool is known for is said in words
    assert "trained from one seed" in page.locator(".ms-words").inner_text()
    assert page.locator("main > .ms-scroll tr").count() == len(TASKS) + 1
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(18, 21, 26)") == (scheme == "dark")
    context.close()
    assert faults == []


def test_adapters_that_do_not_belong_together_get_no_report(tmp_path: Path) -> None:
    shutil.copytree(POOL / "trec", tmp_path / "other")
    for name, key in (("adapter_config.json", "base_model_name_or_path"), ("mergescope.json", "base_fingerprint")):
        path = tmp_path / "other" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: "another"}))
    command = [
        sys.executable,
        "-m",
        "merging.cli",
        "inspect",
        POOL / "movie",
        tmp_path / "other",
        "--html",
        tmp_path / "r.html",
    ]
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "different base models" in done.stderr
    assert not (tmp_path / "r.html").exists()
