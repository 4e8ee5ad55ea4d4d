"""What tests of several pages do."""

from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Locator, Page


def choose_files(page: Page, button: Locator, files: Path | Sequence[Path]) -> None:
    """Give files to a button that opens the system's file dialogue."""
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(files)
