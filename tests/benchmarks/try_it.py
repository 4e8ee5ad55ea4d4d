"""From a keystroke, and from a move of λ, to new bars on the Try it panel: `python tests/benchmarks/try_it.py`.

Starts the app on its opening pool (all-MiniLM, 8 tasks, base, adapters, merge and a pinned merge), writes texts and
moves λ in Chromium and prints, as a Markdown table, the milliseconds from the input event until the frame that shows
the new bars: median and 95th percentile. Nothing is asserted; the goal is 150 ms on a quiet machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diagnose_slider import main

GOAL = 150.0
MEASURE = """async ([selector, values, pause]) => {
  const input = document.querySelector(selector);
  const set = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(input), "value").set;
  const bars = document.querySelector("#ms-try-bars .ms-filled");
  const frame = () => new Promise(requestAnimationFrame);
  const found = [];
  for (const value of values) {
    await new Promise((done) => setTimeout(done, pause)); // the slower figures of the last one are drawn by then
    const drawn = new Promise((done) => {
      const seen = new MutationObserver(() => { seen.disconnect(); done(); });
      seen.observe(bars, { childList: true });
    });
    const began = performance.now();
    set.call(input, value);
    input.dispatchEvent(new Event("input", { bubbles: true }));
    await drawn;
    await frame();
    found.push(performance.now() - began);
  }
  return found;
}"""
WORDS = ("who", "was", "first", "at", "the", "north", "pole", "and", "came", "back", "to", "tell", "of", "it")


def measured(page: Any, moves: int, pause: int) -> Iterator[tuple[str, list[float]]]:
    """Write one word more each time, then move λ; the first answer, which loads what is needed, does not count."""
    page.get_by_role("tab", name="Try it").click()
    box = "#ms-try-text textarea"
    page.locator(box).fill("Hello")
    page.wait_for_selector("#ms-try-bars table")
    page.wait_for_function("document.querySelector('#ms-try-blame .ms-plot')?.data?.length > 0")
    texts = [" ".join(WORDS[: 3 + move % (len(WORDS) - 3)]) + f" {move}" for move in range(moves)]
    yield "a keystroke", page.evaluate(MEASURE, [box, texts, pause])
    scalings = [f"{0.05 * ((move * 7) % 39 + 1):.2f}" for move in range(moves)]
    yield "a move of λ", page.evaluate(MEASURE, ["#ms-try-scaling input[type=range]", scalings, pause])


if __name__ == "__main__":
    main(__doc__, "what", measured, GOAL, 3000)
