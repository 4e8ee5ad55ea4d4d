"""From a slider's move to the redrawn figures of the Diagnose panel: `python tests/benchmarks/diagnose_slider.py`.

Starts the app, moves λ, a weight and γ in Chromium and prints, as a Markdown table, the milliseconds from the input
event until Plotly has finished the last figure that changes: median and 95th percentile. Nothing is asserted; the goal
is 100 ms.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

Found = tuple[str, list[float]]
ROOT = Path(__file__).parents[2]
GOAL = 100.0
SLIDERS = {"scaling": "scaling λ", "weight_1": "a weight", "decouple": "magnitude decoupling γ"}
MEASURE = """async ([name, moves, pause]) => {
  const slider = document.querySelector(`#ms-diag-at-${name} input[type=range]`);
  const frame = () => new Promise(requestAnimationFrame);
  let finished = 0;
  for (const plot of document.querySelectorAll("#ms-diag .ms-plot")) {
    if (plot.on && !plot.measured) {
      plot.measured = true;
      plot.on("plotly_afterplot", () => { window.plotted = performance.now(); });
    }
  }
  const found = [];
  for (let i = 0; i < moves; i += 1) {
    // what the server sends after the last move has been drawn too
    await new Promise((done) => setTimeout(done, pause));
    const [least, most] = [Number(slider.min), Number(slider.max)];
    slider.value = least + ((i * 7) % 19 + 1) / 20 * (most - least);
    const drawn = new Promise((done) =>
      document.addEventListener("ms-drawn", () => done(performance.now()), { capture: true, once: true }));
    const began = performance.now();
    window.plotted = began;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    finished = await drawn;
    await frame(); // what Plotly puts off it does before the next frame
    await frame();
    found.push(Math.max(finished, window.plotted) - began);
  }
  return found;
}"""


@contextmanager
def app() -> Iterator[str]:
    """Serve the app on a free port until it is no longer needed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
    }
    server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    try:
        while server.poll() is None:
            try:
                with urlopen(url, timeout=5):
                    break
            except (URLError, OSError):
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(20)


def measured(page: Any, moves: int, pause: int) -> Iterator[tuple[str, list[float]]]:
    """Move one slider after the other; the figures on data are drawn by then."""
    page.get_by_role("tab", name="Diagnose").click()
    page.wait_for_function("document.querySelector('#ms-diag [data-figure=error] .ms-plot')?.data?.[0].x[0] > 0")
    # an evaluation that is still running would be measured with it
    page.wait_for_function("""document.querySelector('#ms-verdict [data-state="done"]') !== null""")
    for name, title in SLIDERS.items():
        yield title, page.evaluate(MEASURE, [name, moves, pause])


def main(doc: str, what: str, measure: Callable[[Any, int, int], Iterator[Found]], goal: float, pause: int) -> None:
    """Measure in a browser and print a table; ``measure(page, moves, pause)`` yields what was moved and how long each
    move took.
    """
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--pause", type=int, default=pause, help="milliseconds between two moves")
    parser.add_argument("--url", help="an app that is already running")
    options = parser.parse_args()
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with (
        app() if options.url is None else contextmanager(lambda: iter([options.url]))() as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1360, "height": 960})
        page.set_default_timeout(300_000)
        page.goto(url)
        print(f"| {what} | median ms | 95 % ms | within {goal:.0f} ms |\n|---|---|---|---|")
        for title, found in measure(page, options.moves, options.pause):
            most, good = statistics.quantiles(found, n=20)[-1], sum(one <= goal for one in found)
            print(f"| {title} | {statistics.median(found):.0f} | {most:.0f} | {good} of {len(found)} |")
        browser.close()


if __name__ == "__main__":
    main(__doc__, "slider", measured, GOAL, 1500)
