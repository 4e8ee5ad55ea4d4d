"""The README's pictures, from the app itself: `python tests/pictures.py`.

The story (story.webp): eight adapters added up at λ = 1, λ taken back, DO-Merging of the same files; then each tab.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from conftest import FLAGS, chromium  # noqa: E402
from pages import served  # noqa: E402

FOLDER = ROOT / "assets" / "screenshots"
DONE = '#ms-verdict [data-state="done"]'
SUM = "pool=papers&method=task_arithmetic&scaling="
TABS = {
    "merge_light": ("", "#ms-sweep .main-svg"),
    "lessons_light": ("tab=lessons", "#ms-gallery"),
    "try_light": ("tab=try&try.task=trec&try.text=What%20is%20a%20leaky%20heart%20valve%20%3F", "#ms-try-blame .trace"),
    "diagnose_light": ("tab=diagnose", "#ms-diag [data-figure=map] .main-svg"),
    "osrm_light": ("tab=osrm", "#ms-spectrum .trace"),
    "export_light": ("tab=export", "#ms-export"),
}
"""Picture: what opens the tab, and what is drawn last."""
WIDTH = 960  # pixels of the moving picture


def opened(
    browser: Browser, url: str, query: str = "", theme: str = "light", size: tuple[int, int] = (1280, 720)
) -> Page:
    """Open a page without the hint of the first visit, and wait until it has settled."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{url}?__theme={theme}&{query}")
    page.get_by_role("button", name="Got it").click()
    expect(page.locator(DONE)).to_be_attached()
    page.wait_for_timeout(6_000)
    return page


def frame(page: Page) -> Image.Image:
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return image.resize((WIDTH, image.height * WIDTH // image.width), Image.Resampling.LANCZOS)


def story(browser: Browser, url: str) -> None:
    """Save the moving picture: the plain sum over λ, then DO-Merging."""
    page = opened(browser, url, f"{SUM}0.3&limit=50")
    frames, times = [], []

    def take(milliseconds: int) -> None:
        frames.append(frame(page))
        times.append(milliseconds)

    page.evaluate("document.querySelector('#ms-merge').scrollIntoView()")
    take(2000)
    number = page.locator("#ms-slider_0 input[type=number]")
    for scaling in ("0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"):
        number.fill(scaling)
        number.press("Enter")
        number.blur()  # its explanation would cover the controls
        expect(page.locator(DONE)).to_contain_text(f"λ {scaling} ")
        page.wait_for_timeout(500)
        take(2500 if scaling == "1" else 600)
    page.get_by_role("combobox", name="Method").click()
    page.get_by_role("option", name="DO-Merging").click()
    expect(page.locator(DONE)).to_contain_text("DO-Merging")
    page.get_by_role("combobox", name="Method").blur()
    page.wait_for_timeout(1_000)
    take(3500)
    first, *others = frames
    first.save(FOLDER / "story.webp", save_all=True, append_images=others, duration=times, loop=0, quality=60, method=6)


def main() -> None:
    """Make every picture anew."""
    expect.set_options(timeout=120_000)
    with served(Path(tempfile.mkdtemp()), "app.py") as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        story(browser, url)
        for name, (query, last) in TABS.items():
            page = opened(browser, url, query)
            expect(page.locator(last).first).to_be_visible()
            page.wait_for_timeout(1_000)
            page.screenshot(path=FOLDER / f"{name}.png")
        opened(browser, url, theme="dark").screenshot(path=FOLDER / "merge_dark.png")
        opened(browser, url, size=(390, 844)).screenshot(path=FOLDER / "merge_phone.png")
        browser.close()


if __name__ == "__main__":
    main()
