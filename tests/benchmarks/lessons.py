"""From "Next" to a lesson's step with its first picture: `python tests/benchmarks/lessons.py`.

Walks every lesson in Chromium, a moment at each step, and prints per lesson, as a Markdown table, the milliseconds
until the step has arrived and its figure is drawn (while a guess is open, which hides the results, until it has
arrived). Nothing is asserted; the goal is 1.5 s on a quiet machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diagnose_slider import main

GOAL = 1500.0
MEASURE = """async ([press, key, figure]) => {
  const frame = () => new Promise(requestAnimationFrame);
  const card = document.querySelector(".ms-lesson");
  const drawn = () => {
    if (card.dataset.arrived !== key) return false;
    const node = document.querySelector(figure);
    if (!node?.checkVisibility()) return document.body.dataset.guess !== undefined;
    return !node.querySelector(".ms-plot") || node.querySelector(".main-svg") !== null;
  };
  const began = performance.now();
  document.querySelector(press).click();
  while (!drawn()) await frame();
  return performance.now() - began;
}"""


def measured(page: Any, moves: int, pause: int) -> Iterator[tuple[str, list[float]]]:
    """Start each lesson from its card and go through it."""
    from merging.services.lessons import shipped_lessons

    page.wait_for_function("document.querySelector('#ms-recipe pre code')?.textContent")
    for lesson in shipped_lessons():
        page.get_by_role("tab", name="Lessons").click()
        start, found = f'button[data-lesson="{lesson.id}"]', []
        page.wait_for_selector(start)
        for place, step in enumerate(lesson.steps, 1):
            press = ".ms-lesson [data-do=next]" if place > 1 else start
            found.append(page.evaluate(MEASURE, [press, f"{lesson.id}/{place}", step.figure]))
            page.wait_for_timeout(pause)
        yield lesson.title, found
        page.locator(".ms-lesson [data-do=next]").click()


if __name__ == "__main__":
    main(__doc__, "lesson", measured, GOAL, 1500)
