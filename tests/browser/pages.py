"""What tests of several pages do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).parents[2]
OFFLINE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SERVER_NAME": "127.0.0.1",
    "MERGESCOPE_READ_AHEAD": "false",
}
PATIENCE = 90  # seconds until the app answers, on a busy machine


@contextmanager
def served(folder: Path, *arguments: str, **variables: str) -> Iterator[str]:
    """Run `python <arguments>` as a server on a free port, with environment variables, and give its address when it
    answers.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log.txt"
    environment = os.environ | OFFLINE | {"GRADIO_SERVER_PORT": str(port)} | variables
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_for(url, server, log)
            yield url
        finally:
            server.terminate()
            server.wait(20)


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"the app ended at its start:\n{log.read_text()}")
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the app did not answer within {PATIENCE} s:\n{log.read_text()}")


def choose_files(page: Page, button: Locator, files: Path | Sequence[Path]) -> None:
    """Give files to a button that opens the system's file dialogue."""
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(files)
