"""The lesson's card, which floats over the tabs: its frame, and what the browser needs of every lesson.

The card itself is the browser's (assets/js/lessons.js): it shows a step, asks, highlights, notices and remembers. The
server is asked by its events only: `step` sets the merge, `leave` gives the former one back, `code` draws an address.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import orjson
import segno

from merging.errors import MergeError
from merging.services.lessons import Lesson, Step, filled
from viz.panels.kit.plot import ASSETS, LESSON_HEAD

LONGEST = 300  # characters of an address
TEMPLATE = """
<aside class="ms-lesson" aria-label="Lesson" hidden>
  <div class="ms-lesson-head" data-grip>
    <span data-place></span>
    <button type="button" data-do="code" aria-label="Show the lesson's address as a QR code" hidden>QR</button>
    <button type="button" data-do="side" aria-label="Move the card to the other side">⇄</button>
    <button type="button" data-do="fold" aria-expanded="true" aria-label="Fold the card">–</button>
    <button type="button" data-do="leave" aria-label="Leave the lesson">×</button>
  </div>
  <div class="ms-lesson-body">
    <h2 tabindex="-1" data-title></h2>
    <p data-say></p>
    <div data-guess></div>
    <div data-draw></div>
    <p class="ms-lesson-do" data-task></p>
    <div data-path></div>
    <p class="ms-lesson-happened" data-happened></p>
  </div>
  <div class="ms-lesson-foot">
    <button type="button" data-do="previous">Back</button>
    <progress aria-label="Steps of this lesson"></progress>
    <button type="button" data-do="next">Next</button>
  </div>
  <p class="ms-lesson-said" role="status" aria-live="polite"></p>
</aside>
"""


def card(lessons: Sequence[Lesson], tables: Path) -> gr.HTML:
    """Make the card, hidden until a lesson begins; its events are `step`, `leave` and `code`."""
    return gr.HTML(
        packed(lessons, tables),
        html_template=TEMPLATE,
        js_on_load=(ASSETS / "js" / "lessons.js").read_text(encoding="utf-8"),
        head=LESSON_HEAD,
        elem_id="ms-lesson-card",
        apply_default_css=False,
        container=False,
        padding=False,
    )


def packed(lessons: Sequence[Lesson], tables: Path) -> str:
    """Pack the lessons for the browser, with the measured numbers written into their texts."""
    return orjson.dumps([_lesson(lesson, lesson.measured(tables)) for lesson in lessons]).decode()


def _lesson(lesson: Lesson, numbers: Mapping[str, float]) -> dict[str, Any]:
    steps = [_step(step, numbers) for step in lesson.steps]
    return {"id": lesson.id, "title": lesson.title, "about": lesson.about, "steps": steps}


def _step(step: Step, numbers: Mapping[str, float]) -> dict[str, Any]:
    kept = step.model_dump(exclude_none=True, exclude={"link", "claim", "guess"})
    kept |= {name: filled(kept[name], numbers) for name in ("say", "happened")}
    if step.guess:
        guess = step.guess.model_dump(exclude_none=True)
        if step.guess.number:
            guess["truth"] = round(100 * numbers[step.guess.number], 1)
        kept["guess"] = guess
    return kept


def code_html(address: str) -> str:
    """Write an address as a QR code, closed by the pick of its button.

    Raises
    ------
    MergeError
        For what is no address of a page, or too long for a code that can be read from afar.
    """
    if not address.startswith(("http://", "https://")) or len(address) > LONGEST:
        raise MergeError(f"A QR code here is a page's address of at most {LONGEST} characters.")
    drawing = segno.make(address, micro=False).svg_inline(
        scale=1, border=2, omitsize=True, svgclass="ms-qr", lineclass=None
    )
    return (
        f'<div class="ms-code" role="dialog" aria-label="The lesson\'s address">{drawing}<p>{escape(address)}</p>'
        '<button type="button" data-pick="close" data-to=".ms-lesson [data-title]">Close</button></div>'
    )


def list_html(lessons: Sequence[Lesson]) -> str:
    """Write the list of lessons; assets/js/lessons.js answers its buttons and fills in the progress."""
    items = "".join(_item(place, lesson) for place, lesson in enumerate(lessons, start=1))
    return (
        "<h2>Lessons</h2><p>Each takes five to eight minutes and works on the real tabs. A card asks, "
        "shows where to touch, and explains what happened. Your own settings come back when you leave.</p>"
        f'<ol class="ms-lesson-list">{items}</ol>'
    )


def _item(place: int, lesson: Lesson) -> str:
    title = escape(lesson.title)
    return (
        f'<li class="ms-card" data-lesson-item="{lesson.id}"><h3>{place}. {title}</h3><p>{escape(lesson.about)}</p>'
        f'<p class="ms-muted">{len(lesson.steps)} steps, about {round(lesson.minutes)} minutes. '
        f'<span data-progress></span></p><div class="ms-lesson-buttons">'
        f'<button type="button" data-lesson="{lesson.id}" aria-label="Start the lesson {title}">Start</button>'
        f'<button type="button" data-handout="{lesson.id}" aria-label="Hand-out of {title}, to print">Hand-out</button>'
        f'<a href="?present=1&amp;lesson={lesson.id}" aria-label="Present {title}">Present</a>'
        f'<a href="?quiz=1&amp;lesson={lesson.id}" aria-label="{title} as a quiz">Quiz</a></div></li>'
    )
